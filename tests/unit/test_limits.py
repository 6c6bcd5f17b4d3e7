"""A body too large and a caller too quick are refused, whatever the application does; others notice nothing."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Request
from starlette.responses import PlainTextResponse

from opsplane.api import problems
from opsplane.api.limits import AtMost, BodyLimit, RateLimit
from opsplane.api.refusals import TooManyRequests

MAX = 1000


def size(body: Annotated[Any, Body()]) -> int:
    return len(body)


async def swallow(request: Request) -> PlainTextResponse:
    """Reads, and hides that reading failed."""
    try:
        await request.body()
    except Exception:  # noqa: BLE001 - the point of it
        return PlainTextResponse("all is well")
    return PlainTextResponse("read")


def an_app() -> FastAPI:
    app = FastAPI()
    problems.install(app)
    router = APIRouter()
    router.add_api_route("/size", size, methods=["POST"])
    router.add_route("/swallow", swallow, methods=["POST"])
    router.add_api_route("/ping", lambda: "pong")
    app.include_router(router)
    return app


def client_of(app: Any, address: str = "192.0.2.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://ops.test")


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 100):
        yield body[start : start + 100]


@pytest.mark.parametrize("path", ["/size", "/swallow"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_may_be_as_large_as_the_limit_and_no_larger(path: str, chunked: bool) -> None:
    async with client_of(BodyLimit(an_app(), MAX)) as client:
        for length, status in [(MAX, 200), (MAX + 1, 413)]:
            body = b'"' + b"x" * (length - 2) + b'"'
            content: Any = in_chunks(body) if chunked else body
            answer = await client.post(path, content=content, headers={"Content-Type": "application/json"})
            assert answer.status_code == status
    assert (answer.json()["code"], answer.headers["content-type"]) == ("body_too_large", "application/problem+json")


async def test_a_declared_length_is_refused_before_anything_is_read() -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("read")
        yield b""

    async with client_of(BodyLimit(an_app(), MAX)) as client:
        for length in ("1001", "9" * 5000):
            answer = await client.post("/size", content=unread(), headers={"Content-Length": length})
            assert answer.status_code == 413, length


@pytest.mark.parametrize("length", ["1", "-1", "many", "1_0", "0" * 30 + "1"])
async def test_a_length_that_lies_helps_nobody(length: str) -> None:
    async with client_of(BodyLimit(an_app(), MAX)) as client:
        answer = await client.post("/swallow", content=in_chunks(b"x" * 1001), headers={"Content-Length": length})
    assert answer.status_code == 413


async def test_an_answer_that_has_begun_is_not_followed_by_a_second() -> None:
    sent: list[Any] = []

    async def eager(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"x" * 1001, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(Exception, match="larger than 1000 bytes"):
        await BodyLimit(eager, MAX)({"type": "http", "headers": []}, receive, send)
    assert [message.get("status") for message in sent] == [200]


async def statuses(client: httpx.AsyncClient, path: str, count: int) -> list[int]:
    return [(await client.get(path)).status_code for _ in range(count)]


async def test_one_address_is_limited_on_every_path_and_others_are_not() -> None:
    limited = RateLimit(an_app(), 3)
    async with client_of(limited) as client, client_of(limited, "192.0.2.2") as other:
        assert await statuses(client, "/ping", 2) == [200, 200]  # an included route, which slowapi itself overlooks
        assert await statuses(client, "/nothing", 2) == [404, 429]
        refused = await client.get("/ping")
        assert await statuses(other, "/ping", 2) == [200, 200]
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert refused.headers["content-type"] == "application/problem+json"
    assert 1 <= int(refused.headers["retry-after"]) <= 60


async def test_planes_count_apart_and_health_does_not_count() -> None:
    async with client_of(RateLimit(an_app(), 2)) as client:
        for path in ("/system/a", "/admin/a", "/a"):
            assert await statuses(client, path, 3) == [404, 404, 429], path
        assert await statuses(client, "/system", 1) == [429]
        assert await statuses(client, "/systematic", 1) == [429]
        assert await statuses(client, "/healthz", 5) == [404] * 5
        assert await statuses(client, "/readyz", 5) == [404] * 5


async def test_the_addresses_of_one_ipv6_customer_are_one() -> None:
    limited = RateLimit(an_app(), 2)
    codes = []
    for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::3", "2001:db8:0:1::1"):
        async with client_of(limited, address) as client:
            codes += await statuses(client, "/ping", 1)
    assert codes == [200, 200, 429, 200]


async def test_a_route_has_a_tighter_limit_beside_the_coarse_one() -> None:
    app = an_app()
    app.add_api_route("/tight", lambda: "ok", dependencies=[Depends(AtMost("2/minute"))])
    async with client_of(RateLimit(app, 100)) as client:
        assert await statuses(client, "/tight", 3) == [200, 200, 429]
        assert (await client.get("/tight")).json()["code"] == "too_many_requests"
        assert await statuses(client, "/ping", 1) == [200]


async def test_the_environment_cannot_switch_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATELIMIT_ENABLED", "false")
    async with client_of(RateLimit(an_app(), 1)) as client:
        assert await statuses(client, "/ping", 2) == [200, 429]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


async def test_a_flood_does_not_flood_the_log(logged: pytest.LogCaptureFixture) -> None:
    async with client_of(RateLimit(an_app(), 1)) as client:
        await statuses(client, "/ping", 20)
    assert not [record for record in logged.records if record.name == "slowapi"]


async def test_requests_at_once_are_counted_exactly() -> None:
    async with client_of(RateLimit(an_app(), 10)) as client:
        answers = await asyncio.gather(*(client.get("/ping") for _ in range(100)))
    assert sum(answer.status_code == 200 for answer in answers) == 10


def test_a_refusal_says_when_to_come_back() -> None:
    assert problems.refused(TooManyRequests(7)).headers["Retry-After"] == "7"
