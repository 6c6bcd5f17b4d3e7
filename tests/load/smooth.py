"""`python -m tests.load.smooth`: are pages smooth with 5,000 tenants in a run and 10,000 runs in the list?

A real Chromium shows the pages while a real worker is busy with the run. It counts the frames it drew and
the tasks that held them up; and it notes when a committed number stood on the screen.
"""

import argparse
import asyncio
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import Page, async_playwright
from sqlalchemy import func, select, text, update

from opsplane.config import Settings
from opsplane.runs.models import OperationRunItem
from tests import web
from tests.load import stand
from tests.load.stand import Stand

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
RUNS = """
    INSERT INTO operation_runs (id, workspace_id, type, runbook_version, status, outcome, scope_kind, lock_group,
        tenant_span, source, initiator_kind, initiator_display, summary_counts, context, created_at, started_at,
        completed_at)
    SELECT gen_random_uuid(), (SELECT id FROM workspaces LIMIT 1), 'findings.lifecycle.backfill', 1, 'completed',
        (ARRAY['succeeded', 'failed', 'partially_succeeded', 'cancelled'])[1 + n % 4], 'all_tenants', 'old', '(,)',
        'cli', 'cli_user', 'load', '{"total": 5000, "processed": 5000, "updated": 12345}', '{"duration_ms": 61000}',
        now() - n * interval '1 minute', now() - n * interval '1 minute', now() - n * interval '59 seconds'
    FROM generate_series(1, CAST(:count AS int)) n
"""
# What runs in the page: frames and how far apart they were, tasks over 50 ms, and each number as it was painted.
COUNT_FRAMES = """(seconds) => new Promise((done) => {
  const gaps = [], long = [];
  new PerformanceObserver((list) => list.getEntries().forEach((task) => long.push(task.duration))).observe({type: "longtask"});
  let last = performance.now();
  const ends = last + seconds * 1000;
  const frame = (now) => {
    gaps.push(now - last); last = now;
    scrollBy(0, 40); if (scrollY + innerHeight >= document.body.scrollHeight - 1) scrollTo(0, 0);
    if (now < ends) requestAnimationFrame(frame);
    else done({gaps, long, nodes: document.querySelectorAll("*").length});
  };
  requestAnimationFrame(frame);
})"""
NOTE_NUMBERS = """() => {
  const number = document.querySelector('[data-bind="summary_counts.errors"]');
  window.painted = [];
  new MutationObserver(() => requestAnimationFrame(() => setTimeout(() =>
    window.painted.push([Number(number.textContent.replaceAll(",", "")), performance.timeOrigin + performance.now()])
  ))).observe(number, {childList: true, characterData: true, subtree: true});
}"""


def main() -> int:
    """Look once and print what was seen."""
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="opsplane-load-") as home, stand.servers(Path(home)) as settings:
        asyncio.run(_look(settings, given))
    return 0


async def _look(settings: Settings, given: argparse.Namespace) -> None:
    async with stand.opened(settings, tenants=given.tenants) as found, async_playwright() as playwright:
        async with found.plane.db.transaction() as tx:
            await tx.session.execute(text(RUNS), {"count": given.runs})
        run, runs = f"/system/ops/runs/{found.run_id}", "/system/ops/runs"
        for path in (run, runs, f"{runs}?outcome=failed"):
            _say(f"{path.replace(str(found.run_id), 'RUN')}: {await _server_time(found, path)}")
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        page = await browser.new_page(base_url=found.address, viewport={"width": 1440, "height": 900})
        await _sign_in(page)
        for path in (run, runs):
            await page.goto(path)
            _say(
                f"{path.replace(str(found.run_id), 'RUN')}: {_frames(await page.evaluate(COUNT_FRAMES, given.seconds))}"
            )
        await page.goto(run)
        async with stand.crowd(found, given.watchers):
            _say(f"commit to paint, beside {given.watchers} watchers: {await _commit_to_paint(found, page)}")
        await browser.close()


async def _sign_in(page: Page) -> None:
    await page.goto("/system/login")
    await page.fill("[name=username]", stand.OPERATOR)
    await page.fill("[name=password]", web.PASSWORD)
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/ops/runbooks")


async def _server_time(found: Stand, path: str) -> str:
    took = []
    headers = {"Authorization": f"Bearer {found.token}", "Accept": "text/html", "Accept-Encoding": "gzip"}
    async with httpx.AsyncClient(base_url=found.address, headers=headers) as client:
        for _ in range(60):
            began = time.perf_counter()
            answer = await client.get(path)
            took.append((time.perf_counter() - began) * 1000)
            assert answer.status_code == 200, answer.text
    compressed = answer.num_bytes_downloaded
    return f"p50 {statistics.median(took):.0f} ms, p95 {_cut(took, 95):.0f} ms, {compressed / 1000:.1f} kB compressed"


def _frames(seen: dict[str, Any]) -> str:
    gaps, long = seen["gaps"], seen["long"]
    return (
        f"{len(gaps)} frames, {1000 / statistics.mean(gaps):.0f} a second, p99 {_cut(gaps, 99):.0f} ms apart, "
        f"{len(long)} tasks over 50 ms (longest {max(long, default=0):.0f} ms), {seen['nodes']} elements"
    )


async def _commit_to_paint(found: Stand, page: Page) -> str:
    await page.evaluate(NOTE_NUMBERS)
    committed = {}
    async with found.plane.db.reading() as session:
        last = await session.scalar(
            select(func.max(OperationRunItem.ordinal)).where(OperationRunItem.run_id == found.run_id)
        )
    for number in range(1, 61):
        async with found.plane.db.transaction() as tx:
            mine = (OperationRunItem.run_id == found.run_id) & (OperationRunItem.ordinal == last)
            await tx.session.execute(update(OperationRunItem).where(mine).values(error_count=number))
        committed[number] = time.time() * 1000
        found.plane.queue.hints.changed(found.run_id)
        await asyncio.sleep(random.uniform(0.3, 0.5))
    painted = dict(await page.evaluate("() => window.painted"))
    delays = [painted[number] - at for number, at in committed.items() if number in painted]
    return f"{len(delays)} of {len(committed)}, p50 {statistics.median(delays):.0f} ms, p99 {_cut(delays, 99):.0f} ms"


def _cut(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.load.smooth", description="Pages with much on them.")
    parser.add_argument("--tenants", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--watchers", type=int, default=199)
    parser.add_argument("--seconds", type=float, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
