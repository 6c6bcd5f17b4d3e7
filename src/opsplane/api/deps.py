"""What routes are given: the plane's resources, the doorman, a page of a list."""

import base64
import binascii
import uuid
from typing import Annotated

from fastapi import Depends, Request

from opsplane.access.sign_in import SignIn
from opsplane.auth.actors import Actor, ActorKind
from opsplane.auth.sessions import Client
from opsplane.errors import InvalidInput
from opsplane.runbooks.service import Plane, Source


async def the_plane(request: Request) -> Plane:
    """Hand over what the lifespan opened for every request of this process."""
    found: Plane = request.state.plane
    return found


async def the_doorman(request: Request) -> SignIn:
    """Hand over what judges passwords, opened once for the process."""
    found: SignIn = request.state.sign_in
    return found


async def the_client(request: Request) -> Client:
    """Where the request comes from, behind trusted proxies."""
    address = request.client.host if request.client else "unknown"
    return Client(address, request.headers.get("user-agent", ""))


ThePlane = Annotated[Plane, Depends(the_plane)]
TheDoorman = Annotated[SignIn, Depends(the_doorman)]
TheClient = Annotated[Client, Depends(the_client)]


def encode_cursor(position: object) -> str:
    """An opaque cursor for a position in a list."""
    return base64.urlsafe_b64encode(str(position).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> str | None:
    """The position behind a cursor.

    Raises:
        InvalidInput: this is no cursor of ours.
    """
    if cursor is None:
        return None
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise bad_cursor() from None


def id_before(cursor: str | None) -> uuid.UUID | None:
    """The id before which a page goes on.

    Raises:
        InvalidInput: this is no cursor of ours.
    """
    position = decode_cursor(cursor)
    try:
        return uuid.UUID(position) if position is not None else None
    except ValueError:
        raise bad_cursor() from None


def bad_cursor() -> InvalidInput:
    """The refusal of a cursor that leads nowhere."""
    return InvalidInput("This cursor is not one of this list; start from its first page.")


def source_of(who: Actor) -> Source:
    """The door that a request of this actor comes through: pages for people, the API for tokens."""
    return Source.SYSTEM_UI if who.kind is ActorKind.PLATFORM_USER else Source.API
