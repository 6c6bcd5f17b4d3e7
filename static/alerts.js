// Alerts: destinations and rules are changed in dialogs, and the page comes anew with what the server made of it; deliveries go on by themselves.

import { $, $$, announce, ask, badge, busy, complain, duration, guard, keepAsking, once, patch, showBadge, showProblem, showTime, toast, used } from "./shell.js";

const api = "/system/alerts";
const SAID = "opsplane-said"; // what a change has to tell, kept over the reload that shows it

/** Shows the page as it is now, tells what was done, and goes back to where that was. */
function reload(title, text, focus) {
  sessionStorage.setItem(SAID, JSON.stringify({ title, text, focus }));
  // An address that names a section would scroll there again.
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  location.reload();
}

function tellAfterReload() {
  const said = JSON.parse(sessionStorage.getItem(SAID));
  if (!said) return;
  sessionStorage.removeItem(SAID);
  toast(said.title, said.text);
  (document.getElementById(said.focus) ?? $("h1")).focus({ preventScroll: true });
}

// ---- Dialogs: one for a destination, one for a rule, each to add and to edit, and one that deletes

const state = (form) => JSON.stringify([...new FormData(form)]);

/** A form in a dialog. `opened` fills it in, `read` returns what to send or nothing, `done` shows the answer. */
class Sheet {
  constructor(id, { fill, read, send, done, words }) {
    Object.assign(this, { fill, read, send, done });
    this.dialog = $(`dialog#${id}`);
    this.form = $("form", this.dialog);
    this.go = $("[type=submit]", this.dialog);
    this.problems = $("[data-problem]", this.dialog);
    guard(this.dialog, () => state(this.form) !== this.before);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit(words);
    });
  }

  /** `one` is what is edited; nothing, if something is added. */
  open(one, ...more) {
    this.one = one;
    this.form.reset();
    this.problems.replaceChildren();
    for (const error of $$(".field-error", this.form)) error.hidden = true;
    for (const field of $$("[aria-invalid]", this.form)) field.ariaInvalid = null;
    this.fill(this.form, one, ...more);
    this.before = state(this.form);
    this.dialog.showModal();
  }

  submit(words) {
    if (busy(this.go)) return;
    this.problems.replaceChildren();
    const body = this.read(this.form, this.one);
    if (!body) return;
    once(this.go, words, () => this.send(body, this.one)).then(
      (answer) => {
        used();
        this.done(answer, this.one);
      },
      (problem) => showProblem(this.problems, problem),
    );
  }
}

/** Says what is wrong with the fields, and goes to the first of them; true if nothing is. */
function right(...wrong) {
  for (const [field, text] of wrong) complain(field, text);
  const [first] = wrong.find(([, text]) => text) ?? [];
  first?.focus();
  return !first;
}

const save = (what) => (body, one) => (one ? ask(`${api}/${what}s/${one.id}`, { method: "PATCH", body }) : ask(`${api}/${what}s`, { method: "POST", body }));
const lines = (text) => text.split(/[\n,;]+/).map((one) => one.trim()).filter(Boolean);

const destination = new Sheet("destination", {
  words: "Saving…",

  fill(form, one) {
    $("h2", form).textContent = one ? `Edit ${one.name}` : "Add destination";
    $("[type=submit]", form).textContent = one ? "Save" : "Add destination";
    $("[data-kept]", form).hidden = !one;
    form.name.value = one?.name ?? "";
    if (one) form.kind.value = one.kind;
    $("[data-kept] strong", form).textContent = one?.address ?? "";
  },

  read(form, one) {
    const kind = form.kind.value;
    const mail = kind === "email";
    const [url, secret, recipients] = [form.url.value.trim(), form.secret.value.trim(), lines(form.recipients.value)];
    const given = mail ? recipients.length : url;
    const keeps = one && !given && one.kind === kind && !(kind === "webhook" && secret);
    const missing = !given && !keeps;
    if (!right([form.name, form.name.value.trim() ? "" : "Give it a name."], [form.url, missing && !mail ? "Enter the address." : ""], [form.recipients, missing && mail ? "Enter at least one address." : ""])) return;
    const target = mail ? { kind, recipients } : { kind, url, ...(kind === "webhook" && secret && { secret }) };
    return { name: form.name.value.trim(), ...(!keeps && { target }) };
  },

  send: save("destination"),

  done(answer, one) {
    destination.dialog.close();
    const told = [one ? "Saved" : "Destination added", one ? answer.name : `Send a test to ${answer.name} to see whether it arrives.`, `destination-${answer.id}`];
    if (!answer.secret || answer.secret === destination.form.secret.value.trim()) return reload(...told);
    $("#secret [data-secret]").textContent = $("#secret [data-copy]").dataset.copy = answer.secret;
    $("#secret").addEventListener("close", () => reload(...told), { once: true });
    $("#secret").showModal();
  },
});

