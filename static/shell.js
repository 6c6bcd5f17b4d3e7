// What every page can do: ask its own address for JSON, show times, keys, theme, the account, an emergency's end.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
export const plane = document.body.dataset.plane;

// ---- The API

export class Problem extends Error {
  constructor(body, status) {
    super(body.detail ?? "Something unexpected happened.");
    Object.assign(this, body, { status });
  }
}

/** Asks for JSON. Throws a Problem with the server's own words; a lost session or network is a Problem too. */
export async function ask(path, { method = "GET", body, headers = {}, background = false, signal, keepalive } = {}) {
  const sent = { Accept: "application/json", ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  if (background) sent["X-Opsplane-Background"] = "1";
  let answer;
  try {
    answer = await fetch(path, { method, headers: sent, body: body && JSON.stringify(body), signal, keepalive });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ code: "unreachable", detail: "opsplane cannot be reached. Nothing was sent twice; try again." }, 0);
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 404 && (await isSignedOut())) throw signedOut();
  throw new Problem(said, answer.status);
}

async function isSignedOut() {
  const headers = { Accept: "application/json", "X-Opsplane-Background": "1" };
  const answer = await fetch(`/${plane}/me`, { headers }).catch(() => null);
  return answer?.status === 404;
}

function signedOut() {
  const next = encodeURIComponent(location.pathname + location.search);
  return new Problem(
    { code: "signed_out", detail: "Your session has ended. Nothing you typed is lost; sign in in another tab and come back, or", link: { href: `/${plane}/login?next=${next}`, text: "sign in here" } },
    401,
  );
}

/** An address of opsplane as this browser reaches it, which may be under another name than the configured one. */
export const here = (url) => new URL(url, location).pathname;

// ---- Telling people

/** Puts a problem where the reader looks, with a link if there is a next move. */
export function showProblem(place, problem) {
  const shown = $("#callout").content.cloneNode(true);
  const link = problem.view_url ? { href: here(problem.view_url), text: "View run" } : problem.link;
  $("strong", shown).textContent = problem.title && problem.status !== 401 ? `${problem.title}.` : "";
  $("span", shown).textContent = problem.message;
  if (link) Object.assign($("a", shown), { hidden: false, href: link.href, textContent: link.text });
  place.replaceChildren(shown);
}

export const announce = (text) => ($("#live").textContent = text);

/** Addresses that toasts of this page have led to: the runs that were started here. */
export const linked = new Set();

/** A toast; one with a link stays until it is closed. Returns the link. */
export function toast(title, text, link) {
  linked.add(link?.href);
  const shown = $("#toast").content.firstElementChild.cloneNode(true);
  $("strong", shown).textContent = title;
  $("span", shown).textContent = text;
  const anchor = $("a", shown);
  if (link) Object.assign(anchor, { hidden: false, href: link.href, textContent: link.text });
  else setTimeout(() => shown.remove(), 6000);
  $("[data-close]", shown).addEventListener("click", () => shown.remove());
  $("#toasts").append(shown);
  return anchor;
}

/** Says below a field what is wrong with it, or takes that back; of what describes it, that is the last. */
export function complain(field, text) {
  const place = $(`#${field.getAttribute("aria-describedby").split(" ").at(-1)}`);
  place.textContent = text;
  place.hidden = !text;
  field.setAttribute("aria-invalid", text !== "");
}

// ---- What is asked of the server by a button, or by a dialog that tells first what will happen

export const busy = (button) => button.ariaBusy === "true";

/** Does it once, however often the button is pressed, and says so on the button meanwhile. */
export async function once(button, words, act) {
  if (busy(button)) return;
  const place = $("span", button) ?? button;
  const before = place.textContent;
  button.ariaBusy = "true";
  place.textContent = words;
  try {
    return await act();
  } finally {
    button.ariaBusy = null;
    place.textContent = before;
  }
}

