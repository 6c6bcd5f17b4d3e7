// One run: live by a stream while it goes on, by polling when the stream is stale; only what changed is touched.
// And what operators ask of it: to pause, resume, cancel, and to try again what failed.

import { $, $$, announce, ask, badge, busy, complain, connection, found, guard, here as pathOf, lost, number, once, patch, plural, ring, showBadge, showProblem, showRunBadge, showTime, statusOf, toast, used } from "./shell.js";

const STALE_MS = 22_000; // two of the server's ticks, and a little
const POLL_MS = 5000;
const detail = $("#detail");
const path = `/system/ops/runs/${detail.dataset.id}`;
const completed = () => detail.dataset.status === "completed";

// ---- What a snapshot changes

let run = JSON.parse($("#json").textContent);
let told = { status: run.status, throttled: run.throttled?.since, quarter: 0 };

function showRun(snapshot) {
  run = snapshot;
  patch(detail, run);
  showBadge($('[data-badge-slot="status"]'), "status", statusOf(run));
  showBadge($('[data-badge-slot="outcome"]'), "outcome", run.outcome);
  $('[data-badge-slot="outcome"]').hidden = run.status !== "completed";
  const slot = run.status === "completed" ? "outcome" : "status";
  $("#bar").value = shareDone();
  $("#bar").className = $(`[data-badge-slot=${slot}] .badge`).classList[1];
  showNextStep();
  document.title = `${run.type_label} – ${(run.status === "completed" ? run.outcome : run.status).replaceAll("_", " ")} · opsplane`;
  showFailures();
  showTimeline();
  showRetried();
  tell();
  detail.dataset.status = run.status;
  showControl();
  if (!$("details").open) $("#json").textContent = JSON.stringify(run, null, 2);
}

/** Where tenants failed, it is over and yet not all is done. */
function shareDone() {
  if (!["partially_succeeded", "failed"].includes(run.outcome)) return run.progress.fraction;
  const { updated = 0, processed = 0, failed = 0, total = 0 } = run.summary_counts;
  const affected = run.context.preflight.affected_count;
  return affected ? Math.min(1, updated / affected) : (processed - failed) / Math.max(1, total);
}

/** The newest run over the tenants that failed in this one, and how that stands. */
function showRetried() {
  const next = run.retried_in;
  for (const place of $$("[data-retried]")) {
    place.hidden = !next;
    if (!next) continue;
    $("a", place).href = pathOf(next.view_url);
    $("code", place).textContent = next.run_id;
    showRunBadge($("[data-slot]", place), next);
  }
}

/** What happens next; where nothing does until somebody acts, loudly. Below it, who asked for what is going on. */
function showNextStep() {
  const loud = statusOf(run);
  const look = ["stalled", "throttled", "paused"].includes(loud) && badge("status", loud);
  $("#next-step").className = look ? `callout ${look.classList[1]}` : "muted";
  $("#next-step [data-icon]").replaceChildren(...(look ? [$("svg", look)] : []));
  const { asked, throttled } = run;
  $("#throttled").hidden = !throttled;
  if (throttled && $("#throttled time")?.dateTime !== throttled.since) $("#throttled span").replaceChildren(timeOf(throttled.since));
  $("#asked").hidden = !asked || asked.what === "resume" || run.status === "completed";
  if ($("#asked").hidden || $("#asked time")?.dateTime === asked.at) return;
  const who = Object.assign(document.createElement("span"), { className: "break", textContent: `${badge("step", asked.what).textContent} by ${asked.by}` });
  $("#asked").replaceChildren(who, ", ", timeOf(asked.at));
}

/** Screen readers hear of quarters and changes of state, and of nothing else. */
function tell() {
  const quarter = Math.floor(run.progress.fraction * 4);
  const by = run.asked && run.status !== "queued" ? `, asked by ${run.asked.by}` : "";
  if (run.status !== told.status) announce(run.status === "completed" ? `Completed: ${run.outcome.replaceAll("_", " ")}` : `Now ${run.status}${by}`);
  else if (run.throttled?.since !== told.throttled) announce(run.throttled ? `Throttled: ${run.throttled.reason}` : "No longer throttled");
  else if (quarter > told.quarter && run.status === "running") announce(`${quarter * 25} percent`);
  told = { status: run.status, throttled: run.throttled?.since, quarter };
}

