"""Lookups: single statements that only read, on connections of their own."""

import asyncio
import itertools
import uuid
from typing import Any

import asyncpg
import pytest
from sqlalchemy import (
    CHAR,
    ColumnElement,
    Dialect,
    Integer,
    TypeDecorator,
    Uuid,
    bindparam,
    cast,
    column,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
    tuple_,
)
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.types import TypeEngine

from opsplane.api.encoding import Encoded
from opsplane.api.schemas import RunPage
from opsplane.auth.actors import Actor
from opsplane.config import Pooler, Settings
from opsplane.db import Database, new_id, savepoint, sqlstate
from opsplane.direct import directly
from opsplane.errors import InvalidInput, ServiceUnavailable
from opsplane.lookups import Lookup, as_stored, parameter
from opsplane.outbox import OutboxEvent
from opsplane.queue import Queue
from opsplane.runbooks.service import Plane
from opsplane.runs import views
from opsplane.runs.states import Outcome, Status
from opsplane.tenants.models import Tenant
from tests import support
from tests.tickets import Ticket
from tests.web import Doors, doors, platform_user, token

PID = Lookup.of(select(func.pg_backend_pid().label("pid")))
ECHO = Lookup.of(select((parameter("given", Integer()) + literal(1, Integer())).label("sum")))
ALWAYS_ON = ("runbook", "status", "outcome", "tenant_id", "source", "within", "not_before", "before", "open")


async def test_a_parameter_is_given_each_time_and_a_constant_stays(plane: Plane) -> None:
    assert [row["sum"] for row in await plane.db.look(ECHO, given=41)] == [42]
    assert [row["sum"] for row in await plane.db.look(ECHO, given=1)] == [2]


def of_ticket(given: ColumnElement[str]) -> Lookup:
    return Lookup.of(select((cast(given, Integer)).label("number")))


async def test_a_value_is_given_as_its_column_type_stores_it(plane: Plane) -> None:
    constant, given = of_ticket(literal("T-7", Ticket())), of_ticket(parameter("ticket", Ticket()))
    assert [row["number"] for row in await plane.db.look(constant)] == [7]
    assert [row["number"] for row in await plane.db.look(given, ticket="T-8")] == [8]


async def test_each_value_of_a_list_is_given_as_its_column_type_stores_it(plane: Plane) -> None:
    numbers = func.generate_series(1, 9).table_valued(column("number", Ticket())).render_derived()
    among = select(numbers.c.number).where(numbers.c.number.in_(["T-2", "T-5"]))
    assert [row["number"] for row in await plane.db.look(Lookup.of(among))] == [2, 5]


async def test_values_of_a_list_of_rows_are_given_as_their_column_types_store_them(plane: Plane) -> None:
    numbers = func.generate_series(1, 9).table_valued(column("number", Ticket())).render_derived()
    among = tuple_(numbers.c.number, numbers.c.number).in_([("T-2", "T-2"), ("T-5", "T-6")])
    found = await plane.db.look(Lookup.of(select(numbers.c.number).where(among)))
    assert [row["number"] for row in found] == [2]


class Badge(TypeDecorator[str]):
    """A UUID where the database has such a type, and text elsewhere."""

    impl = CHAR
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """As SQLAlchemy's own recipe of a GUID does it."""
        return dialect.type_descriptor(Uuid() if dialect.name == "postgresql" else CHAR(32))


def test_what_the_driver_takes_for_a_type_of_the_application_is_what_the_dialect_says() -> None:
    assert isinstance(as_stored(Badge()), Uuid)
    assert as_stored(Badge()).python_type is uuid.UUID
    assert as_stored(Ticket()).python_type is int
    assert isinstance(as_stored(Integer()), Integer)


def test_a_list_that_is_called_for_is_refused() -> None:
    with pytest.raises(TypeError, match="tickets"):
        Lookup.of(select(literal(1)).where(literal(1).in_(bindparam("tickets", callable_=list, expanding=True))))


async def test_a_session_that_has_committed_runs_nothing_on_a_connection_that_is_no_longer_its_own(
    plane: Plane,
) -> None:
    async with plane.db.transaction() as tx:
        await directly(tx.session, PID)
        await tx.session.commit()
        async with plane.db.transaction() as other:
            await directly(other.session, PID)
            with pytest.raises(InvalidRequestError):
                await directly(tx.session, PID)


async def test_a_value_that_is_called_for_is_called_for_each_time(plane: Plane) -> None:
    numbers = itertools.count(3)
    called = of_ticket(bindparam("next", callable_=lambda: f"T-{next(numbers)}", type_=Ticket()))
    first, second = [(await plane.db.look(called))[0]["number"] for _ in range(2)]
    assert second == first + 1


async def test_a_lookup_cannot_write(plane: Plane) -> None:
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await plane.db.look(Lookup("UPDATE tenants SET name = name", (), {}))