/** Closes by its own button and by Esc: over what was typed only when asked twice, and never over a request that is on its way. */
export function guard(dialog, isTyped) {
  const [form, go, problems] = ["form", "[type=submit]", "[data-problem]"].map((one) => $(one, dialog));
  let warned = false;
  form.addEventListener("input", () => (warned = false));
  $("[data-cancel]", dialog).addEventListener("click", () => busy(go) || dialog.close());
  dialog.addEventListener("cancel", (event) => {
    if (!busy(go) && (warned || !isTyped())) return;
    event.preventDefault();
    if (busy(go)) return;
    warned = true;
    showProblem(problems, { message: "Press Esc once more to close." });
  });
  dialog.addEventListener("close", () => (warned = false));
}

/** How fresh the page is. Live: by itself. Polling: asked just now. Reconnecting, stale: not since it says. */
export function connection(state, retry) {
  const pill = $("#pill");
  if (state === "live" || state === "polling") pill.dataset.at = formatted("clock", new Date());
  const at = pill.dataset.at ?? "unknown";
  const text = { live: "Live", polling: `Last update ${at} · Retry`, reconnecting: "Reconnecting", stale: `Last update ${at} · Retry`, over: "" }[state];
  pill.hidden = state === "over";
  pill.dataset.state = state;
  if (pill.textContent !== text) pill.textContent = text;
  pill.onclick = retry ?? null;
}

/** What a failed request means for the page: whatever ended may begin again, so nobody stops asking. */
export function lost(problem, retry) {
  connection("stale", retry);
  if (problem.code === "signed_out" || problem.status === 403) warn("session", problem);
}

/** The page has been answered: what was said of the session is over. */
export const found = () => unwarn("session");

/** Asks again and again while somebody looks, and at once when they look again. */
export function keepAsking(everyMs, act) {
  const again = async () => {
    if (document.hidden) return;
    try {
      await act();
      connection("live");
      found();
    } catch (problem) {
      lost(problem, again);
    }
  };
  setInterval(again, everyMs);
  document.addEventListener("visibilitychange", again);
  connection("live");
  return again;
}

/** One warning at the top of the page at a time, by what it is about. */
function warn(about, problem) {
  const place = $("#alert");
  // Behind an open dialog nobody would see it.
  const where = $("dialog[open] > *") ?? $("main");
  if (place.parentElement !== where) where.prepend(place);
  if (place.dataset.about === about) return;
  place.dataset.about = about;
  showProblem(place, problem);
}

function unwarn(about) {
  const place = $("#alert");
  if (place.dataset.about !== about) return;
  delete place.dataset.about;
  place.replaceChildren();
}

// ---- Numbers and times

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const number = (value) => (value == null ? "–" : grouped.format(value));

export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

