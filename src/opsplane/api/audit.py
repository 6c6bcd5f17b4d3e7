"""The record over JSON, for whoever has to prove what happened."""

import re
import uuid
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator

from opsplane.api import problems
from opsplane.api.deps import Cursor, Limit, ThePlane, bad_cursor, decode_cursor, encode_cursor
from opsplane.api.rights import CanViewAudit
from opsplane.audit import views
from opsplane.audit.views import AuditEventOut, Position, Wanted
from opsplane.auth.tokens import InvalidToken
from opsplane.errors import InvalidInput, MissingCapability, ServiceUnavailable

audit = APIRouter(prefix="/audit")

DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")


def _written_out(given: str) -> str:
    # pydantic takes numbers too, as seconds or milliseconds, whichever they look like
    if DATE_TIME.match(given) is None:
        raise ValueError("write a date and time such as 2026-11-21T08:00:00Z")
    return given


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(views.moment)]
Text = Annotated[str | None, Query(max_length=200)]


class AuditPage(BaseModel):
    """A page of events, newest first."""

    items: list[AuditEventOut]
    next_cursor: str | None


@audit.get("", responses=problems.responses(InvalidToken, MissingCapability, InvalidInput, ServiceUnavailable))
async def list_events(
    who: CanViewAudit,
    plane: ThePlane,
    action: Annotated[str | None, Query(max_length=200, description="Or a prefix, if it ends in a dot.")] = None,
    actor: Annotated[str | None, Query(max_length=200, description="Part of a name.")] = None,
    subject_type: Text = None,
    subject_id: Text = None,
    tenant_id: uuid.UUID | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    break_glass: bool | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> AuditPage:
    """What happened, newest first."""
    wanted = Wanted(
        action=action, actor=actor, subject_type=subject_type, subject_id=subject_id, tenant_id=tenant_id, since=since,
        until=until, break_glass=break_glass,
    )  # fmt: skip
    after = _position(decode_cursor(cursor))
    async with plane.db.reading() as session:
        found = await views.page(session, wanted, after=after, limit=limit + 1)
    items = found[:limit]
    more = len(found) > limit
    return AuditPage(items=items, next_cursor=encode_cursor(Position.of(items[-1])) if more else None)


def _position(written: str | None) -> Position | None:
    try:
        return None if written is None else Position.parse(written)
    except ValueError:
        raise bad_cursor() from None
