// Lists: tidy addresses of filters, and the newest runs as they go on. New rows never push what is being read.

import { $, $$, ask, connection, patch, showProblem, showRunBadge } from "./shell.js";

const EVERY_MS = 5000;

for (const form of $$("form.filters")) {
  form.addEventListener("submit", () => {
    for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
  });
}
addEventListener("pageshow", () => $$("form.filters :disabled").forEach((field) => (field.disabled = false)));

const list = $("[data-live]");

async function refresh() {
  const { items } = await ask(location.pathname + location.search, { background: true });
  let added = 0;
  for (const run of items) {
    const row = $(`tr[data-id="${run.id}"]`, list);
    if (!row) {
      added += 1;
      continue;
    }
    patch(row, run);
    showRunBadge($("[data-run-badge]", row), run);
  }
  const more = $("#new-runs");
  more.hidden = !added;
  more.textContent = `${added} new ${added === 1 ? "run" : "runs"} – show`;
}

async function follow() {
  if (document.hidden) return;
  try {
    await refresh();
    connection("live");
  } catch (problem) {
    connection("stale", follow);
    if (problem.code === "signed_out") {
      clearInterval(timer);
      showProblem($("#alert"), problem);
    }
  }
}

let timer;
if (list) {
  timer = setInterval(follow, EVERY_MS);
  document.addEventListener("visibilitychange", follow);
  connection("live");
}