export function duration(ms) {
  if (ms == null) return "–";
  const s = ms / 1000;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  const whole = Math.round(s);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

const zone = () => (document.documentElement.dataset.zone === "utc" ? "UTC" : undefined);
const AGO = [[60, "second"], [3600, "minute", 60], [86400, "hour", 3600], [5_184_000, "day", 86400], [Infinity, "month", 2_629_800]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

function ago(date) {
  const s = (date - Date.now()) / 1000;
  const [, unit, size = 1] = AGO.find(([limit]) => Math.abs(s) < limit);
  return Math.abs(s) < 5 ? "just now" : relative.format(Math.round(s / size), unit);
}

// Making a formatter takes a hundred times as long as using it.
const formatters = new Map();
function formatted(kind, date) {
  const key = `${kind} ${zone()}`;
  if (!formatters.has(key)) formatters.set(key, new Intl.DateTimeFormat("en-GB", { ...SHOWN[kind], timeZone: zone() }));
  return formatters.get(key).format(date);
}
const DAY = { day: "numeric", month: "short", year: "numeric" };
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false };
const { second, ...MINUTES } = CLOCK;
const SHOWN = { day: DAY, clock: CLOCK, both: { ...DAY, ...MINUTES } };

/** 14:02:11 · 3 minutes ago; with the day, and without seconds, unless it is today. */
export function showTime(element, iso) {
  const date = new Date(iso);
  const today = formatted("day", date) === formatted("day", new Date());
  const text = `${formatted(today ? "clock" : "both", date)}${zone() ? " UTC" : ""} · ${ago(date).replaceAll(" ", "\u00a0")}`;
  if (element.dateTime !== iso) element.dateTime = iso;
  if (element.textContent !== text) element.textContent = text;
  element.title = iso;
}

export const showTimes = (root = document) => $$("time[datetime]", root).forEach((time) => showTime(time, time.dateTime));

const AS = { number, duration };
const dig = (data, path) => path.split(".").reduce((found, key) => found?.[key], data);

/** Writes what changed into the elements that name it, and touches nothing else: selections and searches survive. */
export function patch(root, data) {
  for (const element of $$("[data-bind]", root)) {
    const value = dig(data, element.dataset.bind);
    const text = typeof value === "string" ? value : AS[element.dataset.as ?? "number"](value ?? (element.dataset.as ? null : 0));
    if (element.textContent !== text) element.textContent = text;
  }
}

/** The catalogue's badge for a value, or text where the page brought none. */
export function badge(kind, value) {
  const found = $(`[data-badge="${kind}"][data-value="${value}"]`, $("#badges").content);
  return found ? found.cloneNode(true) : document.createTextNode(value);
}

export function showBadge(slot, kind, value) {
  const now = slot.firstElementChild;
  if (now?.dataset.badge === kind && now.dataset.value === value) return;
  slot.replaceChildren(badge(kind, value));
}

/** A run's status, or what is amiss with it. */
export const statusOf = (run) => (run.stalled ? "stalled" : run.throttled ? "throttled" : run.status);

export const showRunBadge = (slot, run) =>
  run.status === "completed" ? showBadge(slot, "outcome", run.outcome) : showBadge(slot, "status", statusOf(run));

// ---- Likings, in cookies so that the server paints right the first time

function remember(name, value) {
  document.cookie = `opsplane_${name}=${value}; path=/; max-age=31536000; samesite=lax`;
}

const label = (act, text) => ($(`[data-act="${act}"] span`).textContent = text);

function nextTheme() {
  const root = document.documentElement;
  const next = { undefined: "dark", "": "dark", dark: "light", light: "" }[root.dataset.theme];
  root.dataset.theme = next;
  remember("theme", next);
  label("theme", `Theme: ${next || "as the system"}`);
  announce(`Theme: ${next || "as the system"}`);
}

function nextZone() {
  const root = document.documentElement;
  root.dataset.zone = zone() ? "local" : "utc";
  remember("zone", root.dataset.zone);
  label("zone", `Times: ${zone() ?? "local"}`);
  showTimes();
}

const keysOn = () => localStorage.getItem("opsplane-keys") !== "off";

function showKeys() {
  label("keys", `Keyboard shortcuts: ${keysOn() ? "on" : "off"}`);
  $('[data-act="keys"]').setAttribute("aria-pressed", keysOn());
}

function nextKeys() {
  localStorage.setItem("opsplane-keys", keysOn() ? "off" : "on");
  showKeys();
}

// ---- Keys

const rows = () => $$("tbody tr[data-id]");
const isTyping = (element) => element.matches("input, select, textarea, [contenteditable]");
let waitingForPlace = 0;

function move(step) {
  const all = rows();
  const current = all.indexOf(document.activeElement?.closest?.("tr[data-id]"));
  const next = all[Math.min(all.length - 1, Math.max(0, current + step))];
  if (next) ($("summary", next) ?? $("a", next)).focus();
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https there is no clipboard but the old one, and it takes the focus.
    const focused = document.activeElement;
    const field = document.body.appendChild(Object.assign(document.createElement("textarea"), { value: text }));
    field.select();
    document.execCommand("copy");
    field.remove();
    focused?.focus();
  }
  toast("Copied", text);
}

function copyHere() {
  const id = (document.activeElement?.closest?.("[data-id]") ?? $("#detail"))?.dataset.id;
  if (id) copy(id);
  else toast("Nothing to copy", "Pick a row first, with j and k.");
}

const KEYS = {
  "/": () => ($("[data-search]") ?? $("main input, main select"))?.focus(),
  "?": () => $("#help").showModal(),
  j: () => move(1),
  k: () => move(-1),
  ".": copyHere,
  t: nextTheme,
  g: () => (waitingForPlace = Date.now()),
};