function fill(template, values) {
  const row = $(`#${template}`).content.firstElementChild.cloneNode(true);
  for (const [field, value] of Object.entries(values)) $(`[data-field="${field}"]`, row).replaceChildren(...[value].flat().filter(Boolean));
  return row;
}

function timeOf(iso) {
  const time = document.createElement("time");
  showTime(time, iso);
  return time;
}

function showFailures() {
  const body = $("#failures tbody");
  const known = new Set($$("tr", body).map((row) => row.dataset.failure));
  for (const failure of run.failures) {
    const key = failure.tenant_id ?? "run";
    if (known.has(key)) continue;
    const row = fill("failure-row", { who: failure.tenant_external_id ?? "The whole run", code: failure.code, message: failure.message });
    row.dataset.failure = key;
    body.append(row);
  }
  $("#failures").hidden = !run.failures.length;
  const { failed = 0 } = run.summary_counts;
  $("#more-failures").hidden = failed <= run.failures.length;
  $("#more-failures a").textContent = `All ${number(failed)} failed tenants`;
}

function showTimeline() {
  $(".timeline [data-stalled]").hidden = !run.stalled;
  showStep("step", "started", run.started_at);
  for (const asked of run.asks) showStep("step", asked.what, asked.at, asked.by);
  showStep("step", "paused", run.paused_at);
  showStep("outcome", run.outcome, run.completed_at);
}

/** Puts what happened in its place in time, once. */
function showStep(kind, value, at, by) {
  const when = Date.parse(at);
  const steps = $$(".timeline [data-step]").map((entry) => [entry, Date.parse($("time", entry).dateTime)]);
  if (!at || steps.some(([entry, then]) => entry.dataset.step === value && then === when)) return;
  const look = badge(kind, value);
  const entry = fill("step", { label: look.textContent, by: by && `by ${by}`, at: timeOf(at) });
  entry.className = look.classList[1];
  entry.dataset.step = value;
  entry.prepend($("svg", look));
  const [next] = steps.find(([, then]) => then > when) ?? [$(".timeline [data-stalled]")];
  next.before(entry);
}

// ---- What is asked of the run: what its status allows is shown, and the server has the last word

const RIPE_MS = 500; // nobody meant a button that has only just come up under the pointer
const SUCCESSOR = { pause: "resume", resume: "pause" };
const asking = Object.fromEntries($$("[data-ask]").map((button) => [button.dataset.ask, button]));
const refusal = $("#refusal");
let snapshots = 0;

const failedTenants = () => plural(run.summary_counts.failed ?? 0, "failed tenant");

function showControl() {
  const focused = document.activeElement;
  for (const [what, button] of Object.entries(asking)) {
    const hidden = !run.can[what.replace("-", "_")];
    if (button.hidden && !hidden) button.since = performance.now();
    button.hidden = hidden;
  }
  if (asking["retry-failed"]) $("span", asking["retry-failed"]).textContent = `Retry ${failedTenants()}…`;
  if (focused?.hidden) (visible(SUCCESSOR[focused.dataset.ask]) ?? $("h1")).focus();
  if ($("#cancel")?.open) describeCancel();
}

const visible = (what) => (asking[what]?.hidden === false ? asking[what] : null);

/** Shows what the server answered, unless the stream has spoken since: it knows as much, or will in a moment. */
async function showAnswer(asked) {
  const before = snapshots;
  const answer = await asked;
  const live = stream?.readyState === EventSource.OPEN;
  if (live && snapshots === before) showRun(answer);
  if (!live || completed()) await poll();
}

async function send(what) {
  refusal.replaceChildren();
  await showAnswer(ask(`${path}/${what}`, { method: "POST", body: {} }));
  used();
}

/** Somebody was faster, or something is in the way: says so, and shows how the run stands now. */
async function refused(place, problem) {
  if (problem.code === "idempotency_key_reused") {
    problem.message = "Your first attempt got through, with the words it had then.";
    problem.link = { href: `/system/ops/runs?runbook=${encodeURIComponent(run.type)}`, text: "See the runs" };
  }
  showProblem(place, problem);
  if (problem.code === "invalid_transition") await showAnswer(ask(path, { background: true })).catch(failed);
}

const AT_ONCE = {
  pause: ["Pausing…", "Asked to pause", "Workers end their chunk first."],
  resume: ["Resuming…", "Resumed", "Workers go on with it within seconds."],
};

function askAtOnce(what) {
  const [words, title, text] = AT_ONCE[what];
  if (busy(asking[what])) return;
  once(asking[what], words, () => send(what)).then(() => toast(title, text), (problem) => refused(refusal, problem));
}

