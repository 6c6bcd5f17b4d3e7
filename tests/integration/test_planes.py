"""Two planes that cannot leak into each other: who sees what, on every route and on none (SR-001, SR-002, SR-004)."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import text

from opsplane.api import admin, system
from opsplane.api.rights import AtABrowser, Demand, Public, Right, RightAtABrowser, SignedIn
from opsplane.auth.capabilities import Capability
from opsplane.auth.roles import Role
from opsplane.pages import admin as admin_pages
from opsplane.pages import system as system_pages
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import web
from tests.web import HTML, Client, Doors

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
BODIES: tuple[dict[str, Any], ...] = (
    {},
    {"content": b"{", "headers": {"Content-Type": "application/json"}},
    {"content": b"x" * 300_000, "headers": {"Content-Type": "text/plain"}},
    {"json": {"scope": {"kind": "all_tenants"}}},
)
HTML_TYPE = "text/html; charset=utf-8"
SOMEBODYS = "01900000-0000-7000-8000-000000000000"


@dataclass(frozen=True)
class Endpoint:
    """One method of one route, and what it demands."""

    plane: str
    method: str
    path: str
    demands: tuple[Demand, ...]

    def __str__(self) -> str:
        return f"{self.method} /{self.plane}{self.path}"

    @property
    def url(self) -> str:
        filled = self.path.replace("{key}", "findings.lifecycle.backfill")
        return f"/{self.plane}" + "".join(SOMEBODYS if "{" in part else part for part in _parts(filled))


def _parts(path: str) -> Iterator[str]:
    for part in path.split("/")[1:]:
        yield "/"
        yield part


def endpoints(plane: str, app: FastAPI) -> Iterator[Endpoint]:
    for route in iter_route_contexts(app.routes):
        demands = tuple(one.call for one in route.dependant.dependencies if isinstance(one.call, Demand))
        for method in sorted(route.methods or ()):
            assert route.path is not None
            yield Endpoint(plane, method, route.path, demands)


SYSTEM = list(endpoints("system", system.build()))
ADMIN = list(endpoints("admin", admin.build()))
PAGES = [*endpoints("system", system_pages.build()), *endpoints("admin", admin_pages.build())]
CLOSED = {
    "system": [one for one in SYSTEM if one.path != "/login"],
    "admin": [one for one in ADMIN if one.path != "/login"],
}


@pytest.mark.parametrize("endpoint", SYSTEM + ADMIN + PAGES, ids=str)
def test_every_route_declares_one_right(endpoint: Endpoint) -> None:
    assert len(endpoint.demands) == 1
    assert isinstance(endpoint.demands[0], Public) == (endpoint.path == "/login")


def seen(answer: httpx.Response) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    return answer.status_code, sorted(answer.headers.raw), answer.content


async def random_missing(client: Client, plane: str, method: str, **given: Any) -> httpx.Response:
    tail = "/".join(secrets.token_hex(3) for _ in range(1 + secrets.randbelow(4)))
    return await client.request(method, f"/{plane}/{tail}", **given)


@pytest.fixture
async def foreign(doors: Doors, plane: Plane, tenants: list[Tenant]) -> dict[str, Client]:
    """For each plane somebody who is signed in to the other one, and may do everything there."""
    owner = await web.tenant_user(plane, Role.OWNER, None)
    operator = await web.platform_user(plane, *registry.capabilities())
    return {
        "system": await doors.signed_in(owner.email, plane="admin"),
        "admin": await doors.signed_in(operator.email),
    }


@pytest.mark.parametrize("plane_name", ["system", "admin"])
@pytest.mark.parametrize("accept", [{}, HTML], ids=["any", "html"])
async def test_the_wrong_plane_is_a_missing_path_to_the_byte(
    foreign: dict[str, Client], plane_name: str, accept: dict[str, str]
) -> None:
    client = foreign[plane_name]
    for method in METHODS:
        missing = {str(seen(await random_missing(client, plane_name, method, headers=accept))) for _ in range(50)}
        assert len(missing) == 1, f"{method}: missing paths differ from each other"
        for url in _urls(plane_name):
            for given in BODIES:
                headers = accept | given.get("headers", {})
                answer = await client.request(method, url, **(given | {"headers": headers}))
                assert str(seen(answer)) in missing, f"{method} {url} {given.get('content', b'')[:9]!r}"
                assert answer.status_code == 404


@pytest.mark.parametrize("plane_name", ["system", "admin"])
async def test_without_a_credential_every_path_is_missing(doors: Doors, tenants: list[Tenant], plane_name: str) -> None:
    client = doors.client()
    for method in METHODS:
        missing = {str(seen(await random_missing(client, plane_name, method))) for _ in range(50)}
        assert len(missing) == 1
        for url in _urls(plane_name):
            for given in BODIES:
                answer = await client.request(method, url, **given)
                assert str(seen(answer)) in missing, f"{method} {url}"
                assert answer.status_code == 404


@pytest.mark.parametrize("plane_name", ["system", "admin"])
async def test_a_browser_without_a_session_is_sent_to_the_login_from_any_path(doors: Doors, plane_name: str) -> None:
    client = doors.client()
    answers = [await client.get(url, headers=HTML) for url in _urls(plane_name)]
    answers += [await random_missing(client, plane_name, "GET", headers=HTML) for _ in range(50)]
    for answer in answers:
        assert answer.status_code == 303
        wanted = httpx.QueryParams(answer.next_request.url.query)["next"]  # type: ignore[union-attr]
        assert wanted == answer.request.url.path, "the path as it was asked for, decoded once"
        assert answer.headers["location"].startswith(f"/{plane_name}/login?next=")
    assert len({str([pair for pair in seen(a)[1] if pair[0].lower() != b"location"]) for a in answers}) == 1


async def test_a_bad_token_is_401_on_every_path(doors: Doors, tenants: list[Tenant]) -> None:
    client = doors.client(Authorization="Bearer ops_system_00000000_nonsense")
    answers = {str(seen(await client.request("POST", url))) for url in _urls("system")}
    answers |= {str(seen(await random_missing(client, "system", "POST"))) for _ in range(20)}
    assert len(answers) == 1
    assert "invalid_token" in answers.pop()


@pytest.mark.parametrize("plane_name", ["system", "admin"])
async def test_the_login_page_answers_everybody(doors: Doors, foreign: dict[str, Client], plane_name: str) -> None:
    for client in (doors.client(), foreign[plane_name]):
        page = await client.get(f"/{plane_name}/login", headers=HTML)
        assert page.status_code == 200
        assert f'data-plane="{plane_name}"' in page.text
        assert (await client.get(f"/{plane_name}/login")).status_code == 404, "a script has nothing to read there"
        assert (await client.put(f"/{plane_name}/login")).status_code == 404


async def test_a_plane_does_not_know_the_cookie_of_the_other(
    doors: Doors, foreign: dict[str, Client], tenants: list[Tenant]
) -> None:
    for plane_name, other in (("system", "admin"), ("admin", "system")):
        crossed = doors.client()
        crossed.cookies.set(f"opsplane_{plane_name}", foreign[plane_name].cookies[f"opsplane_{other}"])
        assert (await crossed.get(f"/{plane_name}/me")).status_code == 404


async def test_with_both_sessions_each_plane_sees_its_own(doors: Doors, plane: Plane, tenants: list[Tenant]) -> None:
    operator = await web.platform_user(plane, Capability.SYSTEM_ACCESS)
    owner = await web.tenant_user(plane, Role.OWNER, tenants[0])
    client = await doors.signed_in(operator.email)
    given = {"username": owner.email, "password": web.PASSWORD}
    assert (await client.post("/admin/login", json=given)).status_code == 204
    assert (await client.get("/system/me")).json()["display"] == operator.email
    assert (await client.get("/admin/me")).json()["email"] == owner.email


@dataclass(frozen=True)
class Caller:
    """Somebody who asks, and what they may expect of a route of the system plane."""

    client: Client
    capable: bool
    token: bool = False


@pytest.fixture
async def callers(doors: Doors, plane: Plane, foreign: dict[str, Client]) -> dict[str, Caller]:
    able = await web.platform_user(plane, *registry.capabilities())
    unable = await web.platform_user(plane, Capability.SYSTEM_ACCESS)
    expired = await web.token(plane, able, *registry.capabilities())
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE api_tokens SET expires_at = now() - interval '1 second'"))
    bearer = {"Authorization": f"Bearer {await web.token(plane, able, *registry.capabilities())}"}
    return {
        "anonymous": Caller(doors.client(), capable=False),
        "tenant user": Caller(foreign["system"], capable=False),
        "without the capability": Caller(await doors.signed_in(unable.email), capable=False),
        "with it": Caller(await doors.signed_in(able.email), capable=True),
        "token": Caller(doors.client(**bearer), capable=True, token=True),
        "expired token": Caller(doors.client(Authorization=f"Bearer {expired}"), capable=False),
    }


async def test_who_may_do_what_in_the_system_plane(callers: dict[str, Caller]) -> None:
    judged = 0
    for endpoint in sorted(CLOSED["system"], key=lambda one: one.path == "/logout"):
        for name, caller in callers.items():
            answer = await caller.client.request(
                endpoint.method, endpoint.url, json={} if endpoint.method == "POST" else None
            )
            got = answer.status_code
            said = answer.json().get("code") if "problem" in answer.headers.get("content-type", "") else None
            judged += 1
            match name:
                case "anonymous" | "tenant user":
                    assert (got, said) == (404, "not_found"), f"{endpoint} as {name}"
                case "expired token":
                    assert (got, said) == (401, "invalid_token"), f"{endpoint} as {name}"
                case _:
                    assert (got, said) != (404, "not_found") or "{" in endpoint.path, f"{endpoint} as {name}: {got}"
                    assert _may(endpoint.demands[0], caller) == (got != 403), f"{endpoint} as {name}: {got} {said}"
    assert judged == 6 * len(CLOSED["system"])


async def test_a_page_is_refused_to_whom_its_json_is_refused(callers: dict[str, Caller]) -> None:
    pages = [page for page in PAGES if page.plane == "system" and page.path != "/login"]
    for page in pages:
        for name, status in {"anonymous": 303, "tenant user": 404, "without the capability": 403}.items():
            answer = await callers[name].client.get(page.url, headers=HTML)
            assert answer.status_code == status, f"{page} as {name}"
        shown = await callers["with it"].client.get(page.url, headers=HTML)
        assert (shown.status_code, shown.headers["content-type"]) == (404 if "{" in page.path else 200, HTML_TYPE), page
        read = await callers["with it"].client.get(page.url)
        assert "json" in read.headers["content-type"], page
    assert len(pages) == 5


async def test_who_may_do_what_in_the_admin_plane(
    doors: Doors, callers: dict[str, Caller], foreign: dict[str, Client], plane: Plane, tenants: list[Tenant]
) -> None:
    stranger = await web.tenant_user(plane, Role.OWNER, tenants[0])
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("DELETE FROM memberships WHERE user_id = :id"), {"id": stranger.id})
    member_of_nothing = await doors.signed_in(stranger.email, plane="admin")
    outsiders = {name: caller.client for name, caller in callers.items() if name != "tenant user"}
    for endpoint in sorted(CLOSED["admin"], key=lambda one: one.path == "/logout"):
        for name, client in outsiders.items():
            answer = await client.request(endpoint.method, endpoint.url)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), f"{endpoint} as {name}"
        inside = await foreign["system"].request(endpoint.method, endpoint.url)
        assert inside.status_code in ({404} if "{" in endpoint.path else {200, 204}), f"{endpoint} as an owner"
        nothing = await member_of_nothing.request(endpoint.method, endpoint.url)
        own = endpoint.path in {"/me", "/logout"}
        assert (nothing.status_code in {200, 204}) == own, f"{endpoint} as a member of nothing"


async def test_a_method_that_no_route_has_is_a_missing_path_for_insiders_too(
    callers: dict[str, Caller], foreign: dict[str, Client]
) -> None:
    for plane_name, client in (("system", callers["with it"].client), ("admin", foreign["system"])):
        for url in {one.url for one in CLOSED[plane_name]}:
            have = {one.method for one in CLOSED[plane_name] if one.url == url}
            for method in set(METHODS) - have:
                answer = await client.request(method, url)
                missing = await random_missing(client, plane_name, method)
                assert seen(answer) == seen(missing), f"{method} {url}"


def _may(demand: Demand, caller: Caller) -> bool:
    for_people = isinstance(demand, AtABrowser | RightAtABrowser)
    if for_people and caller.token:
        return False
    if isinstance(demand, RightAtABrowser) and demand.capability == Capability.SYSTEM_ACCESS:
        return True  # which every caller of the system plane has
    if isinstance(demand, Right):
        return caller.capable
    return isinstance(demand, SignedIn | AtABrowser)


def _urls(plane_name: str) -> list[str]:
    real = sorted({one.url for one in CLOSED[plane_name]})
    odd = [f"/{plane_name}/a%0Ab", f"/{plane_name}/%00", f"/{plane_name}/..%2Fhealthz", f"/{plane_name}/%E2%82%AC"]
    return [f"/{plane_name}", f"/{plane_name}/", *odd, *real, *(f"{url}/" for url in real), f"/{plane_name}/login/"]
