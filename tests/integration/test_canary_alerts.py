"""Secrets of alerts through a real server that logs all it can: shown once, to whoever made them, and then nowhere."""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from opsplane import config
from opsplane.auth.roles import Role
from opsplane.config import Settings
from opsplane.errors import ConfigurationError
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import receivers, web
from tests.integration.test_canary import everything_stored
from tests.integration.test_planes import ADMIN, SYSTEM, Endpoint
from tests.receivers import MailServer, Receiver
from tests.unit.test_cli_usage import opsplane
from tests.web import PASSWORD

PATH, QUERY, TYPED = "canary-hook-path-4711", "canary-hook-query-4711", "canary-typed-secret-4711"
SIGNING = f"whsec_{base64.b64encode(b'canary-webhook-secret-4711').decode()}"
SLACK = "canary4711canary4711cana"
MAIL = "canary-smtp-password-4711"
SECRETS = {PATH, QUERY, TYPED, SIGNING, "canary-webhook-secret-4711", SLACK, MAIL}
LOGIN = base64.b64encode(f"\0canary\0{MAIL}".encode()).decode(), base64.b64encode(MAIL.encode()).decode()
DESTINATIONS = "/system/alerts/destinations"
START_S = 60


@dataclass
class House:
    """A server that can reach a receiver that refuses everything, and a mail server with another password."""

    url: str
    receiver: Receiver
    mail: MailServer
    environment: dict[str, str]
    said: list[str]

    async def ask(self, client: httpx.AsyncClient, method: str, url: str, **given: Any) -> httpx.Response:
        """Ask, and keep what was answered."""
        answer = await client.request(method, url, **given)
        shown = [f"{name}: {value}" for name, value in answer.headers.items() if name != "set-cookie"]
        self.said.append("\n".join([str(answer.url), *shown, answer.text]))
        return answer

    def at_a_shell(self, *arguments: str) -> None:
        """Run a command, and keep what it printed."""
        done = opsplane(*arguments, environment=self.environment)
        self.said.append(f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}")


