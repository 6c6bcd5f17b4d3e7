"""Each route asks for exactly the capability it declares; what is outside of the planes asks too (S3)."""

import itertools

import pytest

from opsplane.api.rights import Right
from opsplane.auth.capabilities import Capability
from opsplane.auth.roles import Role
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import web
from tests.integration.test_planes import CLOSED, Caller, Endpoint, callers, foreign, random_missing, seen
from tests.support import BACKFILL
from tests.web import Client, Doors

__all__ = ["callers", "foreign"]

ASK_LATER = ("/start", "/retry-failed")  # the service asks, so that a refusal is on record
ALL_TENANTS = {"scope": {"kind": "all_tenants"}}


async def asked(client: Client, endpoint: Endpoint) -> tuple[int, str | None]:
    """The status, and the capability that a refusal says is missing."""
    body: dict[str, str] | None = {} if endpoint.method in {"POST", "PATCH"} else None
    answer = await client.request(endpoint.method, endpoint.url, json=body)
    problem = answer.json() if "problem" in answer.headers.get("content-type", "") else {}
    return answer.status_code, problem.get("capability")


def declared() -> dict[Capability, list[Endpoint]]:
    found: dict[Capability, list[Endpoint]] = {}
    for one in CLOSED["system"]:
        if isinstance(one.demands[0], Right):
            found.setdefault(one.demands[0].capability, []).append(one)
    return found


async def test_who_has_every_capability_but_the_declared_one_is_refused_and_told_which(
    doors: Doors, plane: Plane
) -> None:
    everything = frozenset(registry.capabilities())
    for capability, endpoints in declared().items():
        user = await web.platform_user(plane, *everything - {str(capability)})
        client = await doors.signed_in(user.email)
        for endpoint in endpoints:
            assert await asked(client, endpoint) == (403, capability), endpoint


async def test_without_entry_to_the_plane_no_other_capability_counts(doors: Doors, plane: Plane) -> None:
    user = await web.platform_user(plane, *registry.capabilities() - {str(Capability.SYSTEM_ACCESS)})
    client = await doors.signed_in(user.email)
    for endpoint in itertools.chain.from_iterable(declared().values()):
        assert await asked(client, endpoint) == (403, Capability.SYSTEM_ACCESS), endpoint


async def test_the_declared_capability_and_entry_to_the_plane_are_enough(doors: Doors, plane: Plane) -> None:
    for capability, endpoints in declared().items():
        user = await web.platform_user(plane, Capability.SYSTEM_ACCESS, str(capability))
        client = await doors.signed_in(user.email)
        for endpoint in endpoints:
            status, named = await asked(client, endpoint)
            assert status != 403 or endpoint.path.endswith(ASK_LATER), f"{endpoint}: {named} is missing too"


@pytest.mark.parametrize("missing", [Capability.RUNBOOKS_RUN, Capability.RUNBOOKS_FINDINGS_LIFECYCLE_BACKFILL])
async def test_a_start_needs_the_right_to_run_and_that_of_its_runbook(
    doors: Doors, plane: Plane, tenants: list[Tenant], missing: Capability
) -> None:
    user = await web.platform_user(plane, *registry.capabilities() - {str(missing)})
    client = await doors.signed_in(user.email)
    answer = await client.post(f"/system/ops/runbooks/{BACKFILL}/start", json=ALL_TENANTS)
    assert (answer.status_code, answer.json()["capability"]) == (403, missing)


async def test_who_may_read_the_metrics_from_another_machine(
    callers: dict[str, Caller], doors: Doors, plane: Plane
) -> None:
    user = await web.platform_user(plane, Capability.SYSTEM_ACCESS)
    secret = await web.token(plane, user, Capability.SYSTEM_ACCESS)
    clients = {name: caller.client for name, caller in callers.items()}
    clients["token without the capability"] = doors.client(Authorization=f"Bearer {secret}")
    found = {name: (await client.get("/metrics")).status_code for name, client in clients.items()}
    assert found == {
        "anonymous": 404,
        "tenant user": 404,
        "without the capability": 404,
        "with it": 404,  # numbers are for machines: no browser's cookie opens them
        "token": 200,
        "expired token": 401,
        "token without the capability": 403,
    }


async def test_a_trailing_slash_is_a_missing_path_for_insiders_too(doors: Doors, plane: Plane) -> None:
    operator = await web.platform_user(plane, *registry.capabilities())
    member = await web.tenant_user(plane, Role.OWNER, None)
    inside = {
        "system": await doors.signed_in(operator.email),
        "admin": await doors.signed_in(member.email, plane="admin"),
    }
    for name, client in inside.items():
        for endpoint in CLOSED[name]:
            answer = await client.request(endpoint.method, f"{endpoint.url}/")
            missing = await random_missing(client, name, endpoint.method)
            assert seen(answer) == seen(missing), endpoint
            assert answer.status_code == 404
