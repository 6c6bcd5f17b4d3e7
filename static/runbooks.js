// A runbook's card: scope, preflight, dialog, start. Whatever changes the scope takes the preflight back.

import { $, $$, announce, ask, busy, complain, guard, here, keepAsking, number, once, plural, showProblem, showRunBadge, showTime, toast, used } from "./shell.js";

const TYPING_MS = 150;
const dialog = $("#run");
const form = $("form", dialog);
const go = $("[type=submit]", dialog);
const problems = $("[data-problem]", dialog);

const refused = (button) => button.getAttribute("aria-disabled") === "true";

/** How many rows a run would change, in words: what comes from a sample never looks counted. */
function affected(seen) {
  if (!seen.estimated) return number(seen.affected_count);
  if (seen.margin_percent < 100) return `about ${number(seen.affected_count)}`;
  return `up to ${number(fourDigits(seen.affected_count * (1 + seen.margin_percent / 100)))}`;
}

const fourDigits = (value) => Number(value.toPrecision(4));

const FIGURES = {
  affected_count: affected,
  total_count: (seen) => (seen.total_estimated ? `about ${number(fourDigits(seen.total_count))}` : number(seen.total_count)),
  estimated_tenants(seen) {
    const before = seen.estimated ? "up to " : seen.estimated_tenants > 1 ? "about " : "";
    return before + number(seen.estimated_tenants);
  },
};

