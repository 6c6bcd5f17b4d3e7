"""What REST and the CLI show of a run: the same words and numbers everywhere."""

import uuid
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from opsplane.runbooks.scopes import ScopeKind
from opsplane.runs.states import Outcome, Status


class ScopeOut(BaseModel):
    """A scope; the tenant is named by both of its ids."""

    kind: ScopeKind
    tenant_id: uuid.UUID | None = None
    tenant_external_id: str | None = None


class ActorOut(BaseModel):
    """Who started it; `system` is opsplane itself, as for the deploy hook."""

    kind: str
    display: str
    break_glass: bool


class ReasonOut(BaseModel):
    """Why it was started."""

    code: str
    text: str


class PreflightContext(BaseModel):
    """What the preflight had counted, or estimated from a sample."""

    affected_count: int | None
    estimated: bool = False


class ContextOut(BaseModel):
    """Numbers of the whole run; counts of rows, but `skipped_count` of tenants in which nothing was wrong."""

    preflight: PreflightContext
    updated_count: int
    skipped_count: int
    error_count: int
    duration_ms: int | None


class FailureOut(BaseModel):
    """Why a tenant, or the run as a whole, failed."""

    tenant_id: uuid.UUID | None
    tenant_external_id: str | None
    code: str
    message: str
    at: datetime | None


class ProgressOut(BaseModel):
    """How far it is: `fraction` from 0 to 1, speed and time left while it runs; and all of it in words."""

    fraction: Annotated[float, Field(ge=0, le=1)]
    rows_per_s: float | None
    eta_s: float | None
    said: str
    pace: str


class ThrottledOut(BaseModel):
    """Why the state of the database holds a run up, and since when."""

    reason: str
    since: datetime


class AskedOut(BaseModel):
    """What was asked of a run, by whom and when."""

    what: Literal["pause", "resume", "cancel"]
    by: str
    at: datetime


class CanOut(BaseModel):
    """What may be asked of a run as it is now; whether the caller may ask it is another question."""

    pause: bool = False
    resume: bool = False
    cancel: bool = False
    retry_failed: bool = False


class RetryOut(BaseModel):
    """The newest run over the tenants that failed in this one."""

    run_id: uuid.UUID
    status: Status
    outcome: Outcome
    view_url: str


class RunOut(BaseModel):
    """An operation run."""

    id: uuid.UUID
    type: str
    type_label: str
    status: Status
    outcome: Outcome
    scope: ScopeOut
    actor: ActorOut
    source: str
    reason: ReasonOut | None
    release: str | None
    retry_of_run_id: uuid.UUID | None = None
    retried_in: RetryOut | None = None
    summary_counts: dict[str, int]
    context: ContextOut
    failures: list[FailureOut]
    progress: ProgressOut
    stalled: bool
    throttled: ThrottledOut | None = None
    next_step: str
    can: CanOut = CanOut()
    asked: AskedOut | None = None
    asks: list[AskedOut] = []
    created_at: datetime
    started_at: datetime | None
    paused_at: datetime | None = None
    completed_at: datetime | None
    view_url: str
