"""What a route demands of whoever asks; every route of a plane declares exactly one of these."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.params import Depends as Dependency

from opsplane.access.operators import Operator, Person, SecondFactorRequired
from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.auth.members import Member
from opsplane.auth.models import AdminSession
from opsplane.auth.roles import TenantCapability


class Demand:
    """A dependency by which a route says who may call it; a test walks the routes and finds one on each.

    All of them are coroutines, though they await nothing: FastAPI takes a plain function to another thread.
    """

    __call__: Callable[..., Any]


class Public(Demand):
    """Anybody, as the gate lets the request through."""

    async def __call__(self) -> None:
        """Ask nothing."""


class SignedIn(Demand):
    """Any operator, by session or token, also one who must still enrol an authenticator."""

    async def __call__(self, request: Request) -> Operator:
        """Hand over who it is."""
        operator: Operator = request.state.operator
        return operator


class AtABrowser(Demand):
    """An operator with a session; a token is refused (403)."""

    async def __call__(self, request: Request) -> Person:
        """Hand over the person and their session."""
        operator: Operator = request.state.operator
        return operator.person()


class Right(Demand):
    """An operator who has a capability now, else 403."""

    def __init__(self, capability: Capability) -> None:
        self.capability = capability

    async def __call__(self, request: Request) -> Actor:
        """Hand over the actor."""
        return self.operator(request).actor

    def operator(self, request: Request) -> Operator:
        """The operator who has the right."""
        operator: Operator = request.state.operator
        if operator.must_enrol:
            raise SecondFactorRequired
        operator.actor.require(Capability.SYSTEM_ACCESS, self.capability)
        return operator


class RightAtABrowser(Right):
    """An operator with a session who has a capability now, else 403."""

    async def __call__(self, request: Request) -> Person:  # type: ignore[override]  # a door for people, not for tokens
        """Hand over the person and their session."""
        return self.operator(request).person()


@dataclass(frozen=True)
class TenantPerson:
    """A tenant user with their session."""

    member: Member
    session: AdminSession


class TenantUserSignedIn(Demand):
    """Any tenant user."""

    async def __call__(self, request: Request) -> TenantPerson:
        """Hand over the member and their session."""
        return TenantPerson(request.state.member, request.state.session)


class TenantRight(Demand):
    """A tenant user who has a capability in some tenant, else 404 (member of nothing) or 403.

    In which tenant is asked where it is known: by the query of a list, by the one row that is shown.
    """

    def __init__(self, capability: TenantCapability) -> None:
        self.capability = capability

    async def __call__(self, request: Request) -> Member:
        """Hand over the member."""
        member: Member = request.state.member
        member.require_anywhere(self.capability)
        return member


def right(demand: Demand) -> Dependency:
    """What a route names in its signature."""
    dependency: Any = Depends(demand)
    assert isinstance(dependency, Dependency)
    return dependency


VIEW_RUNS = Right(Capability.OPS_VIEW)
Anybody = right(Public())
AnOperator = Annotated[Operator, right(SignedIn())]
APerson = Annotated[Person, right(AtABrowser())]
ATenantUser = Annotated[TenantPerson, right(TenantUserSignedIn())]
CanViewRunbooks = Annotated[Actor, right(Right(Capability.RUNBOOKS_VIEW))]
CanControlRuns = Annotated[Actor, right(Right(Capability.RUNBOOKS_RUN))]
# The service asks for platform.runbooks.run itself, so that a refused start is on record.
CanStartRunbooks = Annotated[Actor, right(Right(Capability.SYSTEM_ACCESS))]
CanViewRuns = Annotated[Actor, right(VIEW_RUNS)]
CanManageAlerts = Annotated[Actor, right(Right(Capability.ALERTS_MANAGE))]
CanViewAudit = Annotated[Actor, right(Right(Capability.AUDIT_VIEW))]
AnEnrolledPerson = Annotated[Person, right(RightAtABrowser(Capability.SYSTEM_ACCESS))]
CanBreakGlass = Annotated[Person, right(RightAtABrowser(Capability.BREAK_GLASS))]
CanViewFindings = Annotated[Member, right(TenantRight(TenantCapability.FINDINGS_VIEW))]
CanViewOperations = Annotated[Member, right(TenantRight(TenantCapability.OPERATIONS_VIEW))]
