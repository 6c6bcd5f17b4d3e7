"""What Prometheus is told, by real processes over real servers, also by one whose database is stopped."""

import asyncio
import re
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, text

from opsplane import migrate
from opsplane.auth.actors import Actor
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.queue import Queue
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.runs import control, installation, leases, lifecycle, sweeper
from opsplane.runs import metrics as run_metrics
from opsplane.runs.control import Ask
from opsplane.tenants.models import Tenant
from tests import support, web
from tests.faults import servers as own_servers
from tests.integration.conftest import Commands
from tests.integration.test_processes import until
from tests.support import BACKFILL
from tests.web import Doors

Samples = dict[tuple[str, tuple[str, ...]], float]
UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
ANSWERS_WITHIN_S = 3.0


def parsed(exposed: str) -> Samples:
    """Samples of opsplane by name and the values of their labels, in the order of the labels' names."""
    found: Samples = {}
    for family in text_string_to_metric_families(exposed):
        assert family.documentation, family.name
        assert family.type != "unknown", family.name
        for sample in family.samples:
            key = (sample.name, tuple(sample.labels.values()))
            assert key not in found, key
            found[key] = sample.value
    return {key: value for key, value in found.items() if key[0].startswith("opsplane_")}


async def scraped(doors: Doors) -> Samples:
    """What a process says to Prometheus on its own machine."""
    answer = await doors.client("127.0.0.1").get("/metrics")
    assert answer.status_code == 200
    return parsed(answer.text)


