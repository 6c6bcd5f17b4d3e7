"""Numbers for Prometheus: to whoever is on this machine, and to API tokens that may view operations."""

from ipaddress import ip_address

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from opsplane.access import operators
from opsplane.api import problems
from opsplane.api.gate import bearer
from opsplane.auth.capabilities import Capability
from opsplane.runbooks.service import Plane

FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


async def metrics(request: Request) -> Response:
    """What this process has counted; to everybody else the path is missing."""
    if not _is_local(request):
        token = bearer(request)
        if token is None:
            return problems.not_found()
        await _require(request.state.plane, token)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _require(plane: Plane, token: str) -> None:
    async with plane.db.transaction() as tx:
        operator = await operators.by_token(tx.session, token)
    operator.actor.require(Capability.SYSTEM_ACCESS, Capability.OPS_VIEW)


def _is_local(request: Request) -> bool:
    """On this machine, and not passed on by a proxy on this machine, whose own address it then has."""
    if request.client is None or any(name in request.headers for name in FORWARDED):
        return False
    try:
        return ip_address(request.client.host).is_loopback
    except ValueError:
        return False
