"""Starting a run: every gate, in every order that matters."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import pytest
from sqlalchemy import select, text

from opsplane.audit.models import AuditEvent
from opsplane.auth.actors import Actor, ActorKind
from opsplane.auth.capabilities import Capability
from opsplane.db import Transaction
from opsplane.direct import Bare
from opsplane.errors import MissingCapability, OpsplaneError, ServiceUnavailable
from opsplane.runbooks import idempotency, service
from opsplane.runbooks.idempotency import IdempotencyKeyReused
from opsplane.runbooks.locks import ScopeLocked
from opsplane.runbooks.preflights import PreflightStale
from opsplane.runbooks.reasons import ReasonRequired
from opsplane.runbooks.registry import RunbookNotFound
from opsplane.runbooks.service import ConfirmationMismatch, NothingToDo, PerhapsStarted, Plane, Source
from opsplane.runs.models import OperationRun
from opsplane.tenants.models import Tenant
from opsplane.tenants.universe import TenantNotAllowed
from tests import support
from tests.support import BACKFILL


async def preflight_id(plane: Plane, by: Actor, tenant: str | None = None) -> uuid.UUID:
    return (await service.preflight(plane, BACKFILL, tenant, by=by, source=Source.CLI)).id


async def test_preflight_counts_only_the_allowed_universe(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    async with plane.db.reading() as session:
        platform = await session.scalar(select(Tenant).where(Tenant.external_id == "platform"))
    assert platform is not None
    await support.add_findings(plane, platform, 5)
    await support.add_findings(plane, tenants[0], 3)
    seen = await service.preflight(plane, BACKFILL, None, by=operator, source=Source.CLI)
    assert (seen.affected_count, seen.total_count, seen.estimated_tenants) == (3, 3, 1)


async def test_preflight_of_one_tenant_counts_that_tenant_by_id_or_external_id(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    await support.add_findings(plane, tenants[0], 3)
    await support.add_findings(plane, tenants[1], 4)
    for name in ("globex", str(tenants[1].id)):
        seen = await service.preflight(plane, BACKFILL, name, by=operator, source=Source.CLI)
        assert seen.affected_count == 4


async def test_a_preflight_cannot_write(plane: Plane) -> None:
    with pytest.raises(Exception, match="read-only transaction"):
        async with plane.db.reading(timeout_s=1) as session:
            await session.execute(text("DELETE FROM findings"))


@pytest.mark.parametrize("tenant", ["platform", "nobody", str(uuid.UUID(int=7)), ""])
async def test_an_excluded_tenant_is_refused_and_no_run_is_made(
    plane: Plane, operator: Actor, tenants: list[Tenant], tenant: str
) -> None:
    with pytest.raises(TenantNotAllowed):
        await support.start(plane, operator, tenant=tenant)
    assert await support.count(plane, OperationRun) == 0


REFUSED: list[tuple[dict[str, Any], type[OpsplaneError]]] = [
    ({"runbook": "no.such.runbook"}, RunbookNotFound),
    ({"confirmation": None}, ConfirmationMismatch),
    ({"confirmation": "backfill"}, ConfirmationMismatch),
    ({"reason": None}, ReasonRequired),
    ({"reason": ("DATA_REPAIR", "   ")}, ReasonRequired),
    ({"reason": ("DATA_REPAIR", "x" * 501)}, ReasonRequired),
    ({"reason": ("BECAUSE", "x")}, ReasonRequired),
    ({"preflight_id": uuid.UUID(int=7)}, PreflightStale),
    ({"tenant": "acme", "confirmation": "wrong"}, ConfirmationMismatch),
]


@pytest.mark.parametrize(("values", "refusal"), REFUSED, ids=lambda value: getattr(value, "__name__", None))
async def test_start_refuses_and_puts_the_refusal_on_record(
    plane: Plane, operator: Actor, tenants: list[Tenant], values: dict[str, Any], refusal: type[OpsplaneError]
) -> None:
    await support.add_findings(plane, tenants[0], 1)
    with pytest.raises(refusal):
        await service.start(plane, support.order(**values), by=operator)
    assert await support.count(plane, OperationRun) == 0
    async with plane.db.reading() as session:
        event = (await session.scalars(select(AuditEvent).where(AuditEvent.action == service.REFUSED))).one()
    assert event.details["code"] == refusal.code


async def test_a_single_tenant_needs_neither_phrase_nor_reason(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    await support.add_findings(plane, tenants[0], 1)
    started = await support.start(plane, operator, tenant="acme", reason=None, confirmation=None)
    assert started.run.scope.tenant_external_id == "acme"


async def test_break_glass_needs_a_reason_for_every_run(plane: Plane, tenants: list[Tenant]) -> None:
    await support.add_findings(plane, tenants[0], 1)
    loud = Actor(kind=ActorKind.PLATFORM_USER, display="ann@ops.test", break_glass_id=uuid.uuid4())
    with pytest.raises(ReasonRequired):
        await support.start(plane, loud, tenant="acme", reason=None, confirmation=None)


async def test_nothing_to_do_is_refused_unless_forced(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    with pytest.raises(NothingToDo):
        await support.start(plane, operator)
    run = (await support.start(plane, operator, force=True)).run
    await support.drain(plane, run.id)
    assert (await support.show(plane, run.id)).outcome == "succeeded"


async def test_the_runbooks_own_capability_is_needed_besides(plane: Plane, tenants: list[Tenant]) -> None:
    rights = frozenset({Capability.RUNBOOKS_VIEW, Capability.RUNBOOKS_RUN})
    almost = Actor(kind=ActorKind.PLATFORM_USER, display="ann@ops.test", capabilities=rights)
    with pytest.raises(MissingCapability, match="lifecycle_backfill"):
        await support.start(plane, almost)


async def test_a_preflight_is_used_once_by_who_looked_and_for_what_was_looked_at(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    await support.add_findings(plane, tenants[0], 1)
    seen = await preflight_id(plane, operator, "acme")
    with pytest.raises(PreflightStale):
        await support.start(plane, Actor.shell("somebody else"), tenant="acme", preflight_id=seen)
    with pytest.raises(PreflightStale):
        await support.start(plane, operator, tenant="globex", preflight_id=seen)
    with pytest.raises(PreflightStale):
        await support.start(plane, operator, preflight_id=seen)
    run = (await support.start(plane, operator, tenant="acme", preflight_id=seen)).run
    await support.drain(plane, run.id)
    with pytest.raises(PreflightStale):
        await support.start(plane, operator, tenant="acme", preflight_id=seen)


async def test_an_expired_preflight_is_stale(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    await support.add_findings(plane, tenants[0], 1)
    seen = await preflight_id(plane, operator)
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE preflights SET expires_at = clock_timestamp()"))
    with pytest.raises(PreflightStale):
        await support.start(plane, operator, preflight_id=seen)


OVERLAPS = [
    (None, None, True),
    (None, "acme", True),
    ("acme", None, True),
    ("acme", "acme", True),
    ("acme", "globex", False),
]


@pytest.mark.parametrize(("first", "second", "refused"), OVERLAPS)
async def test_start_refuses_while_an_overlapping_run_is_active(
    plane: Plane, operator: Actor, tenants: list[Tenant], first: str | None, second: str | None, refused: bool
) -> None:
    for tenant in tenants:
        await support.add_findings(plane, tenant, 1)
    run = (await support.start(plane, operator, tenant=first)).run
    if not refused:
        await support.start(plane, operator, tenant=second)
        return
    with pytest.raises(ScopeLocked) as caught:
        await support.start(plane, operator, tenant=second)
    assert caught.value.extra["active_run_id"] == str(run.id)
    assert caught.value.extra["view_url"] == f"http://ops.test/system/ops/runs/{run.id}"
    await support.drain(plane, run.id)
    await support.start(plane, operator, tenant=second, force=True)


async def test_a_paused_run_keeps_its_scope(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    await support.add_findings(plane, tenants[0], 1)
    await support.start(plane, operator, tenant="acme")
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE operation_runs SET status = 'paused'"))
    with pytest.raises(ScopeLocked):
        await support.start(plane, operator)


async def test_runbooks_of_other_lock_groups_do_not_wait_for_each_other(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    await support.add_findings(plane, tenants[0], 1)
    await support.start(plane, operator)
    await support.start(plane, operator, "test.effects.plain")


async def test_one_idempotency_key_is_one_run_and_one_answer(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    await support.add_findings(plane, tenants[0], 1)
    order = support.order()
    answers = await asyncio.gather(
        *(service.start(plane, order, by=operator, idempotency_key="k1") for _ in range(8)), return_exceptions=True
    )
    runs = {answer.run.model_dump_json() for answer in answers if isinstance(answer, service.Started)}
    others = [answer for answer in answers if not isinstance(answer, service.Started)]
    assert len(runs) == 1
    assert others == []
    assert await support.count(plane, OperationRun) == 1
    with pytest.raises(IdempotencyKeyReused):
        await service.start(plane, support.order(tenant="acme"), by=operator, idempotency_key="k1")


async def test_a_key_that_the_release_before_retries_has_kept_gets_its_answer(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    await support.add_findings(plane, tenants[0], 1)
    order = support.order()
    first = await service.start(plane, order, by=operator, idempotency_key="k1")
    known = {name: value for name, value in asdict(order).items() if name != "retry_of"}
    async with plane.db.transaction() as tx:
        await tx.session.execute(
            text("UPDATE idempotency_keys SET fingerprint = :known"), {"known": idempotency.fingerprint(known)}
        )
    assert (await service.start(plane, order, by=operator, idempotency_key="k1")).run == first.run


@pytest.mark.parametrize("back", [True, False], ids=["the database is back", "it stays away"])
async def test_a_start_whose_commit_nobody_answered_is_looked_for_and_else_called_uncertain(
    plane: Plane, operator: Actor, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    bare, transaction, lost = plane.db.bare, plane.db.transaction, asyncio.Event()

    @asynccontextmanager
    async def cut() -> AsyncIterator[Bare]:
        async with bare() as start:
            yield start
        lost.set()
        raise ServiceUnavailable("away", service="database")

    @asynccontextmanager
    async def afterwards() -> AsyncIterator[Transaction]:
        if lost.is_set() and not back:
            raise ServiceUnavailable("away", service="database")
        async with transaction() as tx:
            yield tx

    monkeypatch.setattr(plane.db, "bare", cut)
    monkeypatch.setattr(plane.db, "transaction", afterwards)
    if back:
        assert (await support.start(plane, operator, "test.effects.plain")).run.status == "queued"
    else:
        with pytest.raises(PerhapsStarted, match="Idempotency-Key"):
            await support.start(plane, operator, "test.effects.plain")
    assert await support.count(plane, OperationRun) == 1


async def test_mixed_starts_at_once_never_leave_two_overlapping_runs(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    picker = random.Random(7)
    for _ in range(25):
        scopes = [picker.choice([None, "acme", "globex", "initech"]) for _ in range(8)]
        answers = await asyncio.gather(
            *(support.start(plane, operator, "test.effects.plain", tenant=scope) for scope in scopes),
            return_exceptions=True,
        )
        refusals = [answer for answer in answers if not isinstance(answer, service.Started)]
        assert all(isinstance(refusal, ScopeLocked) for refusal in refusals), refusals
        async with plane.db.transaction() as tx:
            overlaps = await tx.session.scalar(
                text(
                    "SELECT count(*) FROM operation_runs a JOIN operation_runs b ON a.id < b.id"
                    " AND a.status <> 'completed' AND b.status <> 'completed' AND a.tenant_span && b.tenant_span"
                )
            )
            assert overlaps == 0
            await tx.session.execute(
                text("UPDATE operation_runs SET status = 'completed', outcome = 'failed' WHERE status <> 'completed'")
            )
