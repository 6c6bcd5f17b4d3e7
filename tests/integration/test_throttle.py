"""Ten logins a minute: exactly, by everybody at once, and also while Redis is dead or stalled."""

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from structlog.testing import capture_logs

from opsplane import embedded
from opsplane.auth import throttle, users
from opsplane.auth.throttle import LoginThrottle, Throttles, TooManyAttempts
from opsplane.config import Settings

WHO = ("system", "192.0.2.1", "ann@ops.test")
AT_MOST_S = 1.6 * throttle.TIMEOUT_S
DEAD = "redis://127.0.0.1:1"


@pytest.fixture
async def throttles(settings: Settings) -> AsyncIterator[Throttles]:
    assert settings.redis_url is not None
    async with Throttles(settings.redis_url) as throttles:
        await throttles._redis._windows.storage.reset()
        yield throttles


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[str]:
    """A Valkey that a test may stop and kill."""
    with embedded.running(tmp_path, postgres=False) as endpoints:
        assert endpoints.redis_url is not None
        yield endpoints.redis_url


def pid_of(redis_url: str) -> int:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(unquote(urlsplit(redis_url).path))
        client.sendall(b"INFO server\r\n")
        found = re.search(rb"process_id:(\d+)", client.recv(65_536))
    assert found
    return int(found[1])


@contextmanager
def stalled(redis_url: str) -> Iterator[None]:
    pid = pid_of(redis_url)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def passes(hit: Callable[[], Awaitable[None]]) -> bool:
    try:
        await hit()
    except TooManyAttempts:
        return False
    return True


async def admitted(logins: LoginThrottle, count: int, who: tuple[str, str, str] = WHO) -> int:
    return sum([await passes(lambda: logins.hit(*who)) for _ in range(count)])


def degraded() -> float:
    return REGISTRY.get_sample_value("opsplane_login_throttle_degraded_total") or 0


async def test_of_200_attempts_at_once_exactly_ten_pass(throttles: Throttles, settings: Settings) -> None:
    assert settings.redis_url is not None
    before = degraded()
    async with Throttles(settings.redis_url) as other_process:
        attempts = [(throttles, other_process)[n % 2].logins for n in range(200)]
        passed = await asyncio.gather(*(passes(partial(logins.hit, *WHO)) for logins in attempts))
    assert (sum(passed), degraded()) == (10, before)


async def test_a_refusal_says_when_and_nothing_else(throttles: Throttles) -> None:
    await admitted(throttles.logins, 10)
    with pytest.raises(TooManyAttempts, match=r"^Too many attempts; try again in \d+ seconds\.$") as caught:
        await throttles.logins.hit(*WHO)
    assert (int(caught.value.status), caught.value.code, caught.value.extra) == (429, "too_many_attempts", {})
    assert caught.value.retry_after_s is not None
    assert 55 <= caught.value.retry_after_s <= 60


async def test_a_success_clears_its_own_key_everywhere_and_no_other(throttles: Throttles) -> None:
    other = (WHO[0], WHO[1], "bob@ops.test")
    assert (await admitted(throttles.logins, 11), await admitted(throttles.logins, 11, other)) == (10, 10)
    await throttles.logins.clear(*WHO)
    assert (await admitted(throttles.logins, 11), await admitted(throttles.logins, 1, other)) == (10, 0)


@pytest.mark.parametrize(
    "other",
    [("admin", WHO[1], WHO[2]), (WHO[0], "192.0.2.2", WHO[2]), (WHO[0], "2001:db8::1", WHO[2]), (*WHO[:2], "bob")],
    ids=["plane", "address", "address of another kind", "user"],
)
async def test_others_are_not_affected(throttles: Throttles, other: tuple[str, str, str]) -> None:
    assert await admitted(throttles.logins, 11) == 10
    assert await admitted(throttles.logins, 11, other) == 10


VARIANTS = ["ANN@ops.test", " ann@ops.test\n", "ann@ops.test", "ann@OPS.TEST\u00a0", "\u1d2cnn@ops.test"]


