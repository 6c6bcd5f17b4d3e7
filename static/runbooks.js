// A runbook's card: scope, preflight, dialog, start. Whatever changes the scope takes the preflight back.

import { $, $$, announce, ask, connection, here, number, showProblem, showRunBadge, showTime, toast, used } from "./shell.js";

const EVERY_MS = 5000;
const TYPING_MS = 150;
const dialog = $("#run");
const form = $("form", dialog);

const refused = (button) => button.getAttribute("aria-disabled") === "true";
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

class Card {
  constructor(root) {
    this.root = root;
    this.key = root.dataset.runbook;
    this.title = root.dataset.title;
    this.active = JSON.parse(root.dataset.active);
    this.seen = null;
    this.run = $("[data-run]", root);
    this.check = $("[data-preflight]", root);
    this.tenant = new Picker($("[data-tenant]", root), () => this.changed());
    for (const radio of $$('input[type="radio"]', root)) radio.addEventListener("change", () => this.scopeChosen());
    this.check.addEventListener("click", () => this.preflight());
    this.run.addEventListener("click", () => this.open());
    this.scopeChosen();
  }

  get single() {
    return $('input[value="single_tenant"]', this.root).checked;
  }

  get scope() {
    return this.single ? { kind: "single_tenant", tenant_id: this.tenant.chosen?.id } : { kind: "all_tenants" };
  }

  get scopeName() {
    return this.single ? this.tenant.chosen?.external_id : "all tenants";
  }

  /** The run that keeps this scope locked: all tenants excludes everyone, one tenant itself and all tenants. */
  get blocker() {
    return this.active.find(
      (run) => !this.single || run.scope.kind === "all_tenants" || run.scope.tenant_id === this.tenant.chosen?.id,
    );
  }

  get expired() {
    return this.seen && new Date(this.seen.expires_at) < new Date();
  }

  scopeChosen() {
    this.changed();
    if (this.single && !this.tenant.chosen) this.tenant.input.focus();
  }

  changed() {
    this.seen = null;
    for (const stat of $$("[data-stat]", this.root)) stat.textContent = "–";
    $("[data-checked]", this.root).textContent = "Not checked yet. A preflight counts and changes nothing.";
    $("[data-problem]", this.root).replaceChildren();
    this.show();
  }

  /** Whether Run may be pressed, else why not: always in words. */
  show() {
    if ("denied" in this.run.dataset) return;
    const why = $("[data-why]", this.root);
    const blocker = this.blocker;
    let reason = "";
    if (blocker) reason = "Running now";
    else if (this.single && !this.tenant.chosen) reason = "Pick a tenant first";
    else if (!this.seen) reason = "Run a preflight first";
    else if (!this.seen.can_start) reason = "Nothing to do";
    else if (this.expired) reason = "Preflight expired";
    this.run.setAttribute("aria-disabled", reason !== "");
    if (why.dataset.said === reason + blocker?.id) return;
    why.dataset.said = reason + blocker?.id;
    why.textContent = reason;
    if (blocker) why.append(" – ", Object.assign(document.createElement("a"), { href: here(blocker.view_url), textContent: "view run" }));
  }

  async preflight() {
    if (this.check.ariaBusy === "true") return;
    if (this.single && !this.tenant.chosen) return this.tenant.complain("Pick a tenant first.");
    const words = $("span", this.check);

    this.check.ariaBusy = "true";
    words.textContent = "Checking…";
    $("[data-problem]", this.root).replaceChildren();
    try {
      const scope = JSON.stringify(this.scope);
      const seen = await ask(`/system/ops/runbooks/${this.key}/preflight`, { method: "POST", body: { scope: this.scope } });
      used();
      if (scope === JSON.stringify(this.scope)) this.showSeen(seen);
    } catch (problem) {
      showProblem($("[data-problem]", this.root), problem);
    } finally {
      this.check.ariaBusy = null;
      words.textContent = "Preflight";
    }
  }

  showSeen(seen) {
    this.seen = seen;
    for (const stat of $$("[data-stat]", this.root)) {
      const about = stat.dataset.stat === "estimated_tenants" && seen.estimated_tenants > 1 ? "about " : "";
      stat.textContent = about + number(seen[stat.dataset.stat]);
    }
    const minutes = Math.round((new Date(seen.expires_at) - new Date(seen.computed_at)) / 60000);
    const at = document.createElement("time");
    showTime(at, seen.computed_at);
    $("[data-checked]", this.root).replaceChildren("Checked ", at, `, valid for ${minutes} min`);
    this.show();
    announce(`${this.title}: ${plural(seen.affected_count, "record")} affected`);
  }