for (const [what, button] of Object.entries(asking)) {
  const act = { cancel: openCancel, "retry-failed": openRetry }[what] ?? (() => askAtOnce(what));
  button.addEventListener("click", () => button.since > performance.now() - RIPE_MS || act());
}

/** A dialog whose button does something once, and then tells of it; what is refused is said within it. */
function dialogOf(dialog, { isTyped = () => false, isComplete = () => true, words, act, tell: say }) {
  const go = $("[type=submit]", dialog);
  const problems = $("[data-problem]", dialog);
  guard(dialog, isTyped);
  $("form", dialog).addEventListener("submit", (event) => {
    event.preventDefault();
    if (busy(go) || go.ariaDisabled === "true" || !isComplete()) return;
    problems.replaceChildren();
    once(go, words, act).then(say, (problem) => refused(dialog.open ? problems : refusal, problem));
  });
  // The button that opened it may be gone by now; then the focus has stayed behind, or has been dropped already.
  dialog.addEventListener("close", () => (document.activeElement === document.body || dialog.contains(document.activeElement)) && $("h1").focus());
  return dialog;
}

const KEEP = { queued: "Keep it queued", running: "Keep it running", pausing: "Let it pause", paused: "Keep it paused" };
const cancelling = $("#cancel") && dialogOf($("#cancel"), { words: "Cancelling…", act: () => send("cancel"), tell: cancelled });

function openCancel() {
  $("[data-problem]", cancelling).replaceChildren();
  describeCancel();
  cancelling.showModal();
}

/** How far it is, as it goes on; if it has ended or somebody was faster, there is nothing to confirm. */
function describeCancel() {
  const { total = 0, processed = 0 } = run.summary_counts;
  const rest = plural(total - processed, "tenant");
  let left = "Nothing is changed.";
  if (rest === "1 tenant") left = "What is repaired stays repaired. 1 tenant has not ended: not begun, it is left alone; in work, it keeps what its chunks have done so far.";
  else if (total) left = `What is repaired stays repaired. ${rest} have not ended: those not begun are left alone, those in work keep what their chunks have done so far.`;
  if (!run.can.cancel) left = completed() ? "It has ended: there is nothing left to cancel." : `${run.asked?.by} has asked for it already.`;
  $("#cancel-far").textContent = `So far: ${run.progress.said.replace(/^W/, "w")}.`;
  $("#cancel-left").textContent = left;
  $("[type=submit]", cancelling).ariaDisabled = String(!run.can.cancel);
  $("[data-cancel]", cancelling).textContent = run.can.cancel ? KEEP[run.status] : "Close";
}

function cancelled() {
  cancelling.close();
  if (completed()) toast("Cancelled", "What is repaired stays repaired.");
  else toast("Asked to cancel", "Workers end their chunk first. What is repaired stays repaired.");
}

const retrying = $("#retry") && dialogOf($("#retry"), { words: "Starting…", isTyped: () => reason.value !== reason.before, isComplete: hasReason, act: retry, tell: retried });
const FEW = 5;
const reason = $("#retry [name=text]");
const kept = `opsplane-reason-${run.id}`; // what was typed outlives a session that has ended
let attempt; // of an opened dialog: a second click is the same start

function openRetry() {
  for (const place of $$("[data-failed]", retrying)) place.textContent = failedTenants();
  $("[data-who]", retrying).textContent = failedNames();
  $("[type=submit]", retrying).textContent = `Retry ${failedTenants()}`;
  $("[data-problem]", retrying).replaceChildren();
  $("form", retrying).reset();
  reason.value = reason.before = sessionStorage.getItem(kept) ?? reason.value;
  complain(reason, "");
  attempt = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
  retrying.showModal();
}

/** Who they are, if they are few enough to be read. */
function failedNames() {
  if (run.scope.tenant_id) return "";
  const names = run.failures.map((failure) => failure.tenant_external_id).filter(Boolean);
  return names.length && names.length <= FEW && names.length === run.summary_counts.failed ? `: ${names.join(", ")}` : "";
}

function hasReason() {
  const silent = reason.required && !reason.value.trim();
  complain(reason, silent ? "Say why; it is on record with the run." : "");
  if (silent) reason.focus();
  return !silent;
}