async def test_a_connection_that_was_lost_while_nobody_used_it_is_replaced_without_a_word(plane: Plane) -> None:
    [before] = await plane.db.look(PID)
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": before["pid"]})
    [after] = await plane.db.look(PID)
    assert after["pid"] != before["pid"]


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a server that crashes, in the middle of saying hello."""
    await reader.read(8)
    writer.write(b"N")  # no TLS
    await reader.read(8)
    writer.transport.abort()


async def test_a_server_that_hangs_up_while_one_connects_is_away(settings: Settings) -> None:
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        db = Database(settings.model_copy(update={"database_url": f"postgresql://nobody:x@127.0.0.1:{port}/none"}))
        with pytest.raises(ServiceUnavailable):
            await db.look(ECHO, given=1)
        await db.close()


async def test_lookups_use_their_connection_again_and_never_more_of_them_than_their_share(settings: Settings) -> None:
    db = Database(settings.model_copy(update={"pool_size": 4}))
    slow = Lookup.of(select(func.pg_backend_pid().label("pid"), func.pg_sleep(0.05)))
    answers = await asyncio.gather(*(db.look(slow) for _ in range(8)))
    assert len({row["pid"] for [row] in answers}) == 2
    await db.close()


async def test_behind_a_pooler_a_lookup_is_a_read_only_transaction_with_its_limits(settings: Settings) -> None:
    db = Database(settings.model_copy(update={"database_pooler": Pooler.TRANSACTION}), statement_timeout_s=7)
    names = ("transaction_read_only", "statement_timeout", "timezone")
    shown = Lookup.of(select(*(func.current_setting(literal_column(f"'{name}'")).label(name) for name in names)))
    [row] = await db.look(shown)
    assert dict(row) == {"transaction_read_only": "on", "statement_timeout": "7s", "timezone": "UTC"}
    await db.close()


async def test_a_lookup_that_finds_no_database_is_refused_as_any_statement_is(settings: Settings) -> None:
    db = Database(settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/nothing"}))
    with pytest.raises(ServiceUnavailable):
        await db.look(PID)
    await db.close()


async def test_text_with_nul_characters_is_refused_as_input(plane: Plane) -> None:
    named = Lookup.of(select(Tenant.id).where(Tenant.external_id == parameter("name")))
    with pytest.raises(InvalidInput):
        await plane.db.look(named, name="a\0b")


async def test_every_filter_of_the_list_of_runs_is_a_statement_the_database_takes(plane: Plane) -> None:
    for name in ALWAYS_ON:
        lookup = views._newest_first(frozenset({name}))
        async with plane.db.transaction() as tx:
            connection = (await tx.session.connection()).sync_connection
            assert connection is not None
            driver = connection.connection.driver_connection
            assert driver is not None
            await driver.prepare(lookup.sql)


async def test_a_page_of_runs_is_byte_for_byte_what_its_model_would_be(
    plane: Plane, operator: Actor, tenants: list[Tenant], doors: Doors
) -> None:
    await support.finished_run(plane, operator, "test.effects.fails")
    await support.start(plane, operator, "test.effects.plain", tenant="acme")
    who = await platform_user(plane, "platform.system.access", "platform.ops.view")
    client = doors.client(
        Authorization=f"Bearer {await token(plane, who, 'platform.system.access', 'platform.ops.view')}"
    )
    answer = await client.get("/system/ops/runs")
    assert answer.status_code == 200
    assert answer.content == RunPage.model_validate_json(answer.content).model_dump_json().encode()
    assert len(answer.json()["items"]) == 2


async def test_a_page_shows_a_run_as_the_run_itself_does(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id = await support.finished_run(plane, operator, "test.effects.plain")
    [listed] = await views.page(plane.db, views.Wanted(status=Status.COMPLETED), limit=2, base_url="http://ops.test")
    assert Encoded(listed).body == (await support.show(plane, run_id)).model_dump_json().encode()
    assert not await views.page(plane.db, views.Wanted(outcome=Outcome.PENDING), limit=2, base_url="http://ops.test")


async def test_what_fails_inside_a_savepoint_undoes_no_more_than_itself(plane: Plane) -> None:
    async with plane.db.transaction() as tx:
        await directly(tx.session, _named("kept"))
        with pytest.raises(DBAPIError) as refused:
            async with savepoint(tx.session):
                await directly(tx.session, _named("undone"))
                await directly(tx.session, Lookup("SELECT 1 / 0", (), {}))
        assert sqlstate(refused.value) == "22012"
    assert await support.count(plane, OutboxEvent, OutboxEvent.dedupe_key == "kept") == 1
    assert await support.count(plane, OutboxEvent, OutboxEvent.dedupe_key == "undone") == 0


async def test_a_connection_that_is_lost_in_a_transaction_is_a_database_away(plane: Plane) -> None:
    with pytest.raises(ServiceUnavailable):
        async with plane.db.transaction() as tx:
            [row] = await directly(tx.session, PID)
            pid = row["pid"]
            async with plane.db.transaction() as other:
                await other.session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            await directly(tx.session, PID)
    assert len(await plane.db.look(PID)) == 1
    async with plane.db.transaction() as tx:
        assert (await directly(tx.session, PID))[0]["pid"] != pid


def _named(key: str) -> Lookup:
    return Lookup.of(
        insert(OutboxEvent).values(
            id=new_id(), kind="k", dedupe_key=literal(key), payload=literal_column("'{}'::jsonb")
        )
    )


async def test_a_gate_that_fails_because_the_database_is_away_says_so(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_given: object, **_named: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("opsplane.api.gate.operators.by_token", fail)
    away = settings.model_copy(update={"database_url": "postgresql://nobody:x@127.0.0.1:1/none"})
    plane = Plane(Database(away), Queue(away), away)
    async with doors(plane) as opened:
        answer = await opened.client().get("/system/ops/runs", headers={"Authorization": "Bearer ops_x"})
    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
    await plane.queue.close()
    await plane.db.close()
