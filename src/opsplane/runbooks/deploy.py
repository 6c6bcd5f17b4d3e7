"""The deploy hook: every runbook marked for deploy, once per release, however many pods try."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from opsplane.auth.actors import Actor
from opsplane.db import sqlstate
from opsplane.errors import OpsplaneError, ServiceUnavailable
from opsplane.runbooks import registry, service
from opsplane.runbooks.base import Runbook
from opsplane.runbooks.locks import ScopeLocked
from opsplane.runbooks.reasons import ReasonCode
from opsplane.runbooks.service import NothingToDo, Plane, Source, StartOrder
from opsplane.runs import views
from opsplane.runs.models import OperationRun
from opsplane.runs.schemas import RunOut
from opsplane.runs.states import Outcome, Status

log = structlog.get_logger()

POLL_S = 0.5
UNIQUE_VIOLATION = "23505"


@dataclass(frozen=True)
class Deployed:
    """What became of one runbook: its run, or the refusal to start it, or neither if there was nothing to do."""

    runbook: str
    run: RunOut | None
    refusal: OpsplaneError | None = None

    @property
    def ended_well(self) -> bool | None:
        """None while the run goes on."""
        if self.run is None:
            return self.refusal is None
        return self.run.outcome is Outcome.SUCCEEDED if self.run.status is Status.COMPLETED else None


def chosen(keys: Sequence[str]) -> list[Runbook]:
    """The runbooks named, else those marked for deploy.

    Raises:
        RunbookNotFound: one named is unknown.
    """
    return [registry.find(key) for key in keys] or [runbook for runbook in registry.every() if runbook.on_deploy]


async def attempt(plane: Plane, runbook: Runbook, *, release: str, wait: bool, ends: float | None) -> Deployed:
    """As `run`, but a refusal is a result, so that one runbook's does not hide what became of the others."""
    try:
        return await run(plane, runbook, release=release, wait=wait, ends=ends)
    except ServiceUnavailable:
        raise
    except OpsplaneError as refusal:
        return Deployed(runbook.key, None, refusal)


async def run(plane: Plane, runbook: Runbook, *, release: str, wait: bool, ends: float | None) -> Deployed:
    """Start this release's run of a runbook, or join the one another pod has started.

    `ends` is a `time.monotonic()` after which waiting stops; the run itself goes on.

    Raises:
        ScopeLocked: another run holds the scope, and there is no waiting (any longer).
    """
    while True:
        try:
            started = await _start_or_join(plane, runbook, release)
            break
        except NothingToDo:
            return Deployed(runbook.key, None)
        except ScopeLocked as held:
            if not wait or _over(ends):
                raise
            # Looking costs nothing, while every refused start is put on record: try again only once that run has ended.
            log.warning("waiting_for_scope", runbook=runbook.key, active_run_id=held.extra["active_run_id"])
            await _ended(plane, uuid.UUID(held.extra["active_run_id"]), ends)
    return Deployed(runbook.key, await _ended(plane, started.id, ends) if wait else started)


async def _start_or_join(plane: Plane, runbook: Runbook, release: str) -> RunOut:
    identity = f"deploy:{release}:{runbook.key}"
    if (theirs := await _find(plane, runbook, identity)) is not None:
        return theirs
    order = StartOrder(
        runbook=runbook.key,
        tenant=None,
        source=Source.DEPLOY_HOOK,
        reason=(ReasonCode.DATA_REPAIR, f"Deploy of release {release}"),
        confirmation=runbook.confirmation_phrase,
        release=release,
        identity_key=identity,
    )
    try:
        return (await service.start(plane, order, by=Actor.system("deploy hook"))).run
    except (ScopeLocked, NothingToDo, IntegrityError) as lost:
        # Another pod may have been faster: by now its run holds the scope, or has left nothing to do.
        if isinstance(lost, IntegrityError) and sqlstate(lost) != UNIQUE_VIOLATION:
            raise
        theirs = await _find(plane, runbook, identity)
        if theirs is None:
            raise
        return theirs


async def _find(plane: Plane, runbook: Runbook, identity: str) -> RunOut | None:
    async with plane.db.reading() as session:
        run_id: uuid.UUID | None = await session.scalar(
            select(OperationRun.id).where(OperationRun.type == runbook.key, OperationRun.identity_key == identity)
        )
        if run_id is None:
            return None
        return await views.show(session, run_id, base_url=plane.settings.base_url)


async def _ended(plane: Plane, run_id: uuid.UUID, ends: float | None) -> RunOut:
    while True:
        async with plane.db.reading() as session:
            shown = await views.show(session, run_id, base_url=plane.settings.base_url)
        if shown.status is Status.COMPLETED or _over(ends):
            return shown
        await asyncio.sleep(POLL_S)


def _over(ends: float | None) -> bool:
    return ends is not None and time.monotonic() > ends
