"""What both machines stand on: one event loop, one plane over a clean database, and the length of a campaign.

Rules of a Hypothesis machine are synchronous, so the world owns the loop and does what they ask in it.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import asyncpg
import hypothesis
import structlog
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from opsplane.audit import anchor, spool
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.queue import Queue
from opsplane.runbooks.service import Plane
from opsplane.tenants import universe
from opsplane.tenants.models import Tenant
from tests.conftest import TABLES

STEPS = int(os.environ.get("MACHINE_STEPS", "0"))  # of each machine; 0 is the slice that every test run takes
LENGTH = 50
NAMES = ("acme", "globex")
OF_RUNS = (
    "operation_run_failures", "operation_run_items", "operation_runs", "preflights", "idempotency_keys",
    "outbox", "alert_deliveries", "notifications", "audit_pending", "audit_seals", "audit_head", "audit_events", "processes",
)  # fmt: skip

T = TypeVar("T")


@dataclass
class World:
    """A plane with two tenants, driven from synchronous code, and an eye on its tables that shares nothing with it."""

    settings: Settings
    steps: int = 0
    examples: int = 0

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._capturing = structlog.testing.capture_logs()  # to draw every traceback would take most of the time
        self._logged = self._capturing.__enter__()
        self.stack = AsyncExitStack()
        self.plane = self.do(self._opened())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.do(self._closed())
        self._runner.close()
        self._capturing.__exit__(kind, error, trace)

    def do(self, act: Coroutine[Any, Any, T]) -> T:
        """Do something of the plane's."""
        return self._runner.run(act)

    def sql(self, statement: str, *values: object) -> list[Any]:
        """Ask or change the tables behind the plane's back, in a transaction of its own."""
        return self.do(self._eye.fetch(statement, *values))

    def events(self) -> set[str]:
        """What was logged since the world was emptied."""
        return {entry["event"] for entry in self._logged}

    def defects(self) -> list[Any]:
        """What no door expected."""
        return [entry["exc_info"] for entry in self._logged if entry["event"] == "unexpected_error"]

    def empty(self) -> None:
        """Forget every run; the tenants stay."""
        self.examples += 1
        self._logged.clear()
        self.do(self._emptied())

    async def _opened(self) -> Plane:
        plane = Plane(Database(self.settings), Queue(self.settings), self.settings)
        self._eye = await asyncpg.connect(self.settings.database_url)
        async with self._eye.transaction():
            await self._eye.execute("CREATE TABLE IF NOT EXISTS effects (tenant_id uuid NOT NULL, n int NOT NULL)")
            await self._eye.execute("SET LOCAL session_replication_role = replica")
            await self._eye.execute(f"TRUNCATE effects, {TABLES}")
            await self._eye.execute("DELETE FROM tenants WHERE external_id <> 'platform'")
        async with plane.db.transaction() as tx:
            workspace = await universe.workspace_id(tx.session)
            self.tenants: dict[str, Tenant] = {
                name: await universe.add(tx.session, workspace, name) for name in NAMES
            }  # fmt: skip
        return plane

    async def _emptied(self) -> None:
        async with self._eye.transaction():
            await self._eye.execute("SET LOCAL session_replication_role = replica")  # the audit only grows
            await self._eye.execute("; ".join(f"DELETE FROM {table}" for table in ("effects", *OF_RUNS)))
        (spool.folder(self.settings) / anchor.FILE).unlink(missing_ok=True)
        await self.plane.queue.redis.flushdb()

    async def _closed(self) -> None:
        await self.stack.aclose()
        await self._eye.close()
        await self.plane.queue.close()
        await self.plane.db.close()


def campaign(world: World, name: str, machine: Callable[[], RuleBasedStateMachine], *, examples: int) -> None:
    """Run a machine: the same few examples each time, or with MACHINE_STEPS as many others as that takes."""
    pace = hypothesis.settings(
        max_examples=-(-STEPS // LENGTH) or examples,
        stateful_step_count=LENGTH,
        derandomize=not STEPS,
        database=None,
        deadline=None,
        print_blob=True,
        phases=[phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain],  # it takes minutes
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    factory: Any = machine
    try:
        run_state_machine_as_test(factory, settings=pace)
    finally:
        sys.stdout.write(f"\n{name}: {world.steps} steps in {world.examples} examples\n")