document.addEventListener("keydown", (event) => {
  if (!keysOn() || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || $("dialog[open]")) return;
  const place = Date.now() - waitingForPlace < 1500 && $(`[data-place="${CSS.escape(event.key)}"]`);
  waitingForPlace = 0;
  const act = place ? () => place.click() : KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

// ---- The account, and an emergency

const ACTS = {
  theme: nextTheme,
  zone: nextZone,
  keys: nextKeys,
  help: () => $("#help").showModal(),
  emergency: () => $("#emergency").showModal(),
  "sign-out": async () => {
    await ask(`/${plane}/logout`, { method: "POST" });
    location.assign(`/${plane}/login`);
  },
};

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-act], [data-copy], [data-close], [data-end-emergency]");
  if (!button) return;
  try {
    if (button.dataset.copy) await copy(button.dataset.copy);
    else if (button.dataset.act) {
      if (!["theme", "zone", "keys"].includes(button.dataset.act)) $("#account").hidePopover();
      await ACTS[button.dataset.act]();
    } else if ("endEmergency" in button.dataset) {
      await ask(`/${plane}/break-glass`, { method: "DELETE" });
      location.reload();
    } else button.closest("dialog")?.close();
  } catch (problem) {
    showProblem($("#alert"), problem);
  }
});

$("#emergency form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const error = $(".field-error", form);
  const button = $(".danger", form);
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  try {
    await ask(`/${plane}/break-glass`, { method: "POST", body: { reason: form.reason.value, minutes: Number(form.minutes.value) } });
    location.reload();
  } catch (problem) {
    error.textContent = problem.message;
    error.hidden = false;
    button.ariaBusy = null;
  }
});

// Times to come are counted from when the page came: this computer's clock may be wrong.
const secondsIn = () => performance.now() / 1000;

const emergency = $(".emergency");
function countDown() {
  const left = Math.max(0, Math.round(Number(emergency.dataset.endsIn) - secondsIn()));
  $("[data-countdown]", emergency).textContent = `in ${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
  if (left) return;
  clearInterval(ticking);
  emergency.hidden = true;
  toast("Break-glass has ended", "You have your own rights again.");
}
const ticking = emergency && setInterval(countDown, 1000);
if (emergency) countDown();

// ---- The session's end, told two minutes before

const WARN_S = 120;
const idleS = Number(document.body.dataset.idle);
const lastS = Number(document.body.dataset.endsIn); // whatever is done, it lasts no longer
let endsS = Math.min(idleS, lastS);

/** Something the reader did has used the session. */
export function used() {
  endsS = Math.min(secondsIn() + idleS, lastS);
  unwarn("idle");
}

async function staySignedIn() {
  try {
    await ask(`/${plane}/me`);
    used();
    found();
  } catch (problem) {
    warn("session", problem);
  }
}

function watchSession() {
  const left = endsS - secondsIn();
  if (!$("#alert").closest("main, [open]")) $("main").prepend($("#alert"));
  if (left > WARN_S) return;
  if (left <= 0) {
    unwarn("idle");
    warn("session", signedOut());
  } else if (endsS < lastS) {
    warn("idle", { message: "You will be signed out in two minutes.", link: { href: "#", text: "Stay signed in" } });
    $("#alert a").onclick = (event) => (event.preventDefault(), staySignedIn());
  } else warn("idle", { message: "Your session ends in two minutes, whatever you do. Finish, and sign in again." });
}

// ---- The bell, whose own script comes after the page, or when it is opened

const bell = $("#bell");

/** Has the bell ask what is new, unless as many are unread as it knows. */
export const ring = (unread) => bell && import("./bell.js").then((loaded) => loaded.hear(unread), () => {});

if (bell) {
  bell.addEventListener("beforetoggle", () => ring(), { once: true });
  setTimeout(() => ring(Number(bell.dataset.unread)), $(`[data-unread] a[href="${location.pathname}"]`, bell) ? 0 : 5000);
}

// A page that was fetched before its link was clicked has not used the session; the click has.
if (performance.getEntriesByType("navigation")[0]?.deliveryType === "navigational-prefetch") staySignedIn();

showTimes();
showKeys();
setInterval(showTimes, 5000);
setInterval(watchSession, 5000);
