"""Rules: which events go to which destinations, how often, and at which hours."""

import uuid
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
    ValidationError,
    model_validator,
)
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts import quiet_hours
from opsplane.alerts.models import AlertDestination, AlertRule
from opsplane.alerts.refusals import NameTaken, TooMany
from opsplane.audit import log as audit
from opsplane.auth.actors import Actor
from opsplane.db import new_id
from opsplane.errors import InvalidInput, NotFound
from opsplane.outbox import Kind, Severity

MOST = 200
WEEK_S = 604_800

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Event = Literal[
    Kind.RUN_FAILED, Kind.RUN_SUCCEEDED, Kind.RUN_STALLED,
    Kind.BREAK_GLASS_STARTED, Kind.BREAK_GLASS_ENDED, Kind.AUDIT_DEGRADED,
]  # fmt: skip
# What a rule is about unless it says otherwise: success is no news.
USUAL: list[Event] = [
    Kind.RUN_FAILED, Kind.RUN_STALLED, Kind.BREAK_GLASS_STARTED, Kind.BREAK_GLASS_ENDED, Kind.AUDIT_DEGRADED,
]  # fmt: skip


class RuleNotFound(NotFound):
    """There is no such rule."""

    code = "rule_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such rule; `opsplane alerts rules list` names them.")


class QuietSpec(BaseModel):
    """Hours in which nothing is sent; what happens in them is held until they are over."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    start: Annotated[str, Field(alias="from", max_length=5, description="`22:00`, by the wall clock of the zone.")]
    until: Annotated[str, Field(max_length=5, description="`07:00`, the first loud minute.")]
    zone: Annotated[str, Field(max_length=64, description="A time zone such as `Europe/Berlin`.")] = "UTC"

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        quiet_hours.parse(self.start, self.until, self.zone)
        return self


class RuleSpec(BaseModel):
    """What a rule says. Lists that are empty let everything through."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    enabled: StrictBool = True
    events: Annotated[list[Event], Field(min_length=1, max_length=len(Kind))] = USUAL
    min_severity: Severity = Severity.INFO
    runbooks: Annotated[list[Key], Field(max_length=100, description="Runs of these runbooks alone.")] = []
    scope: Annotated[Literal["all_tenants", "single_tenant"] | None, Field(description="Runs of this scope alone.")] = (
        None
    )
    tenants: Annotated[list[Key], Field(max_length=100, description="Runs over one of these external ids alone.")] = []
    destination_ids: Annotated[
        list[uuid.UUID],
        Field(max_length=100, description="Empty: every destination."),
        AfterValidator(lambda ids: list(dict.fromkeys(ids))),
    ] = []
    cooldown_s: Annotated[
        StrictInt,
        Field(
            ge=0, le=WEEK_S, description="Seconds in which the same news of the same runbook and scope is sent once."
        ),
    ] = 0
    quiet_hours: QuietSpec | None = None


