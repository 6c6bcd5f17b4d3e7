"""What a page sees of a run while it goes on: its figures, and a stream of every change."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import insert, select, text, update

from opsplane import hints
from opsplane.alerts import notifications
from opsplane.api.hub import Pace
from opsplane.auth import tokens
from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.auth.models import AdminSession, PlatformUser, SystemSession
from opsplane.auth.roles import Role
from opsplane.config import Settings
from opsplane.outbox import Kind, Severity
from opsplane.runbooks.service import Plane
from opsplane.runs import figures
from opsplane.runs.figures import FiguresOut
from opsplane.runs.models import OperationRun, OperationRunItem
from opsplane.runs.views import RunNotFound
from opsplane.tenants.models import Tenant
from tests import support, web
from tests.integration.conftest import Commands
from tests.integration.test_processes import until
from tests.web import Doors

RIGHTS = (Capability.SYSTEM_ACCESS, Capability.OPS_VIEW)
HINTED = Pace(again_s=60, figures_s=0.1)  # whatever comes within a minute came because of a hint
EVERY_STATE = ("pending", "running", "succeeded", "skipped", "failed", "cancelled")


async def queued(plane: Plane, operator: Actor) -> uuid.UUID:
    return (await support.start(plane, operator, "test.effects.plain")).run.id


async def put_items(plane: Plane, run_id: uuid.UUID, states: list[str], **values: Any) -> None:
    """Items in these states, in this order of work but written backwards, as the order of rows means nothing."""
    rows = [
        {"run_id": run_id, "item_key": uuid.uuid4().hex, "ordinal": ordinal, "state": state, **values}
        for ordinal, state in enumerate(states, start=1)
    ]
    async with plane.db.transaction() as tx:
        await tx.session.execute(insert(OperationRunItem), rows[::-1])


async def show(plane: Plane, run_id: uuid.UUID) -> FiguresOut:
    async with plane.db.reading() as session:
        return await figures.show(session, run_id)


async def test_a_cell_has_the_letter_of_its_tenants_state(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id = await queued(plane, operator)
    await put_items(plane, run_id, [*EVERY_STATE, "pending"])
    seen = await show(plane, run_id)
    assert (seen.cells, seen.tenants_per_cell) == ("prskfcp", 1)


async def test_a_cell_of_several_tenants_shows_the_one_that_needs_attention_most(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await queued(plane, operator)
    pairs = ["skipped", "succeeded", "succeeded", "cancelled", "cancelled", "pending", "pending", "running"]
    await put_items(plane, run_id, [*pairs, "running", "failed", *["skipped"] * 4991])
    seen = await show(plane, run_id)
    assert (seen.cells, seen.tenants_per_cell) == ("scprf" + "k" * 2496, 2)


async def test_the_line_of_speed_is_when_tenants_ended(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id = await queued(plane, operator)
    assert await show(plane, run_id) == FiguresOut(
        cells="", columns=40, tenants_per_cell=1, throughput=[], seconds_per_point=0
    )
    begun_at = datetime.now(UTC)
    times = {"started_at": begun_at, "completed_at": begun_at + timedelta(seconds=120)}
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(OperationRun).values(times))
    for after_s, rows in ((0, 1), (1.9, 10), (2.1, 100), (120, 1000), (121, 10_000)):
        ended = {"updated_count": rows, "finished_at": begun_at + timedelta(seconds=after_s)}
        await put_items(plane, run_id, ["succeeded"], **ended)
    seen = await show(plane, run_id)
    assert (seen.throughput, seen.seconds_per_point) == ([11, 100, *[0] * 57, 11_000], 2)


async def test_no_run_has_no_figures(plane: Plane) -> None:
    with pytest.raises(RunNotFound):
        await show(plane, uuid.uuid4())


@dataclass
class Stream:
    """A stream of events as a client reads it."""

    response: httpx.Response
    lines: AsyncIterator[str]

    async def next(self, within_s: float = 20) -> tuple[str, Any]:
        """The next event, as (name, data); `closed` after the last one."""
        event: dict[str, str] = {}
        async with asyncio.timeout(within_s):
            async for line in self.lines:
                if not line and event:
                    break
                name, _, value = line.partition(": ")
                event[name] = value
        if "retry" in event:
            return "retry", int(event["retry"])
        return event.get("event", "closed"), json.loads(event.get("data", "null"))

    async def until(self, name: str, **wanted: Any) -> Any:
        """Read on to an event of this name with these values."""
        while True:
            seen, data = await self.next()
            if seen == name and wanted.items() <= data.items():
                return data
            assert seen != "closed", f"the stream ended before {name}"


@asynccontextmanager
async def serving(plane: Plane, pace: Pace, settings: Settings | None = None) -> AsyncIterator[tuple[Doors, str]]:
    """The application on a real socket, in this very process."""
    async with web.doors(plane, settings, pace) as doors:
        server = uvicorn.Server(uvicorn.Config(doors.app, port=0, lifespan="off", log_config=None))
        running = asyncio.create_task(server._serve())

        async def started() -> bool:
            return server.started

        await until(started)
        try:
            yield doors, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            doors.hub.stop()
            server.should_exit = True
            await running


@asynccontextmanager
async def streaming(address: str, run_id: uuid.UUID, headers: dict[str, str]) -> AsyncIterator[Stream]:
    async with (
        httpx.AsyncClient(base_url=address, headers=headers | {"Accept": "text/event-stream"}, timeout=30) as client,
        client.stream("GET", f"/system/ops/runs/{run_id}/events") as response,
    ):
        yield Stream(response, response.aiter_lines())


async def bearer(plane: Plane) -> dict[str, str]:
    user = await web.platform_user(plane, *RIGHTS)
    return {"Authorization": f"Bearer {await web.token(plane, user, *RIGHTS)}"}


async def test_a_stream_begins_with_what_the_run_is_now(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id, headers = await queued(plane, operator), await bearer(plane)
    async with serving(plane, HINTED) as (_, address), streaming(address, run_id, headers) as stream:
        assert await stream.next(5) == ("run", httpx_json(await get(address, f"{run_id}", headers)))
        assert await stream.next(5) == ("figures", httpx_json(await get(address, f"{run_id}/figures", headers)))
        sent = stream.response.headers
        assert sent["content-type"].startswith("text/event-stream")
        assert (sent["x-accel-buffering"], sent["cache-control"]) == ("no", "no-store")


def httpx_json(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


async def get(address: str, path: str, headers: dict[str, str], method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=30) as client:
        return await client.request(method, f"/system/ops/runs/{path}")


async def test_what_cannot_be_watched_is_refused_before_the_stream_begins(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id, headers = await queued(plane, operator), await bearer(plane)
    async with serving(plane, Pace(max_streams=1)) as (doors, address):
        missing = await get(address, f"{uuid.uuid4()}/events", headers)
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
        assert (await get(address, f"{run_id}/events", headers, "HEAD")).status_code == 404
        async with streaming(address, run_id, headers) as stream:
            await stream.next()
            refused = await get(address, f"{run_id}/events", headers)
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_streams")
            assert int(refused.headers["Retry-After"]) >= 1
        await until(idle(doors), 2)


def idle(doors: Doors) -> Callable[[], Awaitable[bool]]:
    async def is_idle() -> bool:
        return doors.hub.idle

    return is_idle


async def test_a_run_is_seen_to_go_to_its_end_and_then_the_stream_ends(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id, headers = await queued(plane, operator), await bearer(plane)
    async with serving(plane, HINTED) as (doors, address), streaming(address, run_id, headers) as stream:
        await stream.until("figures", cells="")
        working = asyncio.create_task(support.drain(plane, run_id))
        seen = await stream.until("run", status="completed")
        assert seen["context"]["updated_count"] == 120
        assert await stream.next() == ("figures", httpx_json(await get(address, f"{run_id}/figures", headers)))
        assert await stream.next() == ("end", {"code": "completed"})
        assert await stream.next() == ("closed", None)
        await working
        await until(idle(doors), 2)
        async with streaming(address, run_id, headers) as late:
            assert [(await late.next())[0] for _ in range(4)] == ["run", "figures", "end", "closed"]


async def test_a_change_of_status_is_seen_even_where_no_tenant_changes(plane: Plane, operator: Actor) -> None:
    run_id = (await support.start(plane, operator, "test.effects.plain", force=True)).run.id
    async with serving(plane, HINTED) as (_, address), streaming(address, run_id, await bearer(plane)) as stream:
        await stream.until("figures")
        await support.drain(plane, run_id)
        await stream.until("run", status="completed")


async def test_a_commit_and_a_hint_are_seen_at_once(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id, headers = await queued(plane, operator), await bearer(plane)
    async with serving(plane, HINTED) as (_, address), streaming(address, run_id, headers) as stream:
        await stream.until("figures")
        for release in ("1", "2", "3"):
            await mark(plane, run_id, release)
            committed = time.monotonic()
            plane.queue.hints.changed(run_id)
            await stream.until("run", release=release)
            assert time.monotonic() - committed < 1


async def mark(plane: Plane, run_id: uuid.UUID, release: str) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(OperationRun).where(OperationRun.id == run_id).values(release=release))


async def test_a_slow_watcher_gets_the_newest_state_and_no_queue(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await queued(plane, operator)
    async with (
        web.doors(plane, pace=HINTED) as doors,
        doors.hub.watch(run_id) as slow,
        doors.hub.watch(run_id) as quick,
    ):
        assert slow.take().count(b"event: ") == 2
        for release in ("1", "2", "3"):
            await mark(plane, run_id, release)
            doors.hub.heard(run_id)
            while f'"release":"{release}"'.encode() not in quick.take():
                await quick.wait(2)
        news = slow.take()
        assert news.count(b"event: run") == 1
        assert b'"release":"3"' in news


async def test_nobody_joins_a_run_of_which_nothing_more_will_be_told(plane: Plane, operator: Actor) -> None:
    run_id = (await support.start(plane, operator, "test.effects.plain", force=True)).run.id
    await support.drain(plane, run_id)
    async with web.doors(plane, pace=HINTED) as doors, doors.hub.watch(run_id) as one, doors.hub.watch(run_id) as other:
        assert (one.over, other.over) == (True, True)


async def test_many_watchers_of_a_run_are_one_reader_and_none_when_they_leave(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id, headers = await queued(plane, operator), await bearer(plane)
    async with serving(plane, HINTED) as (doors, address):
        async with contextlib.AsyncExitStack() as held:
            streams = [await held.enter_async_context(streaming(address, run_id, headers)) for _ in range(10)]
            for stream in streams:
                await stream.until("figures")
            await asyncio.sleep(0.5)  # until the reader rests for a minute
            assert (doors.hub._streams, len(doors.hub._watched), len(doors.hub._tasks)) == (10, 1, 1)
        await until(idle(doors), 2)


async def test_changes_are_seen_while_redis_is_away(
    plane: Plane, settings: Settings, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id, headers = await queued(plane, operator), await bearer(plane)
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})
    pace = Pace(again_s=0.2)
    async with serving(plane, pace, away) as (_, address), streaming(address, run_id, headers) as stream:
        await stream.until("figures")
        await mark(plane, run_id, "unheard")
        await stream.until("run", release="unheard")


async def test_a_stream_shows_that_it_lives_and_after_its_time_asks_to_come_back(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id, headers = await queued(plane, operator), await bearer(plane)
    pace = Pace(tick_s=0.1, lifetime_s=0.5)
    async with serving(plane, pace) as (_, address), streaming(address, run_id, headers) as stream:
        datetime.fromisoformat((await stream.until("tick"))["at"])
        while (event := await stream.next())[0] == "tick":
            pass
        assert event == ("retry", 2000)
        assert await stream.next() == ("closed", None)


async def test_a_tick_tells_a_person_how_many_notifications_are_unread_and_a_token_nothing_of_it(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id, user = await queued(plane, operator), await web.platform_user(plane, *RIGHTS)
    other = await web.platform_user(plane, *RIGHTS)
    async with serving(plane, Pace(tick_s=0.1)) as (doors, address):
        cookies = (await doors.signed_in(user.email)).cookies
        async with (
            streaming(address, run_id, {"Cookie": f"opsplane_system={cookies['opsplane_system']}"}) as mine,
            streaming(address, run_id, await bearer(plane)) as tokens_own,
        ):
            await mine.until("tick", unread=0)
            async with plane.db.transaction() as tx:
                for person in (user, other):
                    await notifications.notify(
                        tx.session, person.id, run_id, Kind.RUN_FAILED, Severity.CRITICAL, {"tenant": None}
                    )
            await mine.until("tick", unread=1)
            assert set(await tokens_own.until("tick")) == {"at"}


async def signed_out(plane: Plane, user: PlatformUser) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(SystemSession).values(revoked_at=datetime.now(UTC)))


async def revoked(plane: Plane, user: PlatformUser) -> None:
    async with plane.db.transaction() as tx:
        prefix = await tx.session.scalar(text("SELECT prefix FROM api_tokens"))
        await tokens.revoke(tx.session, str(prefix), by=Actor.shell("tester"))


async def withdrawn(plane: Plane, user: PlatformUser) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(
            text("DELETE FROM platform_user_capabilities WHERE capability = :c"), {"c": Capability.OPS_VIEW}
        )


@pytest.mark.parametrize(
    ("way", "take_back"),
    [("session", signed_out), ("session", withdrawn), ("token", revoked), ("token", withdrawn)],
)
async def test_a_stream_ends_when_its_session_does(
    plane: Plane, operator: Actor, tenants: list[Tenant], way: str,
    take_back: Callable[[Plane, PlatformUser], Awaitable[None]],
) -> None:  # fmt: skip
    run_id, user = await queued(plane, operator), await web.platform_user(plane, *RIGHTS)
    async with serving(plane, Pace(tick_s=0.2)) as (doors, address):
        if way == "session":
            cookies = (await doors.signed_in(user.email)).cookies
            headers = {"Cookie": f"opsplane_system={cookies['opsplane_system']}"}
        else:
            headers = {"Authorization": f"Bearer {await web.token(plane, user, *RIGHTS)}"}
        async with streaming(address, run_id, headers) as stream:
            await stream.until("tick")
            await take_back(plane, user)
            assert await stream.until("end") == {"code": "signed_out"}
            assert await stream.next() == ("closed", None)
        await until(idle(doors), 2)


BY_ITSELF = (
    {"Accept": "text/event-stream"},
    {"Sec-Purpose": "prefetch;prerender"},
    {"X-Opsplane-Background": "1"},
)


@pytest.mark.parametrize("kind", [SystemSession, AdminSession])
async def test_what_a_page_asks_by_itself_does_not_keep_the_session_awake(
    plane: Plane, doors: Doors, tenants: list[Tenant], kind: type[SystemSession] | type[AdminSession]
) -> None:
    if kind is SystemSession:
        client = await doors.signed_in((await web.platform_user(plane, *RIGHTS)).email)
        url = "/system/me"
    else:
        member = await web.tenant_user(plane, Role.OWNER, tenants[0])
        client, url = await doors.signed_in(member.email, plane="admin"), "/admin/me"
    long_ago = datetime.now(UTC) - timedelta(minutes=2)
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(kind).values(last_seen_at=long_ago))
    for headers in BY_ITSELF:
        assert (await client.get(url, headers=headers)).status_code == 200
        assert await last_seen(plane, kind) == long_ago, headers
    assert (await client.get(url, headers={"X-Opsplane-Background": "0"})).status_code == 200
    assert await last_seen(plane, kind) > long_ago


async def last_seen(plane: Plane, kind: type[SystemSession] | type[AdminSession]) -> Any:
    async with plane.db.reading() as session:
        return await session.scalar(select(kind.last_seen_at))


async def test_a_stream_does_not_keep_its_session_awake(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id, user = await queued(plane, operator), await web.platform_user(plane, *RIGHTS)
    async with serving(plane, Pace(tick_s=0.1)) as (doors, address):
        cookies = (await doors.signed_in(user.email)).cookies
        long_ago = datetime.now(UTC) - timedelta(minutes=2)
        async with plane.db.transaction() as tx:
            await tx.session.execute(update(SystemSession).values(last_seen_at=long_ago))
        async with streaming(address, run_id, {"Cookie": f"opsplane_system={cookies['opsplane_system']}"}) as stream:
            await stream.until("tick")
            await stream.until("tick")
        assert await last_seen(plane, SystemSession) == long_ago


async def test_many_changes_are_few_hints_and_the_last_is_hinted_at(plane: Plane) -> None:
    one, other = uuid.uuid4(), uuid.uuid4()
    async with plane.queue.redis.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(hints.CHANNEL)
        ends = time.monotonic() + 0.25
        while time.monotonic() < ends:
            plane.queue.hints.changed(one)
            await asyncio.sleep(0)
        plane.queue.hints.moved(other)
        heard = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    if message := await channel.get_message(timeout=1):
                        heard.append(uuid.UUID(message["data"].decode()))
    assert 2 <= heard.count(one) <= 10, "of thousands of changes"
    assert heard.count(other) == 1
    assert heard[-1] == one, "the last change of all came after the hint before it"


async def test_a_server_with_open_streams_does_not_wait_for_their_readers(
    plane: Plane, settings: Settings, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id, headers = await queued(plane, operator), await bearer(plane)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    commands, address = Commands(settings), f"http://127.0.0.1:{port}"
    server = commands.start("serve", "--port", str(port))

    async def up() -> bool:
        assert server.poll() is None
        with contextlib.suppress(httpx.TransportError):
            return (await get(address, str(run_id), headers)).status_code == 200
        return False

    try:
        await until(up)
        async with contextlib.AsyncExitStack() as held:
            streams = [await held.enter_async_context(streaming(address, run_id, headers)) for _ in range(50)]
            for stream in streams:
                await stream.until("figures")
            asked = time.monotonic()
            server.send_signal(signal.SIGTERM)
            ends = await asyncio.gather(*(last_of(stream) for stream in streams))
            code = await asyncio.to_thread(server.wait, 20)
            took = time.monotonic() - asked
    finally:
        commands.end()
    sys.stdout.write(f"a server with 50 open streams ended in {took:.2f} s\n")
    assert ends == [("retry", 2000)] * 50
    assert code in {0, -signal.SIGTERM}
    assert took < 5


async def last_of(stream: Stream) -> tuple[str, Any]:
    last: tuple[str, Any] = ("closed", None)
    while (event := await stream.next())[0] != "closed":
        last = event
    return last
