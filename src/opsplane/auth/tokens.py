"""API tokens: `ops_system_<prefix>_<secret><checksum>`; shown once, kept as a SHA-256."""

import hashlib
import hmac
import secrets
import uuid
import zlib
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.auth.actors import Actor, ActorKind
from opsplane.auth.capabilities import Capability
from opsplane.auth.models import ApiToken, PlatformUser, PlatformUserCapability
from opsplane.db import Database
from opsplane.direct import directly
from opsplane.errors import InvalidInput, NotFound, OpsplaneError
from opsplane.lookups import Lookup, parameter

PLANE = "system"
MAX_DAYS = 90
TOUCH_AFTER = timedelta(minutes=1)
_SECRET_LENGTH = 43  # 256 bits in base64url
_CHECKSUM_LENGTH = 8


class InvalidToken(OpsplaneError):
    """The token is malformed, unknown, expired or revoked; which of these is not told."""

    status, code = HTTPStatus.UNAUTHORIZED, "invalid_token"

    def __init__(self) -> None:
        super().__init__("This API token is not valid; make a new one with `opsplane tokens create`.")


class CannotMint(OpsplaneError):
    """Neither an emergency nor a token may make something that lives longer than itself."""

    status, code = HTTPStatus.FORBIDDEN, "cannot_mint_tokens"

    def __init__(self) -> None:
        super().__init__("Tokens are made by a person outside of break-glass: opsplane tokens create.")


# Once a minute is enough to know, and keeps one hot row from being written by every request.
_TO_TOUCH = ApiToken.last_used_at.is_(None) | (ApiToken.last_used_at < func.now() - TOUCH_AFTER)
LIVE = Lookup.of(
    select(
        ApiToken.id,
        ApiToken.owner_id,
        ApiToken.name,
        ApiToken.secret_hash,
        ApiToken.capabilities,
        PlatformUser.email,
        func.array(
            select(PlatformUserCapability.capability)
            .where(PlatformUserCapability.user_id == PlatformUser.id)
            .scalar_subquery()
        ).label("owned"),
        _TO_TOUCH.label("touch"),
    )
    .join(PlatformUser, PlatformUser.id == ApiToken.owner_id)
    .where(
        ApiToken.prefix == parameter("prefix"),
        ApiToken.revoked_at.is_(None),
        ApiToken.expires_at > func.now(),
        PlatformUser.disabled_at.is_(None),
    )
)
TOUCH = Lookup.of(update(ApiToken).where(ApiToken.id == parameter("used"), _TO_TOUCH).values(last_used_at=func.now()))
_touching = set[uuid.UUID]()


@dataclass(frozen=True)
class MintedToken:
    """A new token's row and its secret, which exists only here."""

    row: ApiToken
    secret: str


async def mint(
    session: AsyncSession, owner: PlatformUser, *, name: str, capabilities: frozenset[str], days: int, by: Actor
) -> MintedToken:
    """Make a token that can do at most `capabilities`, and never more than its owner can when it is used.

    Raises:
        CannotMint: 403, in break-glass and by tokens themselves: neither may outlive its time.
        MissingCapability: 403.
        InvalidInput: it would live less than a day or more than 90, or its owner lacks a capability.
    """
    if by.break_glass or by.kind is ActorKind.API_TOKEN:
        raise CannotMint
    by.require(Capability.USERS_MANAGE)
    if not 1 <= days <= MAX_DAYS:
        raise InvalidInput(f"A token lives 1 to {MAX_DAYS} days, not {days}.")
    if beyond := sorted(capabilities - await capabilities_of(session, owner.id)):
        raise InvalidInput(f"{owner.email} lacks {', '.join(beyond)}; grant it first: opsplane users grant.")
    prefix, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    body = f"ops_{PLANE}_{prefix}_{secret}"
    row = ApiToken(
        owner_id=owner.id,
        name=name,
        prefix=prefix,
        secret_hash=_hash(secret),
        capabilities=sorted(capabilities),
        expires_at=await session.scalar(select(func.now() + timedelta(days=days))),
    )
    session.add(row)
    await session.flush()
    return MintedToken(row, body + checksum_of(body))


async def authenticate(db: Database, token: str) -> Actor:
    """The actor a token stands for, with what both token and owner may do now.

    Raises:
        InvalidToken: 401, the same for every reason.
    """
    prefix, secret = _parse(token)
    rows = await db.look(LIVE, prefix=prefix)
    if not rows or not hmac.compare_digest(rows[0]["secret_hash"], _hash(secret)):
        raise InvalidToken
    [found] = rows
    if found["touch"]:
        await _touch(db, found["id"])
    return Actor(
        kind=ActorKind.API_TOKEN,
        display=f"{found['email']} (token {found['name']})",
        id=found["owner_id"],
        token_id=found["id"],
        capabilities=frozenset(found["owned"]).intersection(found["capabilities"]),
    )


async def revoke(session: AsyncSession, prefix: str, *, by: Actor) -> ApiToken:
    """End a token at once.

    Raises:
        MissingCapability: 403.
        NotFound: no token has this prefix.
    """
    by.require(Capability.USERS_MANAGE)
    token = await session.scalar(select(ApiToken).where(ApiToken.prefix == prefix).with_for_update())
    if token is None:
        raise NotFound(f"No token has the prefix {prefix!r}; see `opsplane tokens list`.")
    if token.revoked_at is None:
        token.revoked_at = await session.scalar(select(func.now()))
    return token


async def capabilities_of(session: AsyncSession, user_id: uuid.UUID) -> frozenset[str]:
    """What a platform user may do now."""
    rows = await session.scalars(
        select(PlatformUserCapability.capability).where(PlatformUserCapability.user_id == user_id)
    )
    return frozenset(rows)


async def _touch(db: Database, token_id: uuid.UUID) -> None:
    """Note the use, for all who use the token at this moment: they would only wait for each other at its row."""
    if token_id in _touching:
        return
    _touching.add(token_id)
    try:
        async with db.bare() as tx:
            await directly(tx, TOUCH, used=token_id)
    finally:
        _touching.discard(token_id)


def _parse(token: str) -> tuple[str, str]:
    body, checksum = token[:-_CHECKSUM_LENGTH], token[-_CHECKSUM_LENGTH:]
    parts = body.split("_", 3)
    well_formed = len(parts) == 4 and parts[:2] == ["ops", PLANE] and len(parts[3]) == _SECRET_LENGTH
    if not well_formed or not token.isascii() or not hmac.compare_digest(checksum_of(body), checksum):
        raise InvalidToken
    return parts[2], parts[3]


def checksum_of(body: str) -> str:
    """The last eight characters of a token: a typo is found without a query."""
    return f"{zlib.crc32(body.encode()):08x}"


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
