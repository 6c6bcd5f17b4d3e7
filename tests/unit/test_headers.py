"""Every response carries the same policy, and none invites another origin."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse

from opsplane import app
from opsplane.api import problems
from opsplane.api.headers import HEADERS, SecurityHeaders
from opsplane.api.limits import BodyLimit
from opsplane.config import Settings
from opsplane.pages import assets

NOWHERE = Settings(database_url="postgresql://127.0.0.1:1/none", redis_url="redis://127.0.0.1:1", home=Path("/none"))
PATHS = [
    "/healthz",
    "/nothing",
    "/system",
    "/system/ops/runs",
    assets.url("app.css"),
    assets.url("icons.svg"),
    "/static/nothing",
]


def broken() -> None:
    raise RuntimeError("boom")


def talkative() -> PlainTextResponse:
    """Says the opposite of what the policy says, twice, and who serves it."""
    answer = PlainTextResponse("x", headers={"Cache-Control": "max-age=60", "Server": "x/1.2"})
    answer.raw_headers += [(name.title().encode(), b"anything") for name in HEADERS] * 2
    return answer


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with speaking_to(app.build(NOWHERE)) as client:
        yield client


def speaking_to(inner: Any, *, https: bool = True) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(SecurityHeaders(inner, https=https), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://ops.test")


def talking() -> FastAPI:
    inner = FastAPI()
    problems.install(inner)
    inner.add_api_route("/talkative", talkative)
    inner.add_api_route("/boom", broken)
    return inner


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", PATHS)
async def test_every_response_has_each_header_once(client: httpx.AsyncClient, path: str, method: str) -> None:
    answer = await client.request(method, path)
    for name, value in HEADERS.items():
        assert answer.headers.get_list(name) == [value], name
    assert answer.headers.get_list("strict-transport-security") == ["max-age=31536000"]
    kept = path.startswith("/static/") and answer.is_success
    assert answer.headers.get_list("cache-control") == ["public, max-age=31536000, immutable" if kept else "no-store"]


async def test_a_file_under_the_address_of_another_release_is_kept_briefly(client: httpx.AsyncClient) -> None:
    answer = await client.get("/static/0123456789ab/app.css")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, max-age=60")


async def test_a_defect_and_a_body_too_large_have_them_too() -> None:
    async with speaking_to(BodyLimit(talking(), 1024)) as client:
        answers = [await client.get("/boom"), await client.post("/", content=b"x" * 1025)]
    assert [answer.status_code for answer in answers] == [500, 413]
    for answer in answers:
        assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_route_can_neither_weaken_nor_double_them_but_may_be_cached() -> None:
    async with speaking_to(talking()) as client:
        answer = await client.get("/talkative")
    assert {name: answer.headers.get_list(name) for name in HEADERS} == {k: [v] for k, v in HEADERS.items()}
    assert answer.headers.get_list("cache-control") == ["max-age=60"]
    assert "server" not in answer.headers


async def test_https_is_demanded_only_where_it_is_spoken() -> None:
    async with speaking_to(talking(), https=False) as client:
        assert "strict-transport-security" not in (await client.get("/talkative")).headers


async def test_the_policy_names_no_source_but_our_own(client: httpx.AsyncClient) -> None:
    policy = (await client.get("/healthz")).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    for word in ("unsafe-", "*", "http", "data:", "blob:", "nonce"):
        assert word not in policy
    for rule in ("frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'"):
        assert rule in policy.split("; ")


PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


@pytest.mark.parametrize("origin", ["https://evil.test", "http://ops.test", "null"])
@pytest.mark.parametrize("path", PATHS)
async def test_no_other_origin_is_invited(client: httpx.AsyncClient, path: str, origin: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        answer = await client.request(method, path, headers=PREFLIGHT | {"Origin": origin})
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert method != "OPTIONS" or not answer.is_success