  open() {
    if (refused(this.run)) return this.show();
    const { affected_count: affected, estimated_tenants: tenants, confirmation_phrase: phrase, reason_required: required } = this.seen;
    const records = plural(affected, "record");
    $("#run-title").replaceChildren(`Run ${this.title} on `, strong(this.scopeName), "?");
    $("#run-blast").replaceChildren(
      strong("This modifies customer data: "),
      this.single ? `${records} of tenant ${this.scopeName}.` : `${records} in about ${plural(tenants, "tenant")}.`,
    );
    $("#run-confirm").hidden = phrase === null;
    $("#run-confirm code").textContent = phrase ?? "";
    $("[data-optional]", dialog).hidden = required;
    form.confirmation.value = "";
    form.text.value ||= sessionStorage.getItem("opsplane-reason") ?? "";
    $("[data-go]", dialog).textContent = `Run on ${records}`;
    $("[data-problem]", dialog).replaceChildren();
    complain("confirm", "");
    complain("text", "");
    dialog.card = this;
    dialog.warned = false;
    dialog.attempt = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`; // a second click is the same start
    dialog.showModal();
    $(phrase ? "[name=confirmation]" : "[name=text]", form).focus();
  }

  async start() {
    const { confirmation_phrase: phrase, reason_required: required, preflight_id } = this.seen;
    const text = form.text.value.trim();
    const wrong = phrase !== null && form.confirmation.value !== phrase;
    complain("confirm", wrong ? `Type ${phrase}, exactly as it is written.` : "");
    complain("text", required && !text ? "Say why; it is on record with the run." : "");
    if (wrong) return form.confirmation.focus();
    if (required && !text) return form.text.focus();
    const body = { scope: this.scope, preflight_id };
    if (phrase !== null) body.confirmation = form.confirmation.value;
    if (text) body.reason = { code: form.code.value, text };
    const run = await ask(`/system/ops/runbooks/${this.key}/start`, { method: "POST", body, headers: { "Idempotency-Key": dialog.attempt } });
    used();
    this.started(run);
  }

  started(run) {
    dialog.close();
    form.reset();
    const scope = this.scopeName;
    this.changed();
    refresh();
    toast("Run queued", `${this.title} on ${scope}`, { href: here(run.view_url), text: "View run" }).focus();
  }

  update(runbook) {
    this.active = runbook.active_runs;
    this.show();
    const last = runbook.last_run;
    const line = $("[data-last]", this.root);
    const link = $("a", line);
    if (!last) return;
    if (link?.pathname === `/system/ops/runs/${last.id}`) return showRunBadge(link, last);
    const anchor = Object.assign(document.createElement("a"), { href: here(last.view_url) });
    showRunBadge(anchor, last);
    const at = document.createElement("time");
    showTime(at, last.created_at);
    const scope = $("#scope-tag").content.firstElementChild.cloneNode(true);
    if (last.scope.tenant_id) scope.lastChild.textContent = last.scope.tenant_external_id;
    line.replaceChildren(Object.assign(document.createElement("span"), { className: "muted", textContent: "Last run" }), anchor, scope, at);
  }
}

const strong = (text) => Object.assign(document.createElement("strong"), { textContent: text });

function complain(field, text) {
  const place = $(`#${field}-error`);
  place.textContent = text;
  place.hidden = !text;
  form[field === "confirm" ? "confirmation" : "text"].setAttribute("aria-invalid", text !== "");
}

/** The APG's editable combobox with a list; it asks the server, 150 ms after the last key. */
class Picker {
  constructor(input, onChange) {
    this.input = input;
    this.list = $(`#${input.getAttribute("aria-controls")}`);
    this.onChange = onChange;
    this.chosen = null;
    input.addEventListener("input", () => this.typed());
    input.addEventListener("focus", () => this.search());
    input.addEventListener("blur", () => this.close());
    input.addEventListener("keydown", (event) => this.key(event));
    // mousedown would take the focus away, and with it the list
    this.list.addEventListener("mousedown", (event) => event.preventDefault());
    this.list.addEventListener("click", (event) => this.choose(event.target.closest("[role=option]")?.tenant));
  }

  typed() {
    if (this.chosen) {
      this.chosen = null;
      this.onChange();
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.search(), TYPING_MS);
  }

  async search() {
    this.request?.abort();
    this.request = new AbortController();
    const q = this.chosen ? "" : this.input.value.trim();
    try {
      const { items } = await ask(`/system/ops/tenants?limit=20${q && `&q=${encodeURIComponent(q)}`}`, { signal: this.request.signal });
      if (document.activeElement === this.input) this.open(items, q);
    } catch (problem) {
      if (problem.name !== "AbortError") this.say(problem.message);
    }
  }

