// Lists: tidy addresses of filters, and the newest runs as they go on. New rows never push what is being read.

import { $, $$, ask, keepAsking, number, patch, showRunBadge } from "./shell.js";

for (const form of $$("form.filters")) {
  form.addEventListener("submit", () => {
    for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
  });
}
addEventListener("pageshow", () => $$("form.filters :disabled").forEach((field) => (field.disabled = false)));

const list = $("[data-live]");

async function refresh() {
  const { items, next_cursor: more } = await ask(location.pathname + list.dataset.live, { background: true });
  const news = items.filter((run) => !show(run)).length;
  // Ids sort by time: a row between those of a page that is not on it has left the filter.
  const last = more ? items.at(-1).id : "";
  const kept = new Set(items.map((run) => run.id));
  const gone = $$("tr[data-id]", list).filter((row) => row.dataset.id > last && !kept.has(row.dataset.id));
  for (const row of gone) row.classList.add("gone");
  const told = [news && `${news} new ${news === 1 ? "run" : "runs"}`, gone.length && `${gone.length} no longer here`];
  $("#new-runs").hidden = !news && !gone.length;
  $("#new-runs").textContent = `${told.filter(Boolean).join(", ")} – show`;
}

/** Brings a run's row up to date; false if there is none. */
function show(run) {
  const row = $(`tr[data-id="${run.id}"]`, list);
  if (!row) return false;
  patch(row, run);
  showRunBadge($("[data-run-badge]", row), run);
  const why = $("[data-why]", row);
  why.hidden = !run.throttled;
  why.textContent = run.throttled?.reason ?? "";
  const { failed = 0 } = run.summary_counts;
  $("[data-failed]", row).hidden = !failed;
  $("[data-failed]", row).textContent = `${number(failed)} failed`;
  return true;
}

if (list) keepAsking(5000, refresh);