function retry() {
  const text = reason.value.trim();
  sessionStorage.setItem(kept, text);
  const body = text ? { reason: { code: reason.form.code.value, text } } : {};
  return ask(`${path}/retry-failed`, { method: "POST", body, headers: { "Idempotency-Key": attempt } });
}

function retried(next) {
  used();
  sessionStorage.removeItem(kept);
  retrying.close();
  toast("Run queued", `${run.type_label} on ${failedTenants()}`, { href: pathOf(next.view_url), text: "View run" }).focus();
  follow();
}

// ---- The grid of tenants: one path a state, however many tenants there are

const svg = $("#grid");
const CELL = 10;
let cells = svg.dataset.cells;
let columns = Number(svg.dataset.columns);
let perCell = Number(svg.dataset.perCell);
let here = -1;

function showGrid(figures) {
  if (figures.cells === cells && figures.tenants_per_cell === perCell) return;
  ({ cells, columns, tenants_per_cell: perCell } = figures);
  svg.setAttribute("viewBox", `0 0 ${columns * CELL} ${Math.max(1, Math.ceil(cells.length / columns)) * CELL}`);
  const parts = {};
  for (let place = 0; place < cells.length; place += 1) {
    (parts[cells[place]] ??= []).push(place);
  }
  const words = [];
  for (const drawn of $$("path", svg)) {
    const places = parts[drawn.dataset.letter] ?? [];
    const d = places.map((place) => `M${(place % columns) * CELL} ${Math.floor(place / columns) * CELL}${drawn.dataset.shape}`).join("");
    if (drawn.getAttribute("d") !== d) drawn.setAttribute("d", d);
    if (places.length) words.push(`${number(places.length)} ${drawn.dataset.label}`);
  }
  if (here < 0) $("#grid-said").textContent = words.join(", ") || "No tenant has been laid out yet";
  else nameCell().catch(failed);
  $("#per-cell").textContent = perCell > 1 ? `A cell is ${perCell} tenants, and shows the one that needs attention most` : "";
}

function showLine({ throughput, seconds_per_point: seconds }) {
  const highest = Math.max(0, ...throughput);
  $("#speed").hidden = throughput.length < 2 || !highest;
  if ($("#speed").hidden) return;
  const points = throughput.map((rows, place) => `L${((place * 100) / (throughput.length - 1)).toFixed(2)} ${(32 * (1 - rows / highest)).toFixed(2)}`);
  $("#line").setAttribute("d", `M0 32${points.join("")}L100 32`);
  $("#speed-said").textContent = `At most ${number(highest / seconds)} rows per second, by when tenants ended`;
}

function leaveGrid() {
  here = -1;
  $("#cell").setAttribute("visibility", "hidden");
  const counted = $$("path", svg).map((drawn) => [cells.split(drawn.dataset.letter).length - 1, drawn.dataset.label]);
  $("#grid-said").textContent = counted.flatMap(([count, label]) => (count ? `${number(count)} ${label}` : [])).join(", ");
}

async function nameCell() {
  const rect = $("#cell");
  rect.setAttribute("x", (here % columns) * CELL);
  rect.setAttribute("y", Math.floor(here / columns) * CELL);
  rect.setAttribute("visibility", "visible");
  const wanted = here;
  const first = here * perCell;
  const { items } = await ask(`${path}/items?limit=${Math.min(perCell, 200)}${first ? `&cursor=${btoa(first).replace(/=+$/, "")}` : ""}`);
  if (wanted !== here) return;
  const named = items.slice(0, 3).map((item) => `${item.tenant_external_id}: ${badge("item", item.state).textContent}, ${number(item.updated_count)} rows`);
  $("#grid-said").textContent = named.join("; ") + (perCell > 3 ? "; …" : "");
}

svg.addEventListener("keydown", (event) => {
  if (event.key === "Escape") leaveGrid();
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (!step || !cells) return;
  event.preventDefault();
  here = Math.max(0, Math.min(cells.length - 1, here < 0 ? 0 : here + step));
  nameCell().then(() => announce($("#grid-said").textContent), failed);
});

svg.addEventListener("click", (event) => {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const [column, row] = [Math.floor(at.x / CELL), Math.floor(at.y / CELL)];
  const place = row * columns + column;
  if (column < 0 || column >= columns || row < 0 || place >= cells.length) return;
  here = place;
  nameCell().catch(failed);
});

// ---- The list of tenants, as the address asks for it