async def test_spellings_of_one_name_share_their_attempts(throttles: Throttles) -> None:
    passed = [await admitted(throttles.logins, 3, (WHO[0], WHO[1], name)) for name in VARIANTS]
    assert passed == [3, 3, 3, 1, 0]


@pytest.mark.parametrize("pair", [("straße", "STRASSE"), ("\u0390", "\u1fd3"), ("Ω", "\u2126"), ("x" * 256, "x" * 300)])
def test_names_that_find_the_same_user_have_one_fingerprint(pair: tuple[str, str]) -> None:
    assert throttle.fingerprint(pair[0]) == throttle.fingerprint(pair[1])
    assert throttle.fingerprint(users.normalise(pair[0])) == throttle.fingerprint(pair[0])


@pytest.mark.parametrize("name", ["", "\ud800", "\x00", "\ufdfa" * 100_000, "💥"])
async def test_no_name_breaks_it(throttles: Throttles, name: str) -> None:
    assert await admitted(throttles.logins, 11, (WHO[0], WHO[1], name)) == 10


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::"),
        ("2001:db8::ffff:ffff:ffff:ffff", "2001:db8::"),
        ("2001:db8:0:1::1", "2001:db8:0:1::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::"),
        ("", "unknown"),
        ("<script>", "unknown"),
    ],
)
def test_a_client_is_its_address_or_its_ipv6_network(address: str, network: str) -> None:
    assert throttle.network(address) == network


async def test_a_flood_of_refusals_is_one_event_per_key(throttles: Throttles) -> None:
    firsts = [await throttles.logins.first_refusal(*WHO) for _ in range(50)]
    assert firsts == [True] + [False] * 49
    assert await throttles.logins.first_refusal("admin", *WHO[1:])
    assert await admitted(throttles.logins, 11) == 10


async def test_one_time_codes_have_five_attempts_in_five_minutes(throttles: Throttles) -> None:
    passed = [await passes(lambda: throttles.codes.hit("user-1")) for _ in range(7)]
    assert passed == [True] * 5 + [False] * 2
    with pytest.raises(TooManyAttempts) as caught:
        await throttles.codes.hit("user-1")
    assert 290 <= (caught.value.retry_after_s or 0) <= 300
    await throttles.codes.hit("user-2")


async def test_no_name_can_be_read_in_redis_and_no_key_stays(throttles: Throttles) -> None:
    await admitted(throttles.logins, 1)
    client = Redis(connection_pool=throttles._redis._pool)
    [key] = [key async for key in client.scan_iter("opsplane:throttle*")]
    assert b"ann" not in key
    assert 0 < await client.ttl(key) <= 60


async def test_the_window_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    async with Throttles(DEAD) as alone:
        window = alone.logins._throttle._attempts._here
        for at in range(10):
            now = 1000.0 + at
            assert window.acquire("k") == 0
        assert window.acquire("k") == 51
        now = 1059.9
        assert window.acquire("k") > 0
        now = 1060.1
        assert [window.acquire("k") for _ in range(2)] == [0, pytest.approx(0.9)]
        now = 2000.0
        window.acquire("other")
        assert list(window._attempts) == ["other"]


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MAX_KEYS", 100)
    async with Throttles(DEAD) as alone:
        window = alone.logins._throttle._attempts._here
        for n in range(1000):
            window.acquire(str(n))
        assert list(window._attempts) == [str(n) for n in range(900, 1000)]


async def timed(hit: Callable[[], Awaitable[None]]) -> tuple[bool, float]:
    begun = time.monotonic()
    return await passes(hit), time.monotonic() - begun


@pytest.mark.parametrize("url", [DEAD, "redis://nowhere.invalid", "unix:///nowhere/redis.sock", "rediss://127.0.0.1:1"])
async def test_a_redis_that_is_away_neither_opens_nor_blocks(url: str) -> None:
    before = degraded()
    with capture_logs() as logs:
        async with Throttles(url) as alone:
            outcomes = [await timed(lambda: alone.logins.hit(*WHO)) for _ in range(13)]
            await alone.logins.clear(*WHO)
            assert await admitted(alone.logins, 11) == 10
    assert [passed for passed, _ in outcomes] == [True] * 10 + [False] * 3
    assert max(took for _, took in outcomes) < AT_MOST_S
    assert sum(took for _, took in outcomes[1:]) < throttle.TIMEOUT_S
    assert degraded() - before >= 24
    assert [entry["event"] for entry in logs] == ["login_throttle_degraded"]


