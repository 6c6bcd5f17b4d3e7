"""What a process has done before the first request comes, and what those who come together do only once."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import fastapi.routing
import pytest
from sqlalchemy import func, select, text

from opsplane import app
from opsplane.auth import tokens
from opsplane.auth.capabilities import Capability
from opsplane.auth.models import ApiToken
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.direct import Bare, directly
from opsplane.lookups import Lookup
from opsplane.queue import Queue
from opsplane.runbooks.service import Plane
from tests import support
from tests.web import doors, platform_user, token

PID = Lookup.of(select(func.pg_backend_pid().label("pid"), func.pg_sleep(0.01)))
MANY = 20
RIGHTS = (Capability.SYSTEM_ACCESS, Capability.OPS_VIEW)


async def test_a_warm_process_has_half_its_connections_and_opens_no_more_than_the_other_half(
    plane: Plane, settings: Settings
) -> None:
    db = Database(settings, application="opsplane-warm", looks_up=True)
    await db.warm()
    async with plane.db.reading() as session:
        named = text("SELECT pid FROM pg_stat_activity WHERE application_name = 'opsplane-warm'")
        known = set(await session.scalars(named))
    assert len(known) == settings.pool_size // 2

    async def bare() -> int:
        async with db.bare() as tx:
            return int((await directly(tx, PID))[0]["pid"])

    async def look() -> int:
        return int((await db.look(PID))[0]["pid"])

    used = await asyncio.gather(*(act() for act in (bare, look) for _ in range(MANY)))
    await db.close()
    assert known < set(used)
    assert len(set(used)) <= settings.pool_size


async def test_a_database_that_is_away_keeps_no_process_from_starting(settings: Settings) -> None:
    lost = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/nothing"})
    db, queue = Database(lost), Queue(settings)
    await app.warm(Plane(db, queue, lost))
    await queue.close()
    await db.close()


async def test_the_first_request_finds_every_route_worked_out(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    user = await platform_user(plane, *RIGHTS)
    secret = await token(plane, user, *RIGHTS)

    def never(*_given: object, **_named: object) -> None:
        raise AssertionError("a route is worked out only now")

    async with doors(plane) as found:
        monkeypatch.setattr(fastapi.routing, "get_dependant", never)
        answer = await found.client(Authorization=f"Bearer {secret}").get("/system/ops/runs")
    assert answer.status_code == 200


async def test_of_those_who_use_a_token_at_once_one_notes_it_and_nobody_waits(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = await token(plane, await platform_user(plane, *RIGHTS), *RIGHTS)
    bare, go_on, noted = plane.db.bare, asyncio.Event(), list[Bare]()

    @asynccontextmanager
    async def held() -> AsyncIterator[Bare]:
        async with bare() as tx:
            noted.append(tx)
            await go_on.wait()
            yield tx

    monkeypatch.setattr(plane.db, "bare", held)
    using = [asyncio.create_task(tokens.authenticate(plane.db, secret)) for _ in range(MANY)]
    for done in itertools.islice(asyncio.as_completed(using, timeout=5), MANY - 1):
        await done
    go_on.set()
    await asyncio.gather(*using)
    assert len(noted) == 1
    assert await support.count(plane, ApiToken, ApiToken.last_used_at.is_not(None)) == 1
