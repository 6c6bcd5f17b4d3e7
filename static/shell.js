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
export async function ask(path, { method = "GET", body, headers = {}, background = false, signal } = {}) {
  const sent = { Accept: "application/json", ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  if (background) sent["X-Opsplane-Background"] = "1";
  let answer;
  try {
    answer = await fetch(path, { method, headers: sent, body: body && JSON.stringify(body), signal });
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
  const answer = await fetch(`/${plane}/me`, { headers: { Accept: "application/json", "X-Opsplane-Background": "1" } });
  return answer.status === 404;
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

/** A toast; one with a link stays until it is closed. Returns the link. */
export function toast(title, text, link) {
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

/** Live, reconnecting or stale; a stale pill is a button that tries again. */
export function connection(state, retry) {
  const pill = $("#pill");
  if (state !== "stale") pill.dataset.at = formatted("clock", new Date());
  const text = { live: "Live", reconnecting: "Reconnecting", stale: `Last update ${pill.dataset.at ?? "unknown"} · Retry`, over: "" }[state];
  pill.hidden = state === "over";
  pill.dataset.state = state;
  if (pill.textContent !== text) pill.textContent = text;
  pill.onclick = retry ?? null;
}

// ---- Numbers and times

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const number = (value) => (value == null ? "–" : grouped.format(value));

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
  const text = `${formatted(today ? "clock" : "both", date)}${zone() ? " UTC" : ""} · ${ago(date)}`;
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

export const showRunBadge = (slot, run) =>
  run.status === "completed" ? showBadge(slot, "outcome", run.outcome) : showBadge(slot, "status", run.status);

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

const rows = () => $$("tr.link");
const isTyping = (element) => element.matches("input, select, textarea, [contenteditable]");
let waitingForPlace = 0;

function move(step) {
  const all = rows();
  const here = all.indexOf(document.activeElement?.closest?.("tr.link"));
  const next = all[Math.min(all.length - 1, Math.max(0, here + step))];
  $("a", next ?? document.createElement("p"))?.focus();
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https there is no clipboard but the old one.
    const field = document.body.appendChild(Object.assign(document.createElement("textarea"), { value: text }));
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  announce(`Copied ${text}`);
}

function copyHere() {
  const row = document.activeElement?.closest?.("[data-id]") ?? $("#detail[data-id]") ?? $("[data-copy]");
  const id = row?.dataset.id ?? row?.dataset.copy;
  if (id) copy(id);
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
      await ask("/system/break-glass", { method: "DELETE" });
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
  try {
    await ask("/system/break-glass", { method: "POST", body: { reason: form.reason.value, minutes: Number(form.minutes.value) } });
    location.reload();
  } catch (problem) {
    error.textContent = problem.message;
    error.hidden = false;
  }
});

const emergency = $(".emergency");
function countDown() {
  const left = Math.max(0, Math.round((new Date(emergency.dataset.endsAt) - Date.now()) / 1000));
  $("[data-countdown]", emergency).textContent = `in ${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
  if (left === 0) location.reload();
}

// ---- The session's end, told two minutes before

const WARN_S = 120;
let endsAt = Date.now() + Number(document.body.dataset.endsIn) * 1000;
let warned = false;

async function staySignedIn() {
  try {
    const me = await ask(`/${plane}/me`);
    endsAt = Math.min(Date.now() + Number(document.body.dataset.endsIn) * 1000, new Date(me.session_expires_at));
    warned = false;
    $("#alert").replaceChildren();
  } catch (problem) {
    showProblem($("#alert"), problem);
  }
}

function watchSession() {
  const left = (endsAt - Date.now()) / 1000;
  if (left > WARN_S || warned) return;
  warned = true;
  showProblem($("#alert"), { message: left > 0 ? "You will be signed out in two minutes." : signedOut().message, link: left > 0 ? { href: "#", text: "Stay signed in" } : signedOut().link });
  if (left > 0) $("#alert a").addEventListener("click", (event) => (event.preventDefault(), staySignedIn()));
}

/** Something the reader did has used the session. */
export const used = () => (endsAt = Math.max(endsAt, Date.now() + Number(document.body.dataset.endsIn) * 1000));

// A page that was fetched before its link was clicked has not used the session; the click has.
if (performance.getEntriesByType("navigation")[0]?.deliveryType === "navigational-prefetch") staySignedIn();

showTimes();
showKeys();
setInterval(showTimes, 5000);
setInterval(watchSession, 5000);
if (emergency) {
  countDown();
  setInterval(countDown, 1000);
}
