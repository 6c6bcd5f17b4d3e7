"""What routes of the admin plane ask for: the member with a right, and where a page of a list begins."""

import uuid
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.params import Depends as Dependency

from opsplane.api import deps
from opsplane.auth.members import Member
from opsplane.auth.roles import TenantCapability


class TenantRight:
    """A dependency that names a right: the member of the request, who must have the capability in some tenant.

    In which one is asked where the tenant is known: by the query of a list, by the one row that is shown.
    """

    def __init__(self, capability: TenantCapability) -> None:
        self.capability = capability

    def __call__(self, request: Request) -> Member:
        """Refuse with 404 somebody who is a member of nothing, with 403 one who lacks the capability everywhere."""
        member: Member = request.state.member
        member.require_anywhere(self.capability)
        return member


def right(capability: TenantCapability) -> Dependency:
    """What a route names: the member of the request must have this capability."""
    dependency: Any = Depends(TenantRight(capability))
    assert isinstance(dependency, Dependency)
    return dependency


CanViewFindings = Annotated[Member, right(TenantCapability.FINDINGS_VIEW)]
CanViewOperations = Annotated[Member, right(TenantCapability.OPERATIONS_VIEW)]


def id_before(cursor: str | None) -> uuid.UUID | None:
    """The id before which a page goes on.

    Raises:
        InvalidInput: this is no cursor of ours.
    """
    position = deps.decode_cursor(cursor)
    try:
        return uuid.UUID(position) if position is not None else None
    except ValueError:
        raise deps.bad_cursor() from None
