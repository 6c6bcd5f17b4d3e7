"""The client is who a trusted proxy says; nobody else is believed."""

from typing import Any

import pytest
import uvicorn

from opsplane import serving
from opsplane.api.proxies import behind_proxies
from opsplane.config import Settings

PROXIES = "10.0.0.0/8, 192.0.2.7, 2001:db8:1::/48"


async def client_seen(peer: str | None, *forwarded: str, trusted: str | None = PROXIES) -> str | None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"])

    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    scope = {"type": "http", "scheme": "http", "client": peer and (peer, 1), "headers": headers}
    await behind_proxies(app, Settings(trusted_proxies=trusted))(scope, None, None)  # type: ignore[arg-type]
    return seen[0] and str(seen[0][0])


@pytest.mark.parametrize("trusted", [None, "", " ", "192.0.2.1"])
@pytest.mark.parametrize("peer", ["203.0.113.5", "127.0.0.1", "::1"])
async def test_without_a_trusted_proxy_the_header_has_no_effect(peer: str, trusted: str | None) -> None:
    assert await client_seen(peer, "198.51.100.1", trusted=trusted) == peer


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.1.2.3", ["198.51.100.1"], "198.51.100.1"),
        ("192.0.2.7", ["198.51.100.1"], "198.51.100.1"),
        ("192.0.2.8", ["198.51.100.1"], "192.0.2.8"),
        ("10.1.2.3", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["1.1.1.1, 198.51.100.1, 10.9.9.9"], "198.51.100.1"),
        ("10.1.2.3", ["10.0.0.1, 198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.1.2.3", ["2001:db8:2::5"], "2001:db8:2::5"),
        ("10.1.2.3", ["1.1.1.1, [2001:db8:2::5]:4711"], "2001:db8:2::5"),
        ("2001:db8:1::9", ["2001:db8:2::5, 2001:db8:1::8"], "2001:db8:2::5"),
        ("2001:db8:3::9", ["198.51.100.1"], "2001:db8:3::9"),
        ("10.1.2.3", ["<script>, 198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["\xff\xfe, 198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", [""], "10.1.2.3"),
        ("10.1.2.3", [], "10.1.2.3"),
    ],
)
async def test_the_last_address_that_is_no_proxy_of_ours_counts(peer: str, forwarded: list[str], client: str) -> None:
    assert await client_seen(peer, *forwarded) == client


async def test_a_peer_without_an_address_is_not_believed() -> None:
    assert await client_seen(None, "198.51.100.1") is None


def test_the_server_does_not_believe_the_header_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    started: list[uvicorn.Config] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server: started.append(server.config))
    settings = Settings(database_url="postgresql://127.0.0.1:1/none", redis_url="redis://127.0.0.1:1")
    serving.serve(settings, host="127.0.0.1", port=0)
    assert [config.proxy_headers for config in started] == [False]