async def test_a_stalled_redis_costs_one_attempt_a_moment_and_forgets_nothing(own_redis: str) -> None:
    async with Throttles(own_redis) as throttles:
        assert await admitted(throttles.logins, 7) == 7
        with stalled(own_redis):
            outcomes = [await timed(lambda: throttles.logins.hit(*WHO)) for _ in range(10)]
            assert [passed for passed, _ in outcomes] == [True] * 3 + [False] * 7
            assert max(took for _, took in outcomes) < AT_MOST_S
            assert sum(took for _, took in outcomes[1:]) < throttle.TIMEOUT_S
            crowd = await asyncio.gather(*(timed(lambda: throttles.logins.hit(*WHO[:2], "bob")) for _ in range(200)))
            assert sum(passed for passed, _ in crowd) == 10
            assert max(took for _, took in crowd) < AT_MOST_S


async def test_while_it_is_stalled_one_attempt_in_two_seconds_looks_for_it(own_redis: str) -> None:
    async with Throttles(own_redis) as throttles:
        with stalled(own_redis):
            await throttles.codes.hit("a")
            await asyncio.sleep(throttle.PAUSE_S)
            crowd = await asyncio.gather(*(timed(lambda: throttles.codes.hit("b")) for _ in range(20)))
            *others, scout = sorted(took for _, took in crowd)
            assert scout > 0.8 * throttle.TIMEOUT_S
            assert max(others) < 0.5 * throttle.TIMEOUT_S
        before = degraded()
        await asyncio.sleep(throttle.PAUSE_S + 0.1)
        async with Throttles(own_redis) as other_process:
            assert await admitted(throttles.logins, 6) == 6
            assert await admitted(other_process.logins, 6) == 4
        assert degraded() == before


async def test_a_redis_that_drips_its_answers_is_as_good_as_stalled() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            await asyncio.sleep(0.6 * throttle.TIMEOUT_S)
            writer.write(b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server, Throttles(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}") as throttles:
        outcomes = [await timed(lambda: throttles.logins.hit(*WHO)) for _ in range(11)]
    assert [passed for passed, _ in outcomes] == [True] * 10 + [False]
    assert max(took for _, took in outcomes) < AT_MOST_S


async def test_an_outage_is_logged_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "PAUSE_S", 0)
    with capture_logs() as logs:
        async with Throttles(DEAD) as alone:
            await admitted(alone.logins, 5)
            alone._redis._warn_after -= throttle.WARN_EVERY_S
            await admitted(alone.logins, 5)
    assert [entry["event"] for entry in logs] == ["login_throttle_degraded"] * 2


async def test_a_redis_that_is_killed_is_replaced_by_memory(own_redis: str) -> None:
    async with Throttles(own_redis) as throttles:
        assert await admitted(throttles.logins, 7) == 7
        os.kill(pid_of(own_redis), signal.SIGKILL)
        outcomes = [await timed(lambda: throttles.logins.hit(*WHO)) for _ in range(5)]
    assert [passed for passed, _ in outcomes] == [True] * 3 + [False] * 2
    assert max(took for _, took in outcomes) < AT_MOST_S


async def test_a_success_during_an_outage_clears_what_this_process_knows(own_redis: str) -> None:
    async with Throttles(own_redis) as throttles:
        assert await admitted(throttles.logins, 10) == 10
        with stalled(own_redis):
            await throttles.logins.clear(*WHO)
            assert await admitted(throttles.logins, 11) == 10


async def test_a_redis_over_tcp_works_without_a_port_in_its_address() -> None:
    assert Throttles("redis://localhost")._redis._pool.connection_kwargs["host"] == "localhost"
