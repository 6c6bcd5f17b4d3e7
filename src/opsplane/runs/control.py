"""What an operator may ask of a run that goes on: pause, resume, cancel. Asked is not done."""

import uuid
from enum import StrEnum
from typing import Any

from sqlalchemy import func, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.auth.actors import Actor
from opsplane.runs import lifecycle
from opsplane.runs.models import OperationRun
from opsplane.runs.states import InvalidTransition, Outcome, Status, sources
from opsplane.runs.views import RunNotFound


class Ask(StrEnum):
    """The three things to ask."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


WANTED = {Ask.PAUSE: Status.PAUSING, Ask.RESUME: Status.RUNNING, Ask.CANCEL: Status.CANCELLING}
DONE = {Ask.PAUSE: Status.PAUSED, Ask.RESUME: Status.RUNNING, Ask.CANCEL: Status.CANCELLING}
RECORDED = {
    Ask.PAUSE: "platform.ops.runbooks.pause_requested",
    Ask.RESUME: "platform.ops.runbooks.resumed",
    Ask.CANCEL: "platform.ops.runbooks.cancel_requested",
}


async def ask(session: AsyncSession, run_id: uuid.UUID, what: Ask, *, by: Actor) -> bool:
    """Ask it of a run, which is to be settled after the commit; False if that was asked or done already.

    Not in this transaction: a chunk whose fence did not see the request yet may belong to a claim
    that this transaction does not see, and the run would be called paused while that chunk is written.

    Raises:
        RunNotFound: 404.
        InvalidTransition: 409.
    """
    run = await session.scalar(
        select(OperationRun).where(OperationRun.id == run_id).with_for_update(key_share=True)
    )  # fmt: skip
    if run is None:
        raise RunNotFound(run_id)
    if _is_so(run, what):
        return False
    if run.status not in sources(WANTED[what]) or (what is Ask.RESUME and run.status == Status.QUEUED):
        raise InvalidTransition(Status(run.status), WANTED[what])
    details = {"type": run.type, "status": run.status}
    await lifecycle.move(session, run, WANTED[what], asks=_and(what, by), stalled_at=None, **_marks(what))
    await lifecycle.record(session, RECORDED[what], run, by=by, details=details)
    return True


def _is_so(run: OperationRun, what: Ask) -> bool:
    cancelled = what is Ask.CANCEL and run.outcome == Outcome.CANCELLED
    return cancelled or run.status in {WANTED[what], DONE[what]}


def _and(what: Ask, by: Actor) -> Any:
    said = {"what": what, "by": by.display}
    at = func.jsonb_build_object("at", func.clock_timestamp())
    return OperationRun.asks.concat(func.jsonb_build_array(literal(said, JSONB()).concat(at)))


def _marks(what: Ask) -> dict[str, Any]:
    if what is Ask.PAUSE:
        return {}
    resumed = {"resumed_at": func.clock_timestamp(), "woken_at": None} if what is Ask.RESUME else {}
    return resumed | _pause_over()


def _pause_over() -> dict[str, Any]:
    seconds = func.extract("epoch", func.clock_timestamp() - OperationRun.paused_at)
    return {"paused_ms": OperationRun.paused_ms + func.coalesce(func.round(seconds * 1000), 0), "paused_at": None}
