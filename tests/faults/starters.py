"""One process of the storm: starts runs all at once, at a word from the parent, and says what came of each."""

import asyncio
import json
import sys
import time
import uuid
from dataclasses import replace
from typing import Any

import uvloop
from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import Chunk, Cursor, Impact, Runbook, config, connections, logs, register
from opsplane.auth.actors import Actor
from opsplane.db import Database
from opsplane.queue import Queue
from opsplane.runbooks import preflights, registry, service
from opsplane.runbooks.locks import ScopeLocked
from opsplane.runbooks.scopes import Scope
from opsplane.runbooks.service import Plane, Source, StartOrder

RUNBOOKS = ("test.storm.one", "test.storm.two", "test.storm.apart")
GROUPS = {"test.storm.one": "storm", "test.storm.two": "storm", "test.storm.apart": "apart"}
STARTED, REFUSED = "started", "refused"


class Idle(Runbook):
    """Counts nothing, so that a start costs what a start costs."""

    capability = "platform.runbooks.test.storm"
    confirmation_phrase = "STORM"

    async def preflight(self, session: AsyncSession, tenants: Select[uuid.UUID]) -> Impact:
        return Impact(affected=1, total=1, tenants=1)

    async def apply(self, session: AsyncSession, tenant: uuid.UUID, cursor: Cursor | None, limit: int) -> Chunk:
        return Chunk(updated=0, cursor=None)


for key in RUNBOOKS:
    register(type("Idle", (Idle,), {"key": key, "title": key, "lock_group": GROUPS[key], "__doc__": Idle.__doc__}))


async def main() -> None:
    """Read what to start, look, wait for the word, start, answer; until the input ends."""
    settings = config.load()
    logs.configure(settings)  # away from our answers
    plane = Plane(Database(settings, statement_timeout_s=connections.STATEMENT_S), Queue(settings), settings)
    by = Actor.shell("storm")
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        orders = [_order(*wanted) for wanted in asked["starts"]]
        if asked["preflights"]:
            orders = await _looked(plane, by, orders)
        _say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        _say(await asyncio.gather(*(_start(plane, order, by) for order in orders)))
    await plane.queue.close()
    await plane.db.close()


def _order(runbook: str, tenant: str | None) -> StartOrder:
    return StartOrder(
        runbook=runbook, tenant=tenant, source=Source.CLI, reason=("DATA_REPAIR", "a storm"), confirmation="STORM"
    )  # fmt: skip


async def _looked(plane: Plane, by: Actor, orders: list[StartOrder]) -> list[StartOrder]:
    """Each with a preflight, so that the start transactions themselves race; kept at once, which is cheaper."""
    impact, kept = Impact(affected=1, total=1, tenants=1), []
    async with plane.db.transaction() as tx:
        for order in orders:
            scope, runbook = await Scope.resolve(plane.db, order.tenant), registry.find(order.runbook)
            seen = await preflights.keep(tx.session, plane.settings, runbook, scope, impact, by=by)
            kept.append(replace(order, preflight_id=seen.id))
    return kept


async def _start(plane: Plane, order: StartOrder, by: Actor) -> tuple[str, float]:
    began = time.perf_counter()
    try:
        await service.start(plane, order, by=by)
        answer = STARTED
    except ScopeLocked:
        answer = REFUSED
    except Exception as error:  # noqa: BLE001 - whatever else comes is what the storm looks for
        answer = f"{type(error).__name__}: {error}"
    return answer, (time.perf_counter() - began) * 1000


def _say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main())  # as the API does
