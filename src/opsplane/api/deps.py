"""What routes ask for: the plane's resources, the operator with a right, a page of a list."""

import base64
import binascii
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.params import Depends as Dependency

from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.errors import InvalidInput
from opsplane.runbooks.service import Plane


def the_plane(request: Request) -> Plane:
    """Hand over what the lifespan opened for every request of this process."""
    found: Plane = request.state.plane
    return found


class Right:
    """A dependency that names a right: the operator of the request, who must have the capability."""

    def __init__(self, capability: Capability) -> None:
        self.capability = capability

    def __call__(self, request: Request) -> Actor:
        """Refuse with 403 unless the operator has it now."""
        operator: Actor = request.state.operator
        operator.require(Capability.SYSTEM_ACCESS, self.capability)
        return operator


def right(capability: Capability) -> Dependency:
    """What a route names: the operator of the request must have this capability."""
    dependency: Any = Depends(Right(capability))
    assert isinstance(dependency, Dependency)
    return dependency


ThePlane = Annotated[Plane, Depends(the_plane)]
CanViewRunbooks = Annotated[Actor, right(Capability.RUNBOOKS_VIEW)]
# The service asks for platform.runbooks.run itself, so that a refused start is on record.
CanStartRunbooks = Annotated[Actor, right(Capability.SYSTEM_ACCESS)]
CanViewRuns = Annotated[Actor, right(Capability.OPS_VIEW)]

Limit = Annotated[int, Query(ge=1, le=200, description="Rows in this page.")]
Cursor = Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before.")]


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


def bad_cursor() -> InvalidInput:
    """The refusal of a cursor that leads nowhere."""
    return InvalidInput("This cursor is not one of this list; start from its first page.")