const ticked = (form, name) => $$(`[name=${name}]:checked`, form).map((box) => box.value);
const tick = (form, name, values) => $$(`[name=${name}]`, form).forEach((box) => (box.checked = values.includes(box.value)));
const USUAL = { name: "", events: $$("#rule [name=events]").map((box) => box.value).filter((kind) => !kind.endsWith("succeeded")), min_severity: "info", destination_ids: [], runbooks: [], scope: null, tenants: [], cooldown_s: 0, quiet_hours: null };

const rule = new Sheet("rule", {
  words: "Saving…",

  fill(form, one) {
    const given = one ?? USUAL;
    $("h2", form).textContent = one ? `Edit ${one.name}` : "Add rule";
    $("[type=submit]", form).textContent = one ? "Save" : "Add rule";
    for (const name of ["name", "min_severity"]) form[name].value = given[name];
    for (const name of ["events", "destination_ids", "runbooks"]) tick(form, name, given[name]);
    form.everywhere.checked = !given.destination_ids.length;
    form.every_runbook.checked = !given.runbooks.length;
    form.scope.value = given.scope ?? "";
    form.tenants.value = given.tenants.join(", ");
    form.cooldown.value = given.cooldown_s / 60;
    const quiet = given.quiet_hours ?? { from: "22:00", until: "07:00", zone: Intl.DateTimeFormat().resolvedOptions().timeZone };
    form.quiet.checked = Boolean(given.quiet_hours);
    for (const name of ["from", "until", "zone"]) form[name].value = quiet[name];
    if (!$("#zones option")) $("#zones").append(...Intl.supportedValuesOf("timeZone").map((zone) => Object.assign(document.createElement("option"), { value: zone })));
  },

  read(form) {
    const [events, places, runbooks] = ["events", "destination_ids", "runbooks"].map((name) => ticked(form, name));
    const { everywhere, every_runbook: every, cooldown, name, quiet } = form;
    const minutes = cooldown.valueAsNumber;
    if (
      !right(
        [name, name.value.trim() ? "" : "Give it a name."],
        [$("[name=events]", form), events.length ? "" : "Pick at least one."],
        [everywhere, everywhere.checked || places.length ? "" : "Pick at least one, or every destination."],
        [every, every.checked || runbooks.length ? "" : "Pick at least one, or every runbook."],
        [cooldown, minutes >= 0 ? "" : "Enter a number of minutes; 0 sends every time."],
      )
    )
      return;
    return {
      name: name.value.trim(),
      events,
      min_severity: form.min_severity.value,
      destination_ids: everywhere.checked ? [] : places,
      runbooks: every.checked ? [] : runbooks,
      scope: form.scope.value || null,
      tenants: lines(form.tenants.value),
      cooldown_s: Math.round(minutes * 60),
      quiet_hours: quiet.checked ? { from: form.from.value, until: form.until.value, zone: form.zone.value.trim() } : null,
    };
  },

  send: save("rule"),

  done(answer, one) {
    rule.dialog.close();
    reload(one ? "Saved" : "Rule added", answer.name, `rule-${answer.id}`);
  },
});

const removal = new Sheet("delete", {
  words: "Deleting…",
  fill(form, one, what) {
    Object.assign(removal, { what });
    $("h2", form).textContent = `Delete ${one.name}?`;
    for (const text of $$("[data-what]", form)) text.hidden = text.dataset.what !== what;
    $("[type=submit]", form).textContent = `Delete ${what}`;
  },
  read: () => ({}),
  send: (_, one) => ask(`${api}/${removal.what}s/${one.id}`, { method: "DELETE" }),
  done(_, one) {
    removal.dialog.close();
    reload("Deleted", one.name, `${removal.what}s-title`);
  },
});

