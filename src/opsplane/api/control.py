"""Control of a run over JSON: pause, resume, cancel, retry what failed."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Header, Response
from pydantic import Field, StrictBool

from opsplane.api import problems
from opsplane.api.deps import ThePlane, source_of
from opsplane.api.rights import CanControlRuns, CanStartRunbooks
from opsplane.api.schemas import Body, ReasonIn
from opsplane.auth.tokens import InvalidToken
from opsplane.errors import MissingCapability, NotFound, ServiceUnavailable
from opsplane.runbooks import control as runbooks
from opsplane.runbooks.idempotency import IdempotencyKeyReused, InvalidIdempotencyKey
from opsplane.runbooks.locks import ScopeLocked
from opsplane.runbooks.preflights import PreflightTooSlow
from opsplane.runbooks.reasons import ReasonRequired
from opsplane.runbooks.service import NothingToDo
from opsplane.runs.control import Ask
from opsplane.runs.schemas import RunOut
from opsplane.runs.states import InvalidTransition
from opsplane.tenants.universe import TenantNotAllowed

ALWAYS = (InvalidToken, MissingCapability, ServiceUnavailable, NotFound, InvalidTransition)

control = APIRouter(prefix="/ops/runs/{run_id}")


class AskIn(Body):
    """Nothing; an empty object may be sent."""


class RetryIn(Body):
    """Why; without it the old run's reason is used again, except in break-glass."""

    reason: ReasonIn | None = None
    force: Annotated[StrictBool, Field(description="Run even if nothing is wrong any more.")] = False


@control.post("/pause", status_code=202, responses=problems.responses(*ALWAYS))
async def pause_run(run_id: uuid.UUID, who: CanControlRuns, plane: ThePlane, body: AskIn | None = None) -> RunOut:
    """Ask a run to pause: workers end their chunks, then it is paused, and its scope stays locked."""
    return await runbooks.ask(plane, run_id, Ask.PAUSE, by=who)


@control.post("/resume", status_code=202, responses=problems.responses(*ALWAYS))
async def resume_run(run_id: uuid.UUID, who: CanControlRuns, plane: ThePlane, body: AskIn | None = None) -> RunOut:
    """Let a paused run go on."""
    return await runbooks.ask(plane, run_id, Ask.RESUME, by=who)


@control.post("/cancel", status_code=202, responses=problems.responses(*ALWAYS))
async def cancel_run(run_id: uuid.UUID, who: CanControlRuns, plane: ThePlane, body: AskIn | None = None) -> RunOut:
    """Ask a run to end: workers end their chunks, tenants not begun are left alone, what is repaired stays so."""
    return await runbooks.ask(plane, run_id, Ask.CANCEL, by=who)


@control.post(
    "/retry-failed",
    status_code=202,
    responses=problems.responses(
        *ALWAYS, ReasonRequired, TenantNotAllowed, IdempotencyKeyReused, InvalidIdempotencyKey, ScopeLocked,
        NothingToDo, PreflightTooSlow,
    ),
)  # fmt: skip
async def retry_failed(
    run_id: uuid.UUID,
    who: CanStartRunbooks,
    plane: ThePlane,
    response: Response,
    body: RetryIn | None = None,
    idempotency_key: Annotated[str | None, Header(description="The same key gets the same run.")] = None,
) -> RunOut:
    """Queue a new run over the tenants that failed in this one. Follow it at the `Location` returned."""
    asked = body or RetryIn()
    started = await runbooks.retry_failed(
        plane,
        run_id,
        by=who,
        source=source_of(who),
        reason=(asked.reason.code, asked.reason.text) if asked.reason else None,
        force=asked.force,
        idempotency_key=idempotency_key,
    )
    response.headers["Location"] = f"/system/ops/runs/{started.run.id}"
    if started.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return started.run