async function showItems() {
  const { items, next_cursor: next } = await ask(`${path}/items${location.search}`, { background: true });
  const body = $("#items tbody");
  if (!body) return;
  const reading = getSelection().anchorNode;
  const rows = items.map((item) => {
    const old = $(`[data-item="${item.ordinal}"]`, body);
    const row = itemRow(item);
    return old && (old.textContent === row.textContent || old.contains(reading)) ? old : row;
  });
  if (rows.some((row, place) => row !== body.children[place]) || rows.length !== body.children.length) body.replaceChildren(...rows);
  const more = $("#next-items");
  more.hidden = !next;
  const address = new URLSearchParams(location.search);
  address.set("cursor", next);
  more.href = `?${address}#tenants`;
}

function trouble(item) {
  const why = item.failure_code && `${item.failure_code}: ${item.failure_message}`;
  if (!item.retry_at) return [why];
  const times = item.attempts === 1 ? "once" : `${item.attempts} times`;
  return [why && `${why}. `, `Failed ${times}, to be tried again at `, timeOf(item.retry_at)];
}

function itemRow(item) {
  const row = fill("item-row", {
    who: item.tenant_external_id ?? "–",
    state: badge("item", item.state),
    updated: number(item.updated_count),
    failure: trouble(item),
    ended: item.finished_at && timeOf(item.finished_at),
  });
  row.dataset.item = item.ordinal;
  return row;
}

// ---- Live: a stream, watched; polling when it says nothing

let stream = null;
let polling = false;
let lastHeard = 0;
let silences = 0; // streams in a row that said nothing, as behind a proxy that keeps them to itself
let itemsDue = 0;

function heard() {
  lastHeard = performance.now();
  silences = 0;
  connection("live");
  found();
}

/** At most every two seconds, and never the last change without it. */
function itemsSoon() {
  itemsDue ||= setTimeout(() => {
    itemsDue = 0;
    showItems().catch(failed);
  }, 2000);
}

function open() {
  close();
  lastHeard = performance.now();
  stream = new EventSource(`${path}/events`);
  stream.addEventListener("run", (event) => {
    heard();
    snapshots += 1;
    showRun(JSON.parse(event.data));
  });
  stream.addEventListener("figures", (event) => {
    heard();
    showFigures(JSON.parse(event.data));
    itemsSoon();
  });
  stream.addEventListener("tick", (event) => {
    heard();
    ring(JSON.parse(event.data).unread);
  });
  stream.addEventListener("end", (event) => {
    close();
    if (JSON.parse(event.data).code === "completed") finish();
    else poll();
  });
  stream.addEventListener("error", () => $("#pill").dataset.state === "live" && connection("reconnecting"));
}

function close() {
  stream?.close();
  stream = null;
}

function showFigures(figures) {
  showGrid(figures);
  showLine(figures);
}

function finish() {
  close();
  clearTimeout(itemsDue);
  connection("over");
  ring();
  showItems().catch(failed);
}

const failed = (problem) => lost(problem, poll);

/** Asks once for everything; brings the stream back if the server answers. */
async function poll() {
  if (polling) return;
  polling = true;
  try {
    showRun(await ask(path, { background: true }));
    showFigures(await ask(`${path}/figures`, { background: true }));
    await showItems();
    connection("polling", poll);
    found();
    if (completed()) finish();
    else if (!stream && !document.hidden && worthATry()) open();
  } catch (problem) {
    failed(problem);
  } finally {
    polling = false;
  }
}

const worthATry = () => silences < 2 || performance.now() - lastHeard > 60_000;

/** Of a run that has ended only a retry can change something: one to come, or one that goes on. */
async function follow() {
  const { can, retried_in: next } = run;
  if (!can.retry_failed && (!next || next.status === "completed")) return;
  try {
    showRun(await ask(path, { background: true }));
    connection("over");
  } catch (problem) {
    if (next) failed(problem); // else the page is as right as any that has ended
  }
}

function look() {
  if (document.hidden) return;
  if (completed()) return void follow();
  if (stream && stream.readyState !== EventSource.CLOSED && performance.now() - lastHeard < STALE_MS) return;
  if (stream?.readyState === EventSource.OPEN) silences += 1;
  close();
  poll();
}

setInterval(look, POLL_MS);

function visibility() {
  if (completed()) look();
  else if (document.hidden) close();
  else open();
}

document.addEventListener("visibilitychange", visibility);
addEventListener("pagehide", close);
addEventListener("pageshow", (event) => event.persisted && visibility());
if (!completed()) open();