// ---- Buttons on what is listed

async function test(root, button) {
  const said = $("[data-tested]", root);
  said.hidden = false;
  said.textContent = "Sending a test…";
  try {
    const { delivered, error, took_ms: took } = await once(button, "Sending…", () => ask(`${api}/destinations/${root.dataset.id}/test`, { method: "POST" }));
    used();
    said.className = `small break callout ${delivered ? "green" : "red"}`;
    said.textContent = delivered ? `Delivered in ${duration(took)}.` : `Not delivered: ${error}`;
  } catch (problem) {
    said.hidden = true;
    throw problem;
  }
}

async function turn(root, button) {
  const enabled = button.dataset.switch === "true";
  const { name } = await once(button, "Switching…", () => ask(`${api}/${root.dataset.of}s/${root.dataset.id}`, { method: "PATCH", body: { enabled } }));
  used();
  reload(enabled ? "Switched on" : "Switched off", name, root.id);
}

const SHEETS = { destination, rule };
for (const button of $$("[data-add]")) button.addEventListener("click", () => SHEETS[button.dataset.add].open());

for (const root of $$("[data-of]")) {
  const shown = JSON.parse(root.dataset.shown);
  const problems = $("[data-problem]", root);
  const attempt = (act) => (event) => {
    const button = event.currentTarget;
    if (busy(button)) return;
    problems.replaceChildren();
    act(root, button).catch((problem) => showProblem(problems, problem));
  };
  $("[data-edit]", root).addEventListener("click", () => SHEETS[root.dataset.of].open(shown));
  $("[data-delete]", root).addEventListener("click", () => removal.open(shown, root.dataset.of));
  $("[data-switch]", root).addEventListener("click", attempt(turn));
  $("[data-test]", root)?.addEventListener("click", attempt(test));
}

// ---- Deliveries

const list = $("[data-live]");
const rowOf = (delivery) => $(`tr[data-id="${delivery.id}"]`, list);

function show(delivery) {
  const row = rowOf(delivery);
  if (!row) return;
  patch(row, delivery);
  showBadge($("[data-status]", row), "delivery", delivery.status);
  const at = delivery.delivered_at ?? delivery.due_at;
  const due = $("[data-due]", row);
  if (!at) due.replaceChildren();
  else showTime($("time", due) ?? due.appendChild(document.createElement("time")), at);
  if ($("[data-error]", row).textContent !== (delivery.last_error ?? "")) $("[data-error]", row).textContent = delivery.last_error ?? "";
  const again = $("[data-resend]", row);
  if (again.hidden === !delivery.can_resend) return;
  const focused = again === document.activeElement;
  again.hidden = !delivery.can_resend;
  if (focused) $("a", row).focus();
}

let resent = 0; // a list that was asked for before knows nothing of it

async function resend(row, button) {
  const delivery = await once(button, "Sending…", () => ask(`${api}/deliveries/${row.dataset.id}/resend`, { method: "POST" }));
  resent += 1;
  used();
  show(delivery);
  announce(`${delivery.title}, to ${delivery.destination}: ${badge("delivery", delivery.status).textContent}`);
}

for (const row of list ? $$("tr[data-id]", list) : []) {
  const button = $("[data-resend]", row);
  const problems = $("#delivery-problem");
  button.addEventListener("click", () => {
    if (busy(button)) return;
    problems.replaceChildren();
    resend(row, button).catch((problem) => {
      showProblem(problems, problem);
      problems.scrollIntoView({ block: "nearest" });
    });
  });
}

async function refresh() {
  const before = resent;
  const { items } = await ask(`${api}/deliveries${list.dataset.live}`, { background: true });
  if (before === resent) items.forEach(show);
}
if (list) keepAsking(5000, refresh);

// What a form leaves empty does not narrow, and need not stand in the address.
$("form.filters")?.addEventListener("formdata", ({ formData }) => {
  for (const [name, value] of [...formData]) if (!value) formData.delete(name);
});

tellAfterReload();
