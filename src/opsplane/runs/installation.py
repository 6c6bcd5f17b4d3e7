"""Figures of the whole installation, read from PostgreSQL: true whichever process is asked."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import ColumnElement, Float, Integer, ScalarSelect, Select, cast, func, literal, select, text, true
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts.models import OPEN, AlertDelivery
from opsplane.audit.models import AuditPending
from opsplane.db import Base
from opsplane.outbox import OutboxEvent
from opsplane.runs.models import OperationRun, OperationRunItem, Process
from opsplane.runs.processes import ALIVE_FOR, API, WORKER
from opsplane.runs.states import ItemState, Status

MOST = 100_000  # of anything that is counted one by one
run, item, delivery = OperationRun, OperationRunItem, AlertDelivery


@dataclass(frozen=True)
class ActiveRuns:
    """The runs of one type and status that have not ended."""

    type: str
    status: str
    count: int
    stalled: int
    throttled: int
    oldest_s: float


@dataclass(frozen=True)
class LiveProcesses:
    """The processes of one kind that were heard of lately."""

    kind: str
    count: int
    slots: int


@dataclass(frozen=True)
class OpenDeliveries:
    """The alerts of one status that are not at their end."""

    status: str
    count: int
    overdue_s: float


@dataclass(frozen=True)
class Figures:
    """What one scrape asks of the database."""

    runs: tuple[ActiveRuns, ...] = ()
    processes: tuple[LiveProcesses, ...] = ()
    leases_live: int = 0
    leases_expired: int = 0
    pending: int = 0
    unsealed: int = 0
    unrouted: int = 0
    deliveries: tuple[OpenDeliveries, ...] = ()

    @property
    def leased(self) -> int:
        """Items at work, as far as the database knows."""
        return self.leases_live + self.leases_expired


async def read(session: AsyncSession) -> Figures:
    """The figures at this moment; each statement needs an index of active things or a table of few rows."""
    # Statistics from a busier hour can make a whole table look cheaper than an index that is nearly empty by now.
    await session.execute(text("SELECT set_config('enable_seqscan', 'off', true)"))
    live, expired = (await session.execute(_leases())).one()
    pending, unsealed, unrouted = (await session.execute(_waiting())).one()
    return Figures(
        runs=tuple(ActiveRuns(*row) for row in (await session.execute(_runs())).all()),
        processes=tuple(LiveProcesses(*row) for row in (await session.execute(_processes())).all()),
        leases_live=live,
        leases_expired=expired,
        pending=pending,
        unsealed=unsealed,
        unrouted=unrouted,
        deliveries=tuple(OpenDeliveries(*row) for row in (await session.execute(_deliveries())).all()),
    )


def families(figures: Figures | None) -> Iterator[Metric]:
    """The figures as Prometheus is to see them; None if the database did not give them."""
    up = "Whether PostgreSQL gave the figures of the installation in time; without them there are the process's own."
    yield _gauge("database_up", up, value=figures is not None)
    if figures is None:
        return
    yield _gauge("runs_active", "Runs that have not ended.", ["type", "status"], _by_type_and_status(figures))
    yield _gauge("runs_stalled", "Running runs in which nothing has moved for two minutes.", value=_stalled(figures))
    yield _gauge("runs_throttled", "Running runs that the database's state holds up.", value=_throttled(figures))
    yield _gauge("runs_oldest_queued_age_seconds", "How long the oldest queued run has waited.", value=_oldest(figures))
    open_items = {(ItemState.PENDING,): figures.pending, (ItemState.RUNNING,): figures.leased}
    yield _gauge("items_open", f"Tenants' parts of runs not yet ended; pending up to {MOST:,}.", ["state"], open_items)
    leases = {("live",): figures.leases_live, ("expired",): figures.leases_expired}
    yield _gauge("leases", "Tenants that a worker holds, and those whose worker has fallen silent.", ["state"], leases)
    alive = {(WORKER,): 0, (API,): 0} | {(one.kind,): one.count for one in figures.processes}
    yield _gauge("processes", "Processes heard of in the last 30 seconds.", ["kind"], alive)
    yield _gauge("worker_slots_free", "Connections on which live workers have nothing to repair.", value=_free(figures))
    yield _gauge("audit_events_pending", f"Events that wait for their seal; up to {MOST:,}.", value=figures.unsealed)
    unrouted = f"Events not yet matched with rules; up to {MOST:,}."
    yield _gauge("outbox_events_unrouted", unrouted, value=figures.unrouted)
    open_deliveries = {(status,): 0 for status in OPEN} | {(one.status,): one.count for one in figures.deliveries}
    yield _gauge("alert_deliveries_open", "Alerts on their way, or held in quiet hours.", ["status"], open_deliveries)
    overdue = "How long the alert that is most overdue should have been tried."
    overdue_s = max((one.overdue_s for one in figures.deliveries), default=0)
    yield _gauge("alert_deliveries_overdue_seconds", overdue, value=overdue_s)


def _gauge(
    name: str, documentation: str, labels: list[str] | None = None, values: Any = None, *, value: float | None = None
) -> Metric:
    family = GaugeMetricFamily(f"opsplane_{name}", documentation, value=value, labels=labels)
    for key, number in (values or {}).items():
        family.add_metric(key, number)
    return family


def _by_type_and_status(figures: Figures) -> dict[tuple[str, ...], int]:
    return {(one.type, one.status): one.count for one in figures.runs}


def _stalled(figures: Figures) -> int:
    return sum(one.stalled for one in figures.runs)


def _throttled(figures: Figures) -> int:
    return sum(one.throttled for one in figures.runs)


def _oldest(figures: Figures) -> float:
    return max((one.oldest_s for one in figures.runs if one.status == Status.QUEUED), default=0)


def _free(figures: Figures) -> int:
    return max(0, sum(one.slots for one in figures.processes if one.kind == WORKER) - figures.leased)


def _runs() -> Select[*tuple[Any, ...]]:
    stalled = func.count().filter(run.stalled_at.is_not(None))
    throttled = func.count().filter(run.throttled_reason.is_not(None))
    return (
        select(run.type, run.status, func.count(), stalled, throttled, _age_s(func.min(run.created_at)))
        .where(run.status != _constant(Status.COMPLETED))
        .group_by(run.type, run.status)
        .order_by(run.type, run.status)
    )


def _leases() -> Select[*tuple[Any, ...]]:
    expired = item.lease_until < func.clock_timestamp()
    counts = func.count().filter(~expired), func.count().filter(expired)
    return select(*counts).where(item.state == _constant(ItemState.RUNNING))


def _waiting() -> Select[*tuple[Any, ...]]:
    return select(
        _count(item, item.state == _constant(ItemState.PENDING)),
        _count(AuditPending, true()),
        _count(OutboxEvent, OutboxEvent.routed_at.is_(None)),
    )


def _processes() -> Select[*tuple[Any, ...]]:
    return (
        select(Process.kind, func.count(), cast(func.sum(Process.slots), Integer))
        .where(Process.seen_at > func.clock_timestamp() - ALIVE_FOR)
        .group_by(Process.kind)
    )


def _deliveries() -> Select[*tuple[Any, ...]]:
    waiting = delivery.status.in_([_constant(status) for status in OPEN])
    some = select(delivery.status, delivery.due_at).where(waiting).limit(MOST).subquery()
    return select(some.c.status, func.count(), _age_s(func.min(some.c.due_at))).group_by(some.c.status)


def _count(table: type[Base], condition: ColumnElement[bool]) -> ScalarSelect[Any]:
    some = select(literal(1)).select_from(table).where(condition).limit(MOST).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


def _constant(value: str) -> ColumnElement[str]:
    """Written into the statement: a plan for any parameter could use no index of one value's rows."""
    return literal(str(value), literal_execute=True)


def _age_s(since: ColumnElement[Any]) -> ColumnElement[float]:
    return func.greatest(0.0, cast(func.extract("epoch", func.clock_timestamp() - since), Float))