def counted(name: str, *labels: str) -> float:
    """What this process has counted so far."""
    found = {
        tuple(sample.labels.values()): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == name
    }
    return found.get(labels, 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_run_in_a_real_worker_shows_in_the_installations_figures_and_on_the_workers_own_port(
    plane: Plane, operator: Actor, tenants: list[Tenant], commands: Commands
) -> None:
    port = free_port()
    commands.start("worker", "--metrics-port", str(port))
    run = (await support.start(plane, operator, "test.effects.slow")).run

    async def figures() -> Samples:
        async with web.doors(plane) as fresh:  # which has kept nothing from a scrape before
            return await scraped(fresh)

    async def at_work() -> bool:
        now = await figures()
        return (
            now.get(("opsplane_runs_active", ("running", "test.effects.slow"))) == 1
            and now["opsplane_items_open", ("running",)] == 1
            and now["opsplane_leases", ("live",)] == 1
            and now["opsplane_processes", ("worker",)] == 1
        )

    async def completed() -> bool:
        return (await support.show(plane, run.id)).status == "completed"

    await until(at_work)
    await until(completed)
    after = await figures()
    assert ("opsplane_runs_active", ("running", "test.effects.slow")) not in after
    assert (after["opsplane_items_open", ("pending",)], after["opsplane_worker_slots_free", ()]) == (0, 1)

    async with httpx.AsyncClient() as client:
        own = parsed((await client.get(f"http://127.0.0.1:{port}/metrics")).text)
    assert own["opsplane_runs_completed_total", ("succeeded", "test.effects.slow")] == 1
    assert own["opsplane_runs_completed_total", ("failed", "test.effects.slow")] == 0
    assert own["opsplane_items_ended_total", ("succeeded",)] == 3
    assert own["opsplane_rows_updated_total", ("test.effects.slow",)] == 120
    assert own["opsplane_chunk_seconds_count", ()] == 12
    assert own["opsplane_sweep_step_seconds_count", ("expand_queued",)] > 0
    assert time.time() - own["opsplane_sweep_last_completed_timestamp_seconds", ()] < 10
    assert own["opsplane_audit_spool_files", ()] == 0
    assert "opsplane_runs_active" not in {name for name, _ in own}


async def test_a_workers_taken_port_is_an_error_of_one_line(commands: Commands) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = await asyncio.to_thread(commands.run, "worker", "--metrics-port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: Cannot listen on 127.0.0.1:{port} (")
    assert done.stderr.count("\n") == 1


async def test_runs_and_items_are_counted_by_how_they_ended(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    await support.add_findings(plane, tenants[0], 70)
    names = [
        ("opsplane_runs_completed_total", BACKFILL, "succeeded"),
        ("opsplane_runs_completed_total", "test.effects.fails", "partially_succeeded"),
        ("opsplane_runs_completed_total", "test.effects.plain", "cancelled"),
        ("opsplane_items_ended_total", "succeeded"),
        ("opsplane_items_ended_total", "skipped"),
        ("opsplane_items_ended_total", "failed"),
        ("opsplane_items_ended_total", "cancelled"),
        ("opsplane_rows_updated_total", BACKFILL),
    ]
    before = [counted(*name) for name in names]
    await support.finished_run(plane, operator)
    await support.finished_run(plane, operator, "test.effects.fails")
    run = (await support.start(plane, operator, "test.effects.plain")).run
    async with plane.db.transaction() as tx:
        await lifecycle.begin(tx.session, run.id)
    async with plane.db.transaction() as tx:
        await control.ask(tx.session, run.id, Ask.CANCEL, by=operator)
    async with plane.db.transaction() as tx:
        await lifecycle.settle(tx.session, run.id)
    assert [counted(*name) - old for name, old in zip(names, before, strict=True)] == [1, 1, 1, 3, 2, 1, 3, 70]


async def test_what_is_rolled_back_is_not_counted(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run = (await support.start(plane, operator, "test.effects.plain")).run
    async with plane.db.transaction() as tx:
        await lifecycle.begin(tx.session, run.id)
        lease = await leases.claim(tx.session, run.id, uuid.uuid4(), lease_s=20)
    assert lease is not None
    name = ("opsplane_items_ended_total", "failed")
    before = counted(*name)
    with pytest.raises(RuntimeError):
        async with plane.db.transaction() as tx:
            await leases.fail(tx.session, lease, code="x", message="x")
            raise RuntimeError
    assert counted(*name) == before
    async with plane.db.transaction() as tx:
        await leases.fail(tx.session, lease, code="x", message="x")
    assert counted(*name) == before + 1


async def test_a_tenant_that_changes_hands_is_counted_by_why(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run = (await support.start(plane, operator, "test.effects.plain")).run
    worker = uuid.uuid4()

    async def claimed() -> leases.Lease:
        async with plane.db.transaction() as tx:
            lease = await leases.claim(tx.session, run.id, worker, lease_s=20)
        assert lease is not None
        return lease

    async with plane.db.transaction() as tx:
        await lifecycle.begin(tx.session, run.id)
    before = [counted("opsplane_tenants_given_back_total", reason) for reason in run_metrics.REASONS]
    lost = counted("opsplane_leases_lost_total")
    held, late, left = await claimed(), await claimed(), await claimed()
    async with plane.db.transaction() as tx:
        await leases.release(tx.session, [held])
        await leases.release(tx.session, [held])  # nobody's by now: nothing is given back
        await leases.retry_later(tx.session, late, "x", "x")
        await leases.release_others(tx.session, worker, [])
    drainer = support.drainer(plane)
    await drainer.carrier(run.id, registry.find("test.effects.plain")).carry([left])
    again = await claimed()
    async with plane.db.transaction() as tx:
        await tx.session.execute(
            text("UPDATE operation_run_items SET lease_until = now() - interval '1 s' WHERE state = 'running'")
        )
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert again.run_id == run.id
    after = [counted("opsplane_tenants_given_back_total", reason) for reason in run_metrics.REASONS]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1, 1, 1]
    assert counted("opsplane_leases_lost_total") == lost + 1


async def test_a_step_of_the_sweeper_that_fails_is_counted(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    async def expand_queued(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(sweeper, "STEPS", (expand_queued,))
    before = counted("opsplane_sweep_step_failures_total", "expand_queued")
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert counted("opsplane_sweep_step_failures_total", "expand_queued") == before + 1


# The figures of the installation


async def many_runs(plane: Plane, runs: int, items: int) -> None:
    """Active runs with open items, beside many runs and items that have ended."""
    async with plane.db.transaction() as tx:
        await tx.session.execute(
            text(
                "INSERT INTO operation_runs (id, workspace_id, type, runbook_version, status, outcome, scope_kind,"
                " lock_group, tenant_span, source, initiator_kind, initiator_display, summary_counts, context,"
                " stalled_at, created_at)"
                " SELECT gen_random_uuid(), w.id, 'metrics.test', 1,"
                " CASE WHEN n > :runs THEN 'completed' WHEN n % 2 = 0 THEN 'queued' ELSE 'running' END,"
                " CASE WHEN n > :runs THEN 'succeeded' ELSE 'pending' END,"
                " 'single_tenant', 'metrics.test' || n, '(,)', 'cli', 'cli', 'tester', '{}', '{}',"
                " CASE WHEN n = 1 THEN now() END, now() - make_interval(secs => n)"
                " FROM workspaces w, generate_series(1, :runs * 10) n"
            ),
            {"runs": runs},
        )
        await tx.session.execute(
            text(
                "INSERT INTO operation_run_items (run_id, item_key, ordinal, state, lease_until)"
                " SELECT r.id, n::text, n, CASE WHEN r.status = 'completed' THEN 'succeeded'"
                " WHEN n <= 2 THEN 'running' ELSE 'pending' END,"
                " CASE WHEN r.status <> 'completed' THEN now() + (n - 1.5) * interval '1 hour' END"
                " FROM operation_runs r, generate_series(1, :items) n"
            ),
            {"items": items},
        )
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("ANALYZE operation_runs, operation_run_items"))


async def test_the_figures_are_those_of_100_active_runs_read_in_a_few_statements(plane: Plane, doors: Doors) -> None:
    await many_runs(plane, 100, 20)
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(plane.db.engine.sync_engine, "before_cursor_execute", note)
    try:
        now = await scraped(doors)
        await asyncio.gather(*(scraped(doors) for _ in range(10)))
    finally:
        event.remove(plane.db.engine.sync_engine, "before_cursor_execute", note)
    assert len(asked) <= 10, asked
    assert now["opsplane_database_up", ()] == 1
    assert now["opsplane_runs_active", ("running", "metrics.test")] == 50
    assert now["opsplane_runs_active", ("queued", "metrics.test")] == 50
    assert now["opsplane_runs_stalled", ()] == 1
    assert now["opsplane_runs_throttled", ()] == 0
    assert 100 <= now["opsplane_runs_oldest_queued_age_seconds", ()] < 130
    assert now["opsplane_items_open", ("pending",)] == 1800
    assert now["opsplane_items_open", ("running",)] == 200
    assert (now["opsplane_leases", ("live",)], now["opsplane_leases", ("expired",)]) == (100, 100)


@pytest.mark.parametrize(
    ("statement", "indexes"),
    [
        ("_runs", {"ix_operation_runs_active", "one_active_run_per_scope"}),  # either one is of active runs alone
        ("_leases", {"ix_operation_run_items_leased"}),
        ("_waiting", {"ix_operation_run_items_pending", "pk_audit_pending", "ix_outbox_unrouted"}),
        ("_deliveries", {"ix_alert_deliveries_due"}),
    ],
)
async def test_figures_are_read_by_indexes_of_what_is_not_over(plane: Plane, statement: str, indexes: set[str]) -> None:
    await many_runs(plane, 100, 20)
    asked = getattr(installation, statement)()
    compiled = str(asked.compile(plane.db.engine, compile_kwargs={"literal_binds": True, "render_postcompile": True}))
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("SELECT set_config('enable_seqscan', 'off', true)"))
        plan = "\n".join((await tx.session.scalars(text(f"EXPLAIN {compiled}"))).all())
    used = set(re.findall(r"Index(?: Only)? Scan (?:using|on) (\w+)", plan))
    assert used, plan
    assert used <= indexes, plan
    assert "Seq Scan" not in plan


async def test_the_outbox_the_audit_and_deliveries_that_wait_are_told(plane: Plane, doors: Doors) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(
            text("INSERT INTO audit_pending (event_id) SELECT gen_random_uuid() FROM generate_series(1, 4)")
        )
        await tx.session.execute(
            text(
                "INSERT INTO outbox (id, kind, dedupe_key, payload, routed_at)"
                " SELECT gen_random_uuid(), 'alerts.test', n::text, '{}', CASE WHEN n > 2 THEN now() END"
                " FROM generate_series(1, 6) n"
            )
        )
        await tx.session.execute(
            text(
                "INSERT INTO alert_deliveries (id, event_id, destination_id, rule_id, destination_name, cooldown_key,"
                " status, due_at, give_up_at)"
                " SELECT gen_random_uuid(), id, gen_random_uuid(), gen_random_uuid(), 'x', 'x',"
                " (ARRAY['pending', 'pending', 'held', 'delivered', 'suppressed', 'dead'])[dedupe_key::int],"
                " now() - interval '100 s', now() FROM outbox"
            )
        )
    now = await scraped(doors)
    assert (now["opsplane_audit_events_pending", ()], now["opsplane_outbox_events_unrouted", ()]) == (4, 2)
    assert now["opsplane_alert_deliveries_open", ("pending",)] == 2
    assert now["opsplane_alert_deliveries_open", ("held",)] == 1
    assert 100 <= now["opsplane_alert_deliveries_overdue_seconds", ()] < 130


async def test_no_label_holds_an_id_a_tenant_or_an_address(
    plane: Plane, doors: Doors, operator: Actor, tenants: list[Tenant]
) -> None:
    user = await web.platform_user(plane, "platform.system.access", "platform.ops.view")
    client = await doors.signed_in(user.email)
    run_id = await support.finished_run(plane, operator, "test.effects.plain", tenant="acme")
    for path in (f"/system/ops/runs/{run_id}", f"/system/ops/runs/{run_id}/items", f"/system/ops/runs/{uuid.uuid4()}"):
        await client.get(path)
    for name, labels in await scraped(doors):
        for label in labels:
            assert not UUID.search(label), (name, label)
            assert "@" not in label, (name, label)
            assert label not in {"acme", "globex", "initech"}, (name, label)


async def test_200_paths_that_are_not_there_add_one_series(plane: Plane, doors: Doors) -> None:
    user = await web.platform_user(plane, "platform.system.access", "platform.ops.view")
    inside, stranger = await doors.signed_in(user.email), doors.client()
    for client in (inside, stranger):
        await client.get("/system/not-there")
    before = set(await scraped(doors))
    for _ in range(100):
        for client in (inside, stranger):
            assert (await client.get(f"/system/{uuid.uuid4().hex}/{uuid.uuid4().hex}")).status_code == 404
    assert set(await scraped(doors)) - before == set()
    assert ("opsplane_http_requests_total", ("GET", "system", "none", "404")) in before


# Without a database


async def test_a_database_that_is_away_costs_the_figures_and_not_the_scrape(plane: Plane, settings: Settings) -> None:
    lost = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none"})
    absent = Plane(Database(lost), Queue(lost), lost)
    async with web.doors(absent) as doors:
        began = time.monotonic()
        now = await scraped(doors)
        assert time.monotonic() - began < ANSWERS_WITHIN_S
    assert now["opsplane_database_up", ()] == 0
    assert ("opsplane_leases_lost_total", ()) in now
    assert ("opsplane_runs_stalled", ()) not in now
    await absent.queue.close()
    await absent.db.close()


async def test_a_database_of_another_release_costs_the_figures_and_not_the_scrape(
    settings: Settings, new_database: Any
) -> None:
    empty = settings.model_copy(update={"database_url": await new_database()})
    absent = Plane(Database(empty), Queue(empty), empty)
    async with web.doors(absent) as doors:
        assert (await scraped(doors))["opsplane_database_up", ()] == 0
    await absent.queue.close()
    await absent.db.close()


@pytest.fixture
async def own_postgres(tmp_path: Path) -> AsyncIterator[own_servers.Child]:
    """A PostgreSQL that a test may stop."""
    child = own_servers.make_postgres(tmp_path)
    await child.start()
    yield child
    await child.end(signal.SIGQUIT)
    child.server.close()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP of a process and all that it has started."""
    head = psutil.Process(pid)
    head.suspend()  # so that no child is born meanwhile
    everybody = [head, *head.children(recursive=True)]
    for process in everybody:
        process.suspend()
    try:
        yield
    finally:
        for process in everybody:
            process.resume()


async def test_a_server_whose_database_is_stopped_answers_within_three_seconds_also_a_token_that_it_knows(
    own_postgres: own_servers.Child, settings: Settings
) -> None:
    mine = settings.model_copy(update={"database_url": own_postgres.server.url})
    await migrate.upgrade(mine)
    plane = Plane(Database(mine), Queue(mine), mine)
    user = await web.platform_user(plane, "platform.system.access", "platform.ops.view")
    known, unknown = [
        {"Authorization": f"Bearer {await web.token(plane, user, 'platform.system.access', 'platform.ops.view')}"}
        for _ in range(2)
    ]
    elsewhere = {"X-Forwarded-For": "192.0.2.1"}
    commands, port = Commands(mine), free_port()
    commands.start("serve", "--port", str(port))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            async def up() -> bool:
                try:
                    return (await client.get("/readyz")).status_code == 200
                except httpx.ConnectError:
                    return False

            async def figures_of(headers: dict[str, str]) -> Samples:
                began = time.monotonic()
                answer = await client.get("/metrics", headers=headers)
                assert time.monotonic() - began < ANSWERS_WITHIN_S
                return parsed(answer.text) if answer.status_code == 200 else {}

            await until(up)
            assert (await figures_of(elsewhere | known))["opsplane_database_up", ()] == 1
            await asyncio.sleep(5)  # what was read is no longer kept
            with stopped(own_postgres.pid):
                for headers in ({}, elsewhere | known):
                    now = await figures_of(headers)
                    assert now["opsplane_database_up", ()] == 0
                    assert now["opsplane_http_requests_total", ("GET", "none", "/readyz", "200")] >= 1
                assert await figures_of(elsewhere | unknown) == {}

            async def back() -> bool:
                return (await figures_of(elsewhere | unknown)).get(("opsplane_database_up", ())) == 1

            await until(back)
            async with plane.db.transaction() as tx:
                await tx.session.execute(text("UPDATE api_tokens SET revoked_at = now()"))
            assert (await client.get("/metrics", headers=elsewhere | known)).status_code == 401
    finally:
        await asyncio.to_thread(commands.end)
        await plane.queue.close()
        await plane.db.close()
