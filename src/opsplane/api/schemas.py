"""Bodies of the system API; unknown fields are refused."""

import uuid
from datetime import datetime
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StrictBool, model_validator

from opsplane.runbooks.reasons import MAX_TEXT, ReasonCode
from opsplane.runbooks.scopes import ScopeKind
from opsplane.runs.briefs import RunBrief
from opsplane.runs.item_views import ItemOut
from opsplane.runs.schemas import RunOut, ScopeOut


class Body(BaseModel):
    """A request body."""

    model_config = ConfigDict(extra="forbid")


def _encodable(secret: SecretStr) -> SecretStr:
    try:
        secret.get_secret_value().encode()
    except UnicodeEncodeError:
        raise ValueError("is no text: it holds half a surrogate pair") from None
    return secret


PasswordText = Annotated[SecretStr, Field(max_length=1024), AfterValidator(_encodable)]
CodeText = Annotated[SecretStr, Field(max_length=64), AfterValidator(_encodable)]


class LoginIn(Body):
    """Who signs in."""

    username: Annotated[str, Field(max_length=320, pattern=r"^[^\x00]*$", description="The e-mail address.")]
    password: PasswordText


class ScopeIn(Body):
    """All tenants, or one by id or external id."""

    kind: ScopeKind = ScopeKind.ALL_TENANTS
    tenant_id: Annotated[str | None, Field(max_length=200, description="Id or external id.")] = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.kind is ScopeKind.SINGLE_TENANT) != (self.tenant_id is not None):
            raise ValueError("single_tenant needs a tenant_id, all_tenants has none")
        return self


class ReasonIn(Body):
    """Why; the service checks it, the same for every door."""

    code: Annotated[
        str, Field(max_length=50, json_schema_extra={"examples": list(ReasonCode)}, description=", ".join(ReasonCode))
    ]
    text: Annotated[str, Field(max_length=100_000, description=f"1 to {MAX_TEXT} characters.")]


class PreflightIn(Body):
    """What to look at; what would take long to count is estimated, unless it must be exact."""

    scope: ScopeIn = Field(default_factory=ScopeIn)
    exact: StrictBool = False


class StartIn(Body):
    """What to start; a preflight is made if none is named."""

    scope: ScopeIn = Field(default_factory=ScopeIn)
    preflight_id: uuid.UUID | None = None
    confirmation: Annotated[str | None, Field(max_length=200)] = None
    reason: ReasonIn | None = None
    force: StrictBool = False


class PreflightOut(BaseModel):
    """What a run would change, and what starting it takes."""

    preflight_id: uuid.UUID
    runbook: str
    scope: ScopeOut
    affected_count: int
    total_count: int
    estimated_tenants: Annotated[int, Field(description="If estimated, how many there are at most.")]
    estimated: Annotated[bool, Field(description="Whether affected_count comes from a sample.")]
    margin_percent: Annotated[
        float | None, Field(description="95 of 100 samples are so near to the truth; none if counted.")
    ]
    total_estimated: bool
    said: Annotated[str, Field(description="All of it in words.")]
    reason_required: bool
    confirmation_phrase: str | None
    can_start: bool
    computed_at: datetime
    expires_at: datetime


class RunbookOut(BaseModel):
    """A runbook, what starting it takes, and the runs of its lock group that hold their scopes now."""

    id: str
    version: int
    title: str
    description: str
    scopes: list[ScopeKind]
    confirmation_phrase: str
    capability: str
    on_deploy: bool
    last_run: RunBrief | None
    active_runs: list[RunBrief]


class TenantOut(BaseModel):
    """A tenant that runbooks may target."""

    id: uuid.UUID
    external_id: str
    name: str


class RunbookPage(BaseModel):
    """All runbooks; there are never so many that the list goes on."""

    items: list[RunbookOut]
    next_cursor: str | None


class TenantPage(BaseModel):
    """A page of tenants by external id."""

    items: list[TenantOut]
    next_cursor: str | None


class RunPage(BaseModel):
    """A page of runs, newest first."""

    items: list[RunOut]
    next_cursor: str | None


class ItemPage(BaseModel):
    """A page of a run's items, in their order of work."""

    items: list[ItemOut]
    next_cursor: str | None