const records = (seen) => `${affected(seen)} ${!seen.estimated && seen.affected_count === 1 ? "record" : "records"}`;

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
    for (const radio of $$('input[type="radio"]', root)) radio.addEventListener("change", () => this.changed());
    for (const radio of $$('input[type="radio"]', root)) radio.addEventListener("click", (event) => this.pointed(event));
    this.check.addEventListener("click", () => this.preflight());
    root.addEventListener("click", (event) => event.target.closest("[data-exactly]") && this.countExactly());
    this.run.addEventListener("click", () => this.open());
    this.changed();
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
    return this.seen && performance.now() > this.seen.until;
  }

  /** A pointer goes on to the tenant; from the keyboard, an arrow must not take the focus away. */
  pointed(event) {
    if (event.detail && this.single && !this.tenant.chosen) this.tenant.input.focus();
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
    if (blocker) reason = blocker.status === "paused" ? "Locked by a paused run" : "Running now";
    else if (this.single && !this.tenant.chosen) reason = "Pick a tenant first";
    else if (!this.seen) reason = "Run a preflight first";
    else if (!this.seen.can_start) reason = "Nothing to do";
    else if (this.expired) reason = "Preflight expired";
    this.run.setAttribute("aria-disabled", reason !== "");
    if (why.dataset.said === reason + blocker?.id || why.contains(document.activeElement)) return;
    why.dataset.said = reason + blocker?.id;
    why.textContent = reason;
    if (blocker) why.append(" – ", Object.assign(document.createElement("a"), { href: here(blocker.view_url), textContent: "view run" }));
  }

  async preflight(exact = false) {
    if (this.check.ariaBusy === "true") return;
    if (this.single && !this.tenant.chosen) return this.tenant.complain("Pick a tenant first.");
    const words = $("span", this.check);
    this.changed(); // nothing can be started from what is about to be old
    this.check.ariaBusy = "true";
    words.textContent = "Checking…";
    const scope = JSON.stringify(this.scope);
    try {
      const seen = await this.look(exact);
      if (scope === JSON.stringify(this.scope)) this.showSeen(seen);
    } catch (problem) {
      showProblem($("[data-problem]", this.root), problem);
    } finally {
      this.check.ariaBusy = null;
      words.textContent = "Preflight";
    }
  }

  async countExactly() {
    this.check.focus(); // the button that was pressed goes
    await this.preflight(true);
  }

  async look(exact = false) {
    const seen = await ask(`/system/ops/runbooks/${this.key}/preflight`, { method: "POST", body: exact ? { scope: this.scope, exact } : { scope: this.scope } });
    used();
    // By how long it is valid, not until when: this computer's clock may be wrong.
    seen.until = performance.now() + (new Date(seen.expires_at) - new Date(seen.computed_at));
    return seen;
  }

  showSeen(seen) {
    this.seen = seen;
    for (const stat of $$("[data-stat]", this.root)) stat.textContent = FIGURES[stat.dataset.stat](seen);
    const minutes = Math.round((new Date(seen.expires_at) - new Date(seen.computed_at)) / 60000);
    const at = document.createElement("time");
    showTime(at, seen.computed_at);
    $("[data-checked]", this.root).replaceChildren("Checked ", at, `, valid for ${minutes} min`, ...(seen.estimated ? this.estimateNote(seen) : []));
    this.show();
    announce(`${this.title}: ${records(seen)} affected${seen.estimated ? ", estimated from a sample" : ""}`);
  }

  estimateNote(seen) {
    const exactly = Object.assign(document.createElement("button"), { type: "button", className: "btn tiny", textContent: "Count exactly" });
    exactly.dataset.exactly = "";
    const margin = seen.margin_percent < 100 ? ` (±\u00a0${seen.margin_percent}\u00a0%)` : "";
    return [`. Estimated from a sample${margin}. `, exactly];
  }

  open() {
    if (refused(this.run) || busy(go)) return this.show();
    order.begin(this);
  }

  update(runbook) {
    this.active = runbook.active_runs;
    this.show();
    const last = runbook.last_run;
    const line = $("[data-last]", this.root);
    const link = $("a", line);
    if (!last || line.contains(document.activeElement)) return;
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

/** What the dialog names is what is started: one card's scope and preflight, as they were when it opened. */
const order = {
  begin(card) {
    Object.assign(this, { card, seen: card.seen, scope: card.scope, scopeName: card.scopeName, single: card.single });
    form.confirmation.value = "";
    form.text.value ||= sessionStorage.getItem("opsplane-reason") ?? "";
    this.describe();
    dialog.showModal();
    $(this.seen.confirmation_phrase ? "[name=confirmation]" : "[name=text]", form).focus();
  },

  describe() {
    const { estimated, estimated_tenants: tenants, confirmation_phrase: phrase, reason_required: required } = this.seen;
    const what = records(this.seen);
    const where = this.single ? ` of tenant ${this.scopeName}.` : ` in ${estimated ? "up to" : "about"} ${plural(tenants, "tenant")}.`;
    $("#run-title").replaceChildren(`Run ${this.card.title} on `, strong(this.scopeName), "?");
    $("#run-blast").replaceChildren(
      strong("This modifies customer data: "),
      what + where,
      estimated ? " This is an estimate; the run counts exactly." : "",
    );
    $("#run-confirm").hidden = phrase === null;
    $("#run-confirm code").textContent = phrase ?? "";
    $("[data-optional]", dialog).hidden = required;
    go.textContent = `Run on ${what}`;
    problems.replaceChildren();
    complain(form.confirmation, "");
    complain(form.text, "");
    this.key = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`; // a second click is the same start
  },

  /** Whether all is filled in; else the first field that is not has the focus. */
  complete() {
    const { confirmation_phrase: phrase, reason_required: required } = this.seen;
    const wrong = phrase !== null && form.confirmation.value !== phrase;
    const silent = required && !form.text.value.trim();
    complain(form.confirmation, wrong ? `Type ${phrase}, exactly as it is written.` : "");
    complain(form.text, silent ? "Say why; it is on record with the run." : "");
    if (wrong) form.confirmation.focus();
    else if (silent) form.text.focus();
    return !wrong && !silent;
  },

  send() {
    const text = form.text.value.trim();
    sessionStorage.setItem("opsplane-reason", text); // it outlives a session that has ended
    const body = { scope: this.scope, preflight_id: this.seen.preflight_id };
    if (this.seen.confirmation_phrase !== null) body.confirmation = form.confirmation.value;
    if (text) body.reason = { code: form.code.value, text };
    return ask(`/system/ops/runbooks/${this.card.key}/start`, { method: "POST", body, headers: { "Idempotency-Key": this.key } });
  },

  started(run) {
    used();
    sessionStorage.removeItem("opsplane-reason"); // the next run has one of its own
    dialog.close();
    form.reset();
    this.card.changed();
    refresh();
    toast("Run queued", `${this.card.title} on ${this.scopeName}`, { href: here(run.view_url), text: "View run" }).focus();
  },

  async refused(problem) {
    if (problem.code === "scope_locked" || problem.code === "idempotency_key_reused") await refresh();
    if (problem.code === "idempotency_key_reused") {
      problem.message = "Your first attempt got through, with the words it had then.";
      problem.view_url = this.card.blocker?.view_url;
    }
    showProblem(dialog.open ? problems : $("[data-problem]", this.card.root), problem); // Esc, twice, closes any dialog
    if (problem.code === "preflight_stale" || problem.code === "nothing_to_do") this.offerAnotherLook();
  },

  offerAnotherLook() {
    const again = Object.assign(document.createElement("button"), { type: "button", className: "btn", textContent: "Preflight again" });
    again.addEventListener("click", () => this.lookAgain());
    $(".callout > div", problems)?.append(" ", again);
  },

  async lookAgain() {
    const before = records(this.seen);
    try {
      const seen = await this.card.look();
      this.card.showSeen(seen);
      if (!seen.can_start) return showProblem(problems, { title: "Nothing to do", message: "Everything is right by now." });
      this.seen = seen;
      this.describe();
      showProblem(problems, { message: `It was ${before}, and is ${records(seen)} now.` });
      go.focus();
    } catch (problem) {
      showProblem(problems, problem);
    }
  },
};

/** The APG's editable combobox with a list; it asks the server, 150 ms after the last key. */
class Picker {
  constructor(input, onChange) {
    this.input = input;
    this.list = $(`#${input.getAttribute("aria-controls")}`);
    this.said = $("[data-said]", input.parentElement);
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
      const { items, next_cursor: more } = await ask(`/system/ops/tenants?limit=20${q && `&q=${encodeURIComponent(q)}`}`, { signal: this.request.signal });
      if (document.activeElement === this.input) this.open(items, q, more);
    } catch (problem) {
      if (problem.name !== "AbortError") this.say(problem.message);
    }
  }

  open(tenants, q, more) {
    if (!tenants.length) return this.say(q ? `No tenant matches “${q}”` : "There are no tenants yet");
    this.list.replaceChildren(...tenants.map((tenant, place) => this.option(tenant, place)));
    this.shown(true);
    this.said.textContent = more ? "The first 20; type more to narrow" : plural(tenants.length, "tenant");
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
    this.shown(false);
    this.said.textContent = text;
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
    this.said.textContent = "";
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

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (busy(go) || !order.complete()) return;
  once(go, "Starting…", () => order.send()).then((run) => order.started(run), (problem) => order.refused(problem));
});
guard(dialog, () => form.text.value || form.confirmation.value);

const cards = $$(".runbook").map((root) => new Card(root));

$("#search")?.addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  for (const card of cards) card.root.hidden = !`${card.title} ${card.key}`.toLowerCase().includes(wanted);
  $("#no-match").hidden = cards.some((card) => !card.root.hidden);
});

const refresh = keepAsking(2500, async () => {
  const { items } = await ask("/system/ops/runbooks", { background: true });
  for (const card of cards) card.update(items.find((runbook) => runbook.id === card.key) ?? { active_runs: [] });
});
addEventListener("pageshow", () => cards.forEach((card) => card.show()));
