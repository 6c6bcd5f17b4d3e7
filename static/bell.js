// The bell: what became of the runs that somebody started, told until they have read it. shell.js fetches it when it is wanted.

import { $, $$, announce, ask, linked, once, showProblem, showTime, toast, used } from "./shell.js";

const ASK_MS = 15_000;
const PAGE = 20;
const path = "/system/notifications";
const bell = $("#bell");
const list = $("ol", bell);
const readAll = $("[data-read-all]", bell);
const older = $("[data-older]", bell);
const problems = $("[data-problem]", bell);
const button = $('[popovertarget="bell"]');

const rowOf = (told) => $(`[data-id="${told.id}"]`, list);
const unread = () => Number(bell.dataset.unread);

let heardAt = performance.now();
let asking = false;
let askAgain = false;
let marks = 0; // what was asked before something was marked as read knows nothing of it
let marked = Promise.resolve(); // nor does what is asked before that is answered

/** The page's stream says how many are unread; if that is news, or nobody says, the server is asked. */
export function hear(count) {
  heardAt = performance.now();
  if (count !== unread()) look();
}

async function look() {
  askAgain = asking;
  if (asking) return;
  asking = true;
  heardAt = performance.now();
  try {
    await marked;
    const before = marks;
    const page = await ask(`${path}?limit=${PAGE}`, { background: true });
    if (marks === before) show(page);
    else askAgain = true;
  } catch {
    // What is wrong is said by the page itself; the bell stays as it was.
  } finally {
    asking = false;
  }
  if (askAgain) look();
}

function show({ items, unread: count, next_cursor: next }) {
  const news = items.filter((told) => !rowOf(told));
  const rows = news.map(made);
  if (next && news.length === items.length) {
    // So many that some between these and the others are missing.
    list.replaceChildren(...rows);
    goOn(next);
  } else list.prepend(...rows);
  for (const told of items) rowOf(told).toggleAttribute("data-unread", !told.read_at);
  showCount(count);
  tell(news.filter((told) => !told.read_at));
}

function made(told) {
  const row = $(`[data-severity="${told.severity}"]`, $("template", bell).content).cloneNode(true);
  row.dataset.id = told.id;
  row.toggleAttribute("data-unread", !told.read_at);
  $("a", row).href = `/system/ops/runs/${told.run_id}`;
  $("strong", row).textContent = told.title;
  $("[data-scope]", row).textContent = told.scope;
  showTime($("time", row), told.created_at);
  return row;
}

function showCount(count) {
  bell.dataset.unread = count;
  button.ariaLabel = `Notifications, ${count || "none"} unread`;
  $(".count", button).textContent = count < 100 ? count : "99+";
  $(".count", button).hidden = !count;
  if (!count && document.activeElement === readAll) ($("a", list) ?? button).focus();
  readAll.hidden = !count;
}

/** Once and politely; louder only of a run that was started on this page. A run's own page has said it already. */
function tell(news) {
  const said = news.filter((told) => !location.pathname.endsWith(told.run_id));
  const scopeOf = ({ scope }) => scope[0].toLowerCase() + scope.slice(1);
  if (said.length > 3) announce(`${said.length} new notifications`);
  else if (said.length) announce(said.map((told) => `${told.title}, ${scopeOf(told)}`).join(". "));
  for (const told of said) {
    const { pathname } = $("a", rowOf(told));
    if (!linked.has(pathname)) continue;
    const shown = toast(told.title, told.scope, { href: pathname, text: "View run" }).closest(".toast");
    $(".i", shown).replaceWith($(".badge .i", rowOf(told)).cloneNode(true));
    $(".i", shown).classList.add($(".badge", rowOf(told)).classList[1]);
  }
}

// ---- Reading

function mark(what, options) {
  marks += 1;
  const answered = ask(`${path}/${what}`, { method: "POST", ...options });
  marked = Promise.allSettled([marked, answered]);
  return answered;
}

/** Also while the page is being left, for the link leads away from it. */
function read(row) {
  if (!row?.hasAttribute("data-unread")) return;
  row.removeAttribute("data-unread");
  showCount(Math.max(0, unread() - 1));
  mark(`${row.dataset.id}/read`, { keepalive: true }).then(used, look);
}

async function readEverything() {
  problems.replaceChildren();
  await mark("read");
  used();
  for (const row of $$("[data-unread]", list)) row.removeAttribute("data-unread");
  showCount(0);
}

function goOn(next) {
  bell.dataset.next = next ?? "";
  older.hidden = !next;
}

async function showOlder() {
  problems.replaceChildren();
  const { items, next_cursor: next } = await ask(`${path}?limit=${PAGE}&cursor=${bell.dataset.next}`);
  const rows = items.filter((told) => !rowOf(told)).map(made);
  list.append(...rows);
  goOn(next);
  if (rows.length) $("a", rows[0]).focus();
}

const refused = (problem) => showProblem(problems, problem);
list.addEventListener("click", (event) => read(event.target.closest("li")));
list.addEventListener("auxclick", (event) => event.button === 1 && read(event.target.closest("li")));
readAll.addEventListener("click", () => once(readAll, "Marking…", readEverything).catch(refused));
older.addEventListener("click", () => once(older, "Fetching…", showOlder).catch(refused));
document.addEventListener("visibilitychange", () => document.hidden || look());
setInterval(() => document.hidden || performance.now() - heardAt < ASK_MS - 1000 || look(), ASK_MS);

goOn(bell.dataset.next);
readAll.hidden = !unread();
// Whoever opens the page of a run has read what it was about, however they came there.
for (const row of $$("[data-unread]", list)) if ($("a", row).pathname === location.pathname) read(row);
