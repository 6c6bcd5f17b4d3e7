"""What surrounds every page: who is signed in, where they may go, how they like it, and whether it is an emergency."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Self

import structlog
from fastapi import Depends, Request
from fastapi.responses import HTMLResponse

from opsplane.access.operators import Operator
from opsplane.api import notifications
from opsplane.api.break_glass import BreakGlassOut, present
from opsplane.api.notifications import NotificationPage
from opsplane.api.queries import Listed
from opsplane.auth.capabilities import Capability
from opsplane.auth.members import Member
from opsplane.config import Settings
from opsplane.pages import assets, rendering
from opsplane.runbooks.service import Plane

log = structlog.get_logger()

IN_THE_BELL = 20


@dataclass(frozen=True)
class Place:
    """An entry of the navigation; `key` is what follows `g` on the keyboard."""

    path: str
    label: str
    icon: str
    key: str
    needs: str | None = None


SYSTEM = (
    Place("/system/ops/runbooks", "Runbooks", "book-open", "b", Capability.RUNBOOKS_VIEW),
    Place("/system/ops/runs", "Runs", "queue-list", "r", Capability.OPS_VIEW),
    Place("/system/audit", "Audit", "shield-check", "a", Capability.AUDIT_VIEW),
    Place("/system/alerts", "Alerts", "bell-alert", "l", Capability.ALERTS_MANAGE),
)
ADMIN = (
    Place("/admin/findings", "Findings", "bug-ant", "f"),
    Place("/admin/operations", "Operations", "queue-list", "o"),
)


@dataclass(frozen=True)
class Liking:
    """How this browser wants its pages; kept in cookies, so that the first paint is right already."""

    theme: str
    zone: str

    @classmethod
    def of(cls, cookies: Mapping[str, str]) -> Self:
        """What the cookies say, if it is something we know."""
        theme, zone = cookies.get("opsplane_theme", ""), cookies.get("opsplane_zone", "")
        return cls(theme if theme in {"light", "dark"} else "", zone if zone == "utc" else "local")


@dataclass(frozen=True)
class Shell:
    """The frame of a page of one plane, for one person, at one request."""

    plane: str
    path: str
    liking: Liking
    who: str
    places: tuple[Place, ...]
    idle_s: int
    ends_in_s: int
    held: frozenset[str] | None = frozenset()
    emergency: BreakGlassOut | None = None
    bell: NotificationPage | None = None

    def may(self, *capabilities: str) -> bool:
        """Whether the person has all of these, so that pages offer nothing that would be refused."""
        return self.held is None or self.held.issuperset(capabilities)

    @property
    def emergency_ends_in_s(self) -> int:
        """Seconds that the emergency has left; browsers count them down, for their clocks may be wrong."""
        return _left_s(self.emergency.ends_at) if self.emergency else 0

    @property
    def may_break_glass(self) -> bool:
        """Whether to offer the way into an emergency."""
        return self.may(Capability.BREAK_GLASS)

    def page(self, template: str, status: int = HTTPStatus.OK, *, live: bool = False, **context: Any) -> HTMLResponse:
        """A page within this frame; all but live ones have the browser fetch what is about to be clicked."""
        shown = rendering.page(template, status, shell=self, **context)
        if not live:
            shown.headers["Speculation-Rules"] = f'"{assets.url(assets.speculation(self.plane))}"'
        return shown


async def system_shell(request: Request) -> Shell:
    """The frame for an operator; an API token that asks for pages gets one too."""
    operator: Operator = request.state.operator
    settings: Settings = request.state.plane.settings
    held = operator.actor.capabilities
    return Shell(
        plane="system",
        path=request.scope["path"],
        liking=Liking.of(request.cookies),
        who=operator.actor.display,
        places=tuple(place for place in SYSTEM if held is None or place.needs in held),
        idle_s=settings.system_idle_s,
        ends_in_s=_left_s(operator.session.expires_at) if operator.session else settings.system_session_s,
        held=held,
        emergency=present(operator.emergency) if operator.emergency else None,
        bell=await _bell(operator, request.state.plane),
    )


async def admin_shell(request: Request) -> Shell:
    """The frame for a tenant user."""
    member: Member = request.state.member
    return Shell(
        plane="admin",
        path=request.scope["path"],
        liking=Liking.of(request.cookies),
        who=member.email,
        places=ADMIN,
        idle_s=request.state.plane.settings.admin_idle_s,
        ends_in_s=_left_s(request.state.session.expires_at),
    )


async def _bell(operator: Operator, plane: Plane) -> NotificationPage | None:
    """What the operator was told last; no page fails because that cannot be read."""
    if operator.session is None or operator.must_enrol:
        return None
    try:
        return await notifications.list_notifications(operator.person(), plane, Listed(limit=IN_THE_BELL))
    except Exception:
        log.exception("bell_not_read")
        return None


def _left_s(ends_at: datetime) -> int:
    return max(0, int((ends_at - datetime.now(UTC)).total_seconds()))


SystemShell = Annotated[Shell, Depends(system_shell)]
AdminShell = Annotated[Shell, Depends(admin_shell)]
