// One run: live by a stream while it goes on, by polling when the stream is stale; only what changed is touched.

import { $, $$, announce, ask, badge, connection, found, lost, number, patch, showBadge, showTime } from "./shell.js";

const STALE_MS = 22_000; // two of the server's ticks, and a little
const POLL_MS = 5000;
const detail = $("#detail");
const path = `/system/ops/runs/${detail.dataset.id}`;
const completed = () => detail.dataset.status === "completed";

// ---- What a snapshot changes

let told = { status: detail.dataset.status, quarter: 0 };

function showRun(run) {
  patch(detail, run);
  showBadge($('[data-badge-slot="status"]'), "status", run.stalled ? "stalled" : run.status);
  showBadge($('[data-badge-slot="outcome"]'), "outcome", run.outcome);
  $('[data-badge-slot="outcome"]').hidden = run.status !== "completed";
  $("#next-step").className = run.stalled ? "callout red" : "muted";
  const bar = $("#bar");
  bar.value = run.progress.fraction;
  if (run.status === "completed") bar.className = $("[data-badge-slot=outcome] .badge").classList[1];
  document.title = `${run.type_label} – ${(run.status === "completed" ? run.outcome : run.status).replaceAll("_", " ")} · opsplane`;
  showFailures(run);
  showTimeline(run);
  tell(run);
  detail.dataset.status = run.status;
  if (!$("details").open) $("#json").textContent = JSON.stringify(run, null, 2);
}

/** Screen readers hear of quarters and changes of state, and of nothing else. */
function tell(run) {
  const quarter = Math.floor(run.progress.fraction * 4);
  if (run.status !== told.status) announce(run.status === "completed" ? `Completed: ${run.outcome.replaceAll("_", " ")}` : `Now ${run.status}`);
  else if (quarter > told.quarter && run.status === "running") announce(`${quarter * 25} percent`);
  told = { status: run.status, quarter };
}

function fill(template, values) {
  const row = $(`#${template}`).content.firstElementChild.cloneNode(true);
  for (const [field, value] of Object.entries(values)) $(`[data-field="${field}"]`, row).replaceChildren(...[value].filter(Boolean));
  return row;
}

function showFailures(run) {
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

function showTimeline(run) {
  const list = $(".timeline");
  $("[data-stalled]", list).hidden = !run.stalled;
  const steps = [["started_at", "status", "running", "Started"], ["completed_at", "outcome", run.outcome]];
  steps.forEach(([field, kind, value, words]) => {
    if (!run[field] || $$("time", list).some((time) => +new Date(time.dateTime) === +new Date(run[field]))) return;
    const look = badge(kind, value);
    const at = document.createElement("time");
    showTime(at, run[field]);
    const name = Object.assign(document.createElement("strong"), { textContent: words ?? look.textContent });
    const when = Object.assign(document.createElement("span"), { className: "small muted" });
    when.append(at);
    const about = document.createElement("div");
    about.append(name, document.createElement("br"), when);
    const entry = document.createElement("li");
    entry.className = look.classList[1];
    entry.append($("svg", look), about);
    list.lastElementChild.before(entry);
  });
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
  if (item.failure_code) return `${item.failure_code}: ${item.failure_message}`;
  return item.attempts && item.state === "pending" ? `Failed ${item.attempts} times, to be tried again` : "";
}

function itemRow(item) {
  const ended = item.finished_at ? document.createElement("time") : "";
  if (ended) showTime(ended, item.finished_at);
  const row = fill("item-row", {
    who: item.tenant_external_id ?? "–",
    state: badge("item", item.state),
    updated: number(item.updated_count),
    failure: trouble(item),
    ended,
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
  stream.addEventListener("run", (event) => (heard(), showRun(JSON.parse(event.data))));
  stream.addEventListener("figures", (event) => {
    heard();
    showFigures(JSON.parse(event.data));
    itemsSoon();
  });
  stream.addEventListener("tick", heard);
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
  clearInterval(watch);
  clearTimeout(itemsDue);
  connection("over");
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

function look() {
  if (document.hidden || completed()) return;
  if (stream && stream.readyState !== EventSource.CLOSED && performance.now() - lastHeard < STALE_MS) return;
  if (stream?.readyState === EventSource.OPEN) silences += 1;
  close();
  poll();
}

const watch = setInterval(look, POLL_MS);

function visibility() {
  if (completed()) return;
  if (document.hidden) close();
  else open();
}

document.addEventListener("visibilitychange", visibility);
addEventListener("pagehide", close);
addEventListener("pageshow", (event) => event.persisted && visibility());
if (completed()) clearInterval(watch);
else open();
