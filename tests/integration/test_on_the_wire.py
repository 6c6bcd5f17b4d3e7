"""What strangers see of a real server, byte for byte; and how long others wait there while Valkey is frozen."""

import asyncio
import re
import secrets
import statistics
import time
from collections import Counter

import httpx
import pytest

from opsplane.config import Settings
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import web
from tests.fuzz import stand
from tests.fuzz.stand import Stand
from tests.integration.test_planes import CLOSED
from tests.integration.test_throttle import own_redis, stalled

__all__ = ["own_redis"]

METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
DATE = re.compile(rb"date: [^\r]+\r\n", re.IGNORECASE)
OTHERS = ("/system/me", "/system/ops/runs", "/system/ops/runbooks", "/healthz", "/system/nothing")
ROUNDS = 20
WITHOUT_DELAY_S = 1.0  # with two cores for ten test processes; the throttle itself waits for a whole second


async def answered(url: str, method: str, path: str, cookie: str | None) -> bytes:
    """Every byte of the answer but the date."""
    host, port = url.removeprefix("http://").split(":")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", "Sec-Fetch-Site: same-origin"]
    lines += [f"Cookie: {cookie}"] if cookie else []
    body = "{}" if method == "POST" else ""
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
    answer = await reader.read()
    writer.close()
    return DATE.sub(b"", answer)


@pytest.mark.parametrize("plane_name", ["system", "admin"])
async def test_on_the_wire_the_wrong_plane_is_a_missing_path_to_the_byte(
    settings: Settings, plane: Plane, tenants: list[Tenant], plane_name: str
) -> None:
    with stand.serving(settings) as url:
        place = await stand.furnish(settings, url)
        other = await asyncio.to_thread(place.signed_in, "admin" if plane_name == "system" else "system")
        compared = 0
        for method in METHODS:
            for cookie in (None, other):
                ways = [secrets.token_hex(4) for _ in range(50)]
                missing = {await answered(url, method, f"/{plane_name}/{way}", cookie) for way in ways}
                assert len(missing) == 1
                assert b" 404 " in next(iter(missing)).partition(b"\r\n")[0]
                for path in sorted({one.url for one in CLOSED[plane_name]}):
                    assert await answered(url, method, path, cookie) in missing, f"{method} {path}"
                    compared += 1
    print(f"{plane_name}: {compared} answers, each the bytes of 50 missing paths")  # noqa: T201 - the campaign's result


async def took(client: httpx.AsyncClient, path: str) -> float:
    begun = time.perf_counter()
    answer = await client.get(path)
    assert answer.status_code in {200, 404}, answer.text
    return time.perf_counter() - begun


async def flood(place: Stand) -> Counter[int]:
    """Forty wrong logins at once, from one address."""
    given = {"username": "nobody@ops.test", "password": "wrong"}
    async with httpx.AsyncClient(base_url=place.url, headers=web.SAME_ORIGIN | stand.elsewhere(), timeout=60) as client:
        answers = await asyncio.gather(*(client.post("/system/login", json=given) for _ in range(40)))
    return Counter(answer.status_code for answer in answers)


async def measured(place: Stand, cookie: str) -> list[float]:
    headers = web.SAME_ORIGIN | {"Cookie": cookie} | stand.elsewhere()
    async with httpx.AsyncClient(base_url=place.url, headers=headers, timeout=60) as client:
        return [await took(client, path) for _ in range(ROUNDS) for path in OTHERS]


async def test_while_valkey_is_frozen_other_routes_answer_without_delay(
    settings: Settings, plane: Plane, own_redis: str
) -> None:
    with stand.serving(settings.model_copy(update={"redis_url": own_redis})) as url:
        place = await stand.furnish(settings, url)
        cookie = await asyncio.to_thread(place.signed_in, "system")
        before = await measured(place, cookie)
        with stalled(own_redis):
            flooded = asyncio.create_task(flood(place))
            during = await measured(place, cookie)
            statuses = await flooded
    print(f"before: {shown(before)}; while frozen: {shown(during)}; logins: {dict(statuses)}")  # noqa: T201 - as above
    assert statuses == {401: 10, 429: 30}
    assert statistics.median(during) < WITHOUT_DELAY_S


def shown(times: list[float]) -> str:
    cuts = statistics.quantiles(times, n=100)
    return f"p50 {cuts[49] * 1000:.0f} ms, p95 {cuts[94] * 1000:.0f} ms, max {max(times) * 1000:.0f} ms"