@contextmanager
def serving(environment: dict[str, str], log: Path) -> Iterator[str]:
    """`opsplane serve`; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "opsplane.cli.main", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as lines:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("OPSPLANE_")}
        process = subprocess.Popen(command, env=outside | environment, stdout=lines, stderr=lines)
    try:
        url, ends = f"http://127.0.0.1:{port}", time.monotonic() + START_S
        while not _is_ready(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_S)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def house(
    plane: Plane, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[House, Path]]:
    authority, log = trustme.CA(), tmp_path / "serve.log"
    receivers.trust(authority, tmp_path, monkeypatch)
    assert settings.secret_key is not None
    refusing = receivers.answers(500, f"{PATH} {QUERY}".encode())
    with (
        receivers.https(authority, answer=refusing) as receiver,
        receivers.smtp(authority, login=("canary", "another password")) as mail,
    ):
        environment = {
            "OPSPLANE_DATABASE_URL": settings.database_url or "",
            "OPSPLANE_REDIS_URL": settings.redis_url or "",
            "OPSPLANE_SECRET_KEY": settings.secret_key.get_secret_value(),
            "OPSPLANE_HOME": str(settings.home),
            "OPSPLANE_LOG_LEVEL": "DEBUG",
            "OPSPLANE_REQUESTS_PER_MINUTE": "1000000",
            "OPSPLANE_SWEEP_S": "0.5",
            "OPSPLANE_ALERT_PRIVATE_HOSTS": "127.0.0.1",
            "OPSPLANE_SMTP_URL": f"smtp://canary:{MAIL}@localhost:{mail.port}",
            "OPSPLANE_MAIL_FROM": "ops@ops.test",
        }
        with serving(environment, log) as url:
            yield House(url, receiver, mail, environment, []), log


def targets(receiver: Receiver) -> dict[str, dict[str, Any]]:
    hook = receiver.url(path=f"/{PATH}?key={QUERY}")
    return {
        "teams": {"kind": "teams", "url": hook},
        "webhook": {"kind": "webhook", "url": hook, "secret": SIGNING},
        "mail": {"kind": "email", "recipients": ["olga@ops.test"]},
        "slack": {"kind": "service", "url": f"slack://T1JJ3T3L2/A1BRTD4JD/{SLACK}"},
    }


def bodies(receiver: Receiver) -> list[bytes]:
    """Where they belong, where they do not, of the wrong kind, and in something that is no JSON."""
    fitting = [{"name": kind, "target": target} for kind, target in targets(receiver).items()]
    strange: list[Any] = [
        {"name": {"url": TYPED}, "target": {"kind": "webhook", "url": f"http://{TYPED}/", "secret": TYPED}},
        {"target": {"kind": "webhook", "url": f"https://user:{TYPED}@{TYPED}:{TYPED}/"}},
        {"target": {"kind": "service", "url": f"slack://{TYPED}"}, "secret": TYPED},
        {"target": {"kind": TYPED}},
        [TYPED],
        TYPED,
    ]
    made = [json.dumps(one).encode() for one in (*fitting, *strange)]
    return [*made, made[0][:-1]]


async def walk(house: House, endpoint: Endpoint, *callers: httpx.AsyncClient) -> None:
    sent = bodies(house.receiver) if endpoint.method in {"POST", "PATCH", "PUT"} else [b""]
    for caller in callers:
        for body in sent:
            headers = {"Content-Type": "application/json"}
            await house.ask(caller, endpoint.method, endpoint.url, content=body, headers=headers)


async def make_and_try(house: House, client: httpx.AsyncClient) -> None:
    """Each destination is made, changed and tried; those that would leave this machine are switched off."""
    for kind, target in targets(house.receiver).items():
        made = await house.ask(client, "POST", DESTINATIONS, json={"name": f"{kind} one", "target": target})
        assert made.status_code == 201, made.text
        one = f"{DESTINATIONS}/{made.json()['id']}"
        change = {"target": target, "enabled": kind != "slack"}
        assert (await house.ask(client, "PATCH", one, json=change)).status_code == 200
        if kind != "slack":
            tried = await house.ask(client, "POST", f"{one}/test")
            assert tried.json()["delivered"] is False, "the receivers refuse everything"


async def fail_to_deliver(house: House, client: httpx.AsyncClient) -> None:
    """Have something to tell, and wait until all three have refused it."""
    begun = await house.ask(client, "POST", "/system/break-glass", json={"reason": "to have something to tell"})
    assert begun.status_code == 200, begun.text
    await house.ask(client, "DELETE", "/system/break-glass")
    ends = time.monotonic() + START_S
    while True:
        shown = await house.ask(client, "GET", "/system/alerts/deliveries")
        failed = {one["destination"] for one in shown.json()["items"] if one["last_error"]}
        if failed >= {"teams one", "webhook one", "mail one"}:
            return
        assert time.monotonic() < ends, shown.text
        await asyncio.sleep(0.2)


async def test_no_secret_of_an_alert_is_found_anywhere_after_it_was_sent_everywhere(
    house: tuple[House, Path], plane: Plane, tenants: list[Tenant]
) -> None:
    place, log = house
    operator = await web.platform_user(plane, *registry.capabilities(), email="olga@ops.test")
    member = await web.tenant_user(plane, Role.OWNER, tenants[0])
    token = await web.token(plane, operator, *registry.capabilities())
    async with (
        httpx.AsyncClient(base_url=place.url, headers=web.SAME_ORIGIN, timeout=60) as client,
        httpx.AsyncClient(base_url=place.url, headers=web.SAME_ORIGIN, timeout=60) as customer,
        httpx.AsyncClient(base_url=place.url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as machine,
    ):
        for one, name, email in ((client, "system", operator.email), (customer, "admin", member.email)):
            answer = await one.post(f"/{name}/login", json={"username": email, "password": PASSWORD})
            assert answer.status_code == 204, answer.text
        await make_and_try(place, client)
        await fail_to_deliver(place, client)
        sessions = [value for one in (client, customer) for value in one.cookies.values()]
        for endpoint in (*SYSTEM, *ADMIN):
            if endpoint.path != "/logout":
                await walk(place, endpoint, client, customer, machine)
    for arguments in (["doctor"], ["alerts", "destinations", "list", "--json"], ["alerts", "deliveries", "--json"]):
        await asyncio.to_thread(place.at_a_shell, *arguments)
    await asyncio.to_thread(place.at_a_shell, "alerts", "destinations", "test", "mail one")

    assert len(place.receiver.requests) >= 4
    assert place.mail.connections >= 2
    places = {
        "answers": "\n".join(place.said),
        "log": log.read_text(encoding="utf-8"),
        "database": await everything_stored(plane),
    }
    assert len(place.said) > 200
    assert "DEBUG" in places["log"] or '"debug"' in places["log"], "the log says all it can"
    wanted = {*SECRETS, *LOGIN, PASSWORD, token, *sessions}
    found = {(name, secret) for name, what in places.items() for secret in wanted if secret in what}
    assert found == set()


WRONG = {
    "OPSPLANE_SMTP_URL": [f"smtp://u:{TYPED}/x@host", f"smtps://u:{TYPED}@host:x", f"{TYPED}://", f"smtps://:{TYPED}@"],
    "OPSPLANE_DATABASE_URL": [f"postgresql://u:{TYPED}/x@host/db", f"postgresql://u:{TYPED}@[host/db", TYPED],
    "OPSPLANE_REDIS_URL": [f"redis://:{TYPED}/x@host", f"redis://:{TYPED}@host:{TYPED}", TYPED],
    "OPSPLANE_AUDIT_KEY": [TYPED[:20]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_setting_is_refused_without_what_is_secret_in_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSPLANE_MAIL_FROM", "ops@ops.test")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name) as caught:
        config.load()
    assert "canary" not in str(caught.value)
