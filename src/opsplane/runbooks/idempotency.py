"""Idempotency keys: a repeated start gets the first one's answer, and never a second run."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert

from opsplane.auth.actors import Actor
from opsplane.db import Database
from opsplane.direct import Begun, directly
from opsplane.errors import OpsplaneError
from opsplane.lookups import Lookup, Rows, parameter
from opsplane.runbooks.models import IdempotencyKey

MAX_LENGTH = 255


class IdempotencyKeyReused(OpsplaneError):
    """The key came before with another request."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for a different request; make a new key for a new request.")


class InvalidIdempotencyKey(OpsplaneError):
    """The key is empty or too long."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_idempotency_key"

    def __init__(self) -> None:
        super().__init__(f"An Idempotency-Key has 1 to {MAX_LENGTH} characters.")


def fingerprint(request: Mapping[str, Any]) -> str:
    """One string per request: equal requests have equal ones, whatever the order of their fields."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()


async def find(db: Database, key: str, request: str, *, by: Actor) -> dict[str, Any] | None:
    """The stored answer to this request, if the key came before.

    Raises:
        IdempotencyKeyReused: it came with another request (422).
        InvalidIdempotencyKey: 422.
    """
    if not 1 <= len(key) <= MAX_LENGTH:
        raise InvalidIdempotencyKey
    return _answer(await db.look(STORED, principal_=by.principal, key_=key), request)


async def reserve(session: Begun, key: str, request: str, *, by: Actor) -> dict[str, Any] | None:
    """The stored answer if the key came before, else None and the key is ours until the transaction ends.

    A second request with the same key waits here until the first one's transaction has ended.

    Raises:
        IdempotencyKeyReused: 422.
    """
    if await directly(session, RESERVE, principal=by.principal, key=key, fingerprint=request):
        return None
    return _answer(await directly(session, STORED, principal_=by.principal, key_=key), request)


async def answered(session: Begun, key: str, run_id: uuid.UUID, response: dict[str, Any], *, by: Actor) -> None:
    """Keep the answer."""
    given = {"principal_": by.principal, "key_": key, "run_id": run_id, "response": response}
    await directly(session, ANSWERED, **given)


def _answer(stored: Rows, request: str) -> dict[str, Any] | None:
    if not stored:
        return None
    response: dict[str, Any] | None = stored[0]["response"]
    if stored[0]["fingerprint"] != request or response is None:
        raise IdempotencyKeyReused
    return response


# Not named like the columns: SQLAlchemy keeps those names for what an UPDATE sets.
_MINE = (IdempotencyKey.principal == parameter("principal_")) & (IdempotencyKey.key == parameter("key_"))
STORED = Lookup.of(select(IdempotencyKey.fingerprint, IdempotencyKey.response).where(_MINE))
ANSWERED = Lookup.of(update(IdempotencyKey).where(_MINE), ("run_id", "response"))
RESERVE = Lookup.of(
    insert(IdempotencyKey).on_conflict_do_nothing().returning(IdempotencyKey.key), ("principal", "key", "fingerprint")
)
