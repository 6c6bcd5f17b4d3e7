"""What makes an event provable: one spelling of it, and keyed hashes over that spelling."""

import hashlib
import hmac
import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from opsplane import keys
from opsplane.audit.models import AuditEvent
from opsplane.config import Settings

FIRST = bytes(32)  # what the first link has before it

_WRITTEN = tuple(
    column.name for column in AuditEvent.__table__.columns if column.name not in {"signature", "occurred_at"}
)


def sign(settings: Settings, event: Mapping[str, Any]) -> bytes:
    """Over everything that opsplane writes; the time is the database's, and is sealed."""
    return _keyed(settings, "audit events", _spelled(event, _WRITTEN))


def link(settings: Settings, seq: int, prev: bytes, event: Mapping[str, Any]) -> bytes:
    """The seal of an event at its place in the chain."""
    whole = _spelled(event, (*_WRITTEN, "occurred_at", "signature"))
    return _keyed(settings, "audit chain", str(seq).encode(), prev, whole)


def head(settings: Settings, seq: int, last: bytes) -> bytes:
    """The proof of where the chain ends."""
    return _keyed(settings, "audit head", str(seq).encode(), last)


def spooled(settings: Settings, line: Mapping[str, Any]) -> dict[str, Any]:
    """A line for the spool with its proof; the folder is not the database, and is not trusted either."""
    written: dict[str, Any] = plain({name: value for name, value in line.items() if name != "mac"})
    text = json.dumps(written, sort_keys=True, separators=(",", ":")).encode()
    return written | {"mac": _keyed(settings, "audit spool", text).hex()}


def same(one: bytes | None, other: bytes) -> bool:
    """Compare in constant time."""
    return one is not None and hmac.compare_digest(one, other)


def plain(value: Any) -> Any:
    """A value as JSON that reads the same after Postgres has kept it: jsonb turns 1e20 into an integer."""
    match value:
        case Mapping():
            return {str(key): plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case uuid.UUID() | str():
            return str(value)
        case _:
            return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(Decimal(repr(value)))  # as jsonb does: 1e200 is a one with zeros, not the nearest double's digits
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value


def _spelled(event: Mapping[str, Any], names: tuple[str, ...]) -> bytes:
    return json.dumps({name: plain(event[name]) for name in names}, sort_keys=True, separators=(",", ":")).encode()


def _keyed(settings: Settings, purpose: str, *parts: bytes) -> bytes:
    made = hmac.new(keys.derived(settings, purpose), digestmod=hashlib.sha256)
    for part in parts:
        made.update(len(part).to_bytes(8, "big") + part)  # no two lists of parts read as one
    return made.digest()