class RuleChange(BaseModel):
    """What to change of a rule; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    enabled: StrictBool | None = None
    events: list[Event] | None = None
    min_severity: Severity | None = None
    runbooks: list[Key] | None = None
    scope: Literal["all_tenants", "single_tenant"] | None = None
    tenants: list[Key] | None = None
    destination_ids: list[uuid.UUID] | None = None
    cooldown_s: Annotated[StrictInt, Field(ge=0, le=WEEK_S)] | None = None
    quiet_hours: QuietSpec | None = None

    def given(self) -> dict[str, Any]:
        """The fields that were sent; null takes a scope or quiet hours away."""
        return self.model_dump(exclude_unset=True, by_alias=True)


class RuleOut(RuleSpec):
    """A rule as it is kept."""

    id: uuid.UUID
    created_at: datetime


async def every(session: AsyncSession) -> list[RuleOut]:
    """All rules, oldest first."""
    return [shown(rule) for rule in await session.scalars(select(AlertRule).order_by(AlertRule.created_at))]


async def find(session: AsyncSession, rule_id: uuid.UUID) -> AlertRule:
    """One rule.

    Raises:
        RuleNotFound: 404.
    """
    found = await session.get(AlertRule, rule_id, with_for_update=True)
    if found is None:
        raise RuleNotFound
    return found


async def add(session: AsyncSession, spec: RuleSpec, *, by: Actor) -> RuleOut:
    """A new rule.

    Raises:
        NameTaken: 409.
        InvalidInput: it names a destination that does not exist (422).
        TooMany: 422.
    """
    if (await session.scalar(select(func.count()).select_from(AlertRule)) or 0) >= MOST:
        raise TooMany("rules", MOST)
    await _check_destinations(session, spec)
    made: AlertRule | None = await session.scalar(
        insert(AlertRule).values(id=new_id(), **_columns(spec)).on_conflict_do_nothing().returning(AlertRule)
    )
    if made is None:
        raise NameTaken(spec.name)
    await _record(session, "added", made, by=by)
    return shown(made)


async def change(session: AsyncSession, rule_id: uuid.UUID, given: dict[str, Any], *, by: Actor) -> RuleOut:
    """Change the fields that are given, and leave the rest.

    Raises:
        RuleNotFound: 404.
        NameTaken: 409.
        InvalidInput: what comes out makes no sense (422).
    """
    found = await find(session, rule_id)
    now = shown(found).model_dump(by_alias=True, exclude={"id", "created_at"})
    try:
        spec = RuleSpec.model_validate(now | given)
    except ValidationError as error:
        raise InvalidInput(first_sentence(error)) from None
    await _check_destinations(session, spec)
    same = select(AlertRule.id).where(AlertRule.name == spec.name, AlertRule.id != found.id)
    if await session.scalar(same):
        raise NameTaken(spec.name)
    for column, value in _columns(spec).items():
        setattr(found, column, value)
    try:
        await session.flush()
    except IntegrityError:  # somebody else has just taken the name
        raise NameTaken(spec.name) from None
    await _record(session, "changed", found, by=by)
    return shown(found)


async def remove(session: AsyncSession, rule_id: uuid.UUID, *, by: Actor) -> None:
    """Delete a rule; what it has sent on its way still arrives.

    Raises:
        RuleNotFound: 404.
    """
    found = await find(session, rule_id)
    await session.delete(found)
    await session.flush()
    await _record(session, "deleted", found, by=by)


def shown(rule: AlertRule) -> RuleOut:
    """The rule as the API shows it."""
    quiet = None
    if rule.quiet_from and rule.quiet_until and rule.quiet_zone:
        quiet = {"from": rule.quiet_from, "until": rule.quiet_until, "zone": rule.quiet_zone}
    columns = {name: getattr(rule, name) for name in RuleOut.model_fields if name != "quiet_hours"}
    return RuleOut.model_validate(columns | {"quiet_hours": quiet})


def first_sentence(error: ValidationError) -> str:
    """What is wrong first, and where, in one sentence."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}." if where else f"{first['msg']}."


def _columns(spec: RuleSpec) -> dict[str, Any]:
    quiet = spec.quiet_hours
    return spec.model_dump(exclude={"quiet_hours"}) | {
        "quiet_from": quiet and quiet.start,
        "quiet_until": quiet and quiet.until,
        "quiet_zone": quiet and quiet.zone,
    }


async def _check_destinations(session: AsyncSession, spec: RuleSpec) -> None:
    known = await session.scalars(select(AlertDestination.id).where(AlertDestination.id.in_(spec.destination_ids)))
    unknown = set(spec.destination_ids) - set(known)
    if unknown:
        raise InvalidInput(f"There is no destination {min(map(str, unknown))}.")


async def _record(session: AsyncSession, act: str, rule: AlertRule, *, by: Actor) -> None:
    details = shown(rule).model_dump(mode="json", by_alias=True, exclude={"id", "created_at"})
    await audit.record(
        session, f"platform.alerts.rule_{act}", by=by, subject_type="alert_rule", subject_id=rule.id, details=details
    )
