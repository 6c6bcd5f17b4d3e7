"""Real processes: workers that are killed, deploy hooks that race, commands as people type them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text

from opsplane import migrate
from opsplane.auth.actors import Actor
from opsplane.config import Settings
from opsplane.queue import QUEUE
from opsplane.runbooks.service import Plane
from opsplane.runs import processes
from opsplane.tenants.models import Tenant
from tests import support
from tests.conftest import RUNBOOKS
from tests.integration.conftest import Commands
from tests.support import BACKFILL

ROWS = 40


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 40) -> None:
    ends = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < ends, "it did not happen in time"
        await asyncio.sleep(0.05)


async def effects(plane: Plane) -> int:
    async with plane.db.reading() as session:
        return int(await session.scalar(text("SELECT count(*) FROM effects")) or 0)


async def test_a_run_survives_kill_9_of_its_only_worker_with_an_exact_count(
    plane: Plane, operator: Actor, tenants: list[Tenant], commands: Commands
) -> None:
    worker = commands.start("worker")
    run = (await support.start(plane, operator, "test.effects.slow")).run

    async def under_way() -> bool:
        return await effects(plane) >= 20

    await until(under_way)
    worker.send_signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    assert 0 < await effects(plane) < 3 * ROWS
    commands.start("worker")

    async def completed() -> bool:
        return (await support.show(plane, run.id)).status == "completed"

    await until(completed)
    done = await support.show(plane, run.id)
    assert (done.outcome, done.context.updated_count) == ("succeeded", 3 * ROWS)
    assert await effects(plane) == 3 * ROWS


async def test_a_worker_told_to_stop_finishes_its_chunk_and_leaves_nothing_leased(
    plane: Plane, operator: Actor, tenants: list[Tenant], commands: Commands
) -> None:
    worker = commands.start("worker")
    await support.start(plane, operator, "test.effects.slow")

    async def under_way() -> bool:
        return await effects(plane) >= 20

    await until(under_way)
    asked = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker.wait, 25) == 0
    assert time.monotonic() - asked < 25
    async with plane.db.reading() as session:
        leased = await session.scalar(
            text("SELECT count(*) FROM operation_run_items WHERE state = 'running' OR leased_by IS NOT NULL")
        )
        assert (leased, await processes.live_workers(session)) == (0, [])


async def test_workers_go_on_from_postgres_while_redis_is_away(
    plane: Plane, operator: Actor, tenants: list[Tenant], commands: Commands
) -> None:
    worker = commands.start("worker", OPSPLANE_REDIS_URL="redis://127.0.0.1:1")
    run = (await support.start(plane, operator, "test.effects.plain")).run

    async def completed() -> bool:
        assert worker.poll() is None
        return (await support.show(plane, run.id)).status == "completed"

    await until(completed)
    assert await effects(plane) == 3 * ROWS


async def test_a_pickle_in_redis_is_refused_and_not_run(
    plane: Plane, operator: Actor, tenants: list[Tenant], commands: Commands, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    evil = b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    await plane.queue.redis.set("arq:job:evil", evil)
    await plane.queue.redis.zadd(QUEUE, {"evil": 1})
    commands.start("worker")
    run = (await support.start(plane, operator, "test.effects.plain")).run

    async def completed() -> bool:
        return (await support.show(plane, run.id)).status == "completed"

    async def refused() -> bool:
        return not await plane.queue.redis.exists("arq:job:evil")

    await until(completed)
    await until(refused)
    assert not canary.exists()


async def test_a_tenant_that_kills_its_worker_three_times_fails_and_takes_no_other_along(
    plane: Plane, operator: Actor, tenants: list[Tenant], commands: Commands
) -> None:
    run = (await support.start(plane, operator, "test.effects.poison")).run
    worker = commands.start("worker", OPSPLANE_WORKER_CONCURRENCY="3")

    async def completed() -> bool:
        nonlocal worker
        if worker.poll() is not None:
            assert worker.returncode == 9
            worker = commands.start("worker", OPSPLANE_WORKER_CONCURRENCY="3")
        return (await support.show(plane, run.id)).status == "completed"

    await until(completed, 120)
    done = await support.show(plane, run.id)
    assert done.outcome == "partially_succeeded"
    assert [(failure.tenant_external_id, failure.code) for failure in done.failures] == [("globex", "worker_lost")]
    assert await effects(plane) == 2 * ROWS


async def test_doctor_names_every_check_even_on_an_empty_database(
    settings: Settings, new_database: Callable[[], Awaitable[str]]
) -> None:
    commands = Commands(settings.model_copy(update={"database_url": await new_database()}))
    try:
        found = json.loads((answer := await asyncio.to_thread(commands.run, "doctor", "--json")).stdout)
    finally:
        commands.end()
    assert answer.returncode == 4
    wrong = {check["name"] for check in found if not check["ok"]}
    assert wrong == {"schema", "extension", "audit", "workers", "alerts", "indexes"}
    assert {check["name"] for check in found} - wrong == {
        "configuration", "database", "redis", "throttle", "mail", "runbooks",
    }  # fmt: skip


async def test_ten_deploys_at_once_repair_once_and_end_with_that_runs_result(
    settings: Settings, new_database: Callable[[], Awaitable[str]]
) -> None:
    url = await new_database()
    commands = Commands(settings.model_copy(update={"database_url": url}))
    try:
        assert commands.run("migrate").returncode == 0
        connection = await asyncpg.connect(url)
        await connection.execute(
            "INSERT INTO tenants (id, workspace_id, external_id, name)"
            " SELECT gen_random_uuid(), id, 'acme', 'Acme' FROM workspaces"
        )
        await connection.execute(
            "INSERT INTO findings (id, workspace_id, tenant_id, external_ref, title, severity, status, fingerprint)"
            " SELECT gen_random_uuid(), workspace_id, id, 'R', 't', 'low', 'new', n::text"
            " FROM tenants, generate_series(1, 500) n WHERE external_id = 'acme'"
        )
        commands.start("worker")
        hooks = [commands.start("--release", "r1", "--timeout", "60", module="deploy") for _ in range(10)]
        answers = [await asyncio.to_thread(hook.communicate, timeout=90) for hook in hooks]
        assert [hook.returncode for hook in hooks] == [0] * 10, answers
        runs = await connection.fetch("SELECT source, initiator_id, reason_text, release FROM operation_runs")
        assert [tuple(row) for row in runs] == [("deploy_hook", None, "Deploy of release r1", "r1")]
        await connection.close()
    finally:
        commands.end()


async def test_ten_deploys_at_once_on_an_empty_database_make_one_migration_and_one_run(
    settings: Settings, new_database: Callable[[], Awaitable[str]]
) -> None:
    url = await new_database()
    commands = Commands(settings.model_copy(update={"database_url": url}))
    connection = await asyncpg.connect(url)
    books = {"OPSPLANE_RUNBOOKS_DIR": str(RUNBOOKS.with_name("deploy_runbooks"))}
    try:
        hooks = [commands.start("--release", "r1", "--timeout", "60", module="deploy", **books) for _ in range(10)]

        async def migrated() -> bool:
            return bool(await connection.fetchval("SELECT to_regclass('operation_runs')")) and (
                await connection.fetchval("SELECT version_num FROM opsplane_schema_version") == migrate.head()
            )

        await until(migrated)
        commands.start("worker", **books)
        answers = [await asyncio.to_thread(hook.communicate, timeout=90) for hook in hooks]
        assert [hook.returncode for hook in hooks] == [0] * 10, answers
        assert sum("migrate: done" in out for out, _ in answers) == 1
        runs = await connection.fetch("SELECT type, outcome FROM operation_runs")
        assert [tuple(run) for run in runs] == [("test.deploy.always", "succeeded")]
    finally:
        await connection.close()
        commands.end()


async def test_the_command_line_looks_starts_waits_and_tells(
    plane: Plane, tenants: list[Tenant], commands: Commands
) -> None:
    await support.add_findings(plane, tenants[0], 70)
    commands.start("worker")
    looked = commands.run("runbooks", "preflight", BACKFILL, "--json")
    assert json.loads(looked.stdout)["affected_count"] == 70
    start = ("runbooks", "start", BACKFILL, "--reason-code", "SUPPORT", "--reason-text", "ticket 7")
    refused = commands.run(*start, "--confirm", "nope")
    assert (refused.returncode, refused.stderr) == (3, "error: Type BACKFILL to confirm.\n")
    done = commands.run(*start, "--confirm", "BACKFILL", "--wait", "--timeout", "40", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["context"]["updated_count"] == 70
    again = commands.run(*start, "--confirm", "BACKFILL")
    assert (again.returncode, "nothing to do" in again.stderr) == (3, True)
    [listed] = json.loads(commands.run("runs", "list", "--json").stdout)
    assert listed["id"] == json.loads(done.stdout)["id"]


UNREACHABLE = {"OPSPLANE_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "says"),
    [
        (("runbooks", "list"), UNREACHABLE, 4, "The database cannot be reached"),
        (("runbooks", "show", "no.such"), {}, 2, "There is no runbook 'no.such'"),
        (("runbooks", "preflight", BACKFILL, "--tenant", "platform"), {}, 3, "No tenant 'platform' can be targeted"),
        (("runs", "show", "01900000-0000-7000-8000-000000000000"), {}, 2, "There is no run"),
        (("runs", "show", "x"), {}, 2, "x"),
        (("tenants", "add", "platform"), {}, 3, "There is a tenant 'platform' already"),
        (("users", "create", "nobody"), {}, 2, "is not an e-mail address"),
        (("tokens", "create", "t", "--owner", "a@b"), {}, 2, "There is no platform user a@b"),
        (("doctor",), {"OPSPLANE_DATABSE_URL": "x"}, 2, "did you mean OPSPLANE_DATABASE_URL?"),
        (("doctor",), {"OPSPLANE_POOL_SIZE": "many"}, 2, "OPSPLANE_POOL_SIZE"),
        (("doctor",), {"OPSPLANE_ENV": "production"}, 2, "OPSPLANE_SECRET_KEY"),
        (("findings", "import", "no.sarif", "--tenant", "acme"), {}, 2, "no.sarif"),
        (("serve", "--port", "99999"), {}, 2, "65535"),
        (("nonsense",), {}, 2, "nonsense"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else None,
)
def test_a_mistake_gets_one_line_and_its_exit_code(
    plane: Plane, tenants: list[Tenant], commands: Commands, arguments: tuple[str, ...], environment: dict[str, str],
    code: int, says: str,
) -> None:  # fmt: skip
    answer = commands.run(*arguments, **environment)
    assert answer.returncode == code, answer.stderr
    assert says in answer.stderr
    assert "Traceback" not in answer.stderr
    if code != 2 or "Usage" not in answer.stderr:
        errors = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, answer.stderr


def test_a_scaffolded_runbook_passes_its_own_test(tmp_path: Path, commands: Commands) -> None:
    written = commands.run("new", "runbook", "demo.times-seen.repair", "--into", str(tmp_path / "books"))
    assert written.returncode == 0, written.stderr
    again = commands.run("new", "runbook", "demo.times-seen.repair", "--into", str(tmp_path / "books"))
    assert (again.returncode, "is there already" in again.stderr) == (3, True)
    assert commands.run("new", "runbook", "Bad Key").returncode == 2
    for wanted in ("check", "format"):
        subprocess.run([sys.executable, "-m", "ruff", wanted, "--isolated", tmp_path], check=True)
    passed = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "-o", "asyncio_mode=auto", "tests"],
        cwd=tmp_path / "books", capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "1 passed" in passed.stdout, passed.stdout + passed.stderr
