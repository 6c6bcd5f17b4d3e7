"""The record over JSON, for whoever has to prove what happened."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from opsplane.api import problems
from opsplane.api.deps import ThePlane, bad_cursor, decode_cursor, encode_cursor
from opsplane.api.queries import AuditQuery
from opsplane.api.rights import CanViewAudit
from opsplane.audit import views
from opsplane.audit.views import AuditEventOut, Position, Wanted
from opsplane.auth.tokens import InvalidToken
from opsplane.errors import InvalidInput, MissingCapability, ServiceUnavailable

audit = APIRouter(prefix="/audit")


class AuditPage(BaseModel):
    """A page of events, newest first."""

    items: list[AuditEventOut]
    next_cursor: str | None


@audit.get("", responses=problems.responses(InvalidToken, MissingCapability, InvalidInput, ServiceUnavailable))
async def list_events(who: CanViewAudit, plane: ThePlane, query: Annotated[AuditQuery, Query()]) -> AuditPage:
    """What happened, newest first."""
    wanted = Wanted(**query.model_dump(exclude={"cursor", "limit"}))
    after = _position(decode_cursor(query.cursor))
    async with plane.db.reading() as session:
        found = await views.page(session, wanted, after=after, limit=query.limit + 1)
    items = found[: query.limit]
    more = len(found) > query.limit
    return AuditPage(items=items, next_cursor=encode_cursor(Position.of(items[-1])) if more else None)


def _position(written: str | None) -> Position | None:
    try:
        return None if written is None else Position.parse(written)
    except ValueError:
        raise bad_cursor() from None