  open(tenants, q) {
    if (!tenants.length) return this.say(q ? `No tenant matches “${q}”` : "There are no tenants yet");
    this.list.replaceChildren(...tenants.map((tenant, place) => this.option(tenant, place)));
    this.shown(true);
    announce(plural(tenants.length, "tenant"));
  }

  option(tenant, place) {
    const option = document.createElement("li");
    option.role = "option";
    option.id = `${this.list.id}-${place}`;
    option.tenant = tenant;
    option.ariaSelected = "false";
    option.append(strong(tenant.external_id), tenant.name === tenant.external_id ? "" : ` ${tenant.name}`);
    return option;
  }

  say(text) {
    const line = Object.assign(document.createElement("li"), { role: "option", textContent: text, ariaDisabled: "true" });
    this.list.replaceChildren(line);
    this.shown(true);
    announce(text);
  }

  key(event) {
    const moves = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in moves) {
      event.preventDefault();
      if (this.list.hidden) this.search();
      else this.mark(moves[event.key]);
    } else if (event.key === "Enter") {
      event.preventDefault();
      const options = $$("[role=option]", this.list);
      const marked = $('[aria-selected="true"]', this.list) ?? (options.length === 1 ? options[0] : null);
      if (!this.list.hidden) this.choose(marked?.tenant);
    } else if (event.key === "Escape" && !this.list.hidden) {
      event.stopPropagation();
      this.close();
    }
  }

  mark(step) {
    const options = $$("[role=option]", this.list);
    const here = options.findIndex((option) => option.ariaSelected === "true");
    const next = options[(here + step + options.length) % options.length];
    options.forEach((option) => (option.ariaSelected = String(option === next)));
    this.input.setAttribute("aria-activedescendant", next.id);
    next.scrollIntoView({ block: "nearest" });
  }

  choose(tenant) {
    if (!tenant) return;
    this.chosen = tenant;
    this.input.value = tenant.external_id;
    this.close();
    this.onChange();
  }

  complain(text) {
    this.input.focus();
    this.say(text);
  }

  shown(open) {
    this.list.hidden = !open;
    this.input.ariaExpanded = String(open);
    this.input.removeAttribute("aria-activedescendant");
  }

  close() {
    clearTimeout(this.timer);
    this.request?.abort();
    this.shown(false);
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const go = $("[data-go]", dialog);
  if (go.ariaBusy === "true") return;
  sessionStorage.setItem("opsplane-reason", form.text.value.trim()); // it outlives a session that has ended
  const words = go.textContent;
  go.ariaBusy = "true";
  go.textContent = "Starting…";
  try {
    await dialog.card.start();
  } catch (problem) {
    showProblem($("[data-problem]", dialog), problem);
    if (problem.code === "preflight_stale" || problem.code === "nothing_to_do") offerAnotherLook();
    if (problem.code === "scope_locked") refresh();
  } finally {
    go.ariaBusy = null;
    go.textContent = words;
  }
});

function offerAnotherLook() {
  const again = Object.assign(document.createElement("button"), { type: "button", className: "btn", textContent: "Preflight again" });
  again.addEventListener("click", () => {
    dialog.close();
    dialog.card.preflight();
  });
  $("[data-problem] .callout > div", dialog).append(" ", again);
}

$("[data-cancel]", dialog).addEventListener("click", () => dialog.close());
// Esc drops what was typed only when asked twice.
dialog.addEventListener("cancel", (event) => {
  if (!form.text.value && !form.confirmation.value) return;
  if (dialog.warned) return void (dialog.warned = false);
  event.preventDefault();
  dialog.warned = true;
  showProblem($("[data-problem]", dialog), { message: "Press Esc once more to drop what you typed." });
});

const cards = $$(".runbook").map((root) => new Card(root));

$("#search")?.addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  for (const card of cards) card.root.hidden = !`${card.title} ${card.key}`.toLowerCase().includes(wanted);
  $("#no-match").hidden = cards.some((card) => !card.root.hidden);
});

async function refresh() {
  if (document.hidden) return;
  try {
    const { items } = await ask("/system/ops/runbooks", { background: true });
    for (const card of cards) card.update(items.find((runbook) => runbook.id === card.key) ?? { active_runs: [] });
    connection("live");
  } catch (problem) {
    connection("stale", refresh);
    if (problem.code === "signed_out") {
      clearInterval(timer);
      showProblem($("#alert"), problem);
    }
  }
}

const timer = setInterval(refresh, EVERY_MS);
document.addEventListener("visibilitychange", refresh);
connection("live");
