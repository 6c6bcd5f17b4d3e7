"""Metrics: the page that lists them is true, their labels are bounded, and a scrape waits for nobody."""

import asyncio
import re
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp

from opsplane import serving
from opsplane.alerts import metrics as alert_metrics
from opsplane.api import metrics as exposition
from opsplane.api.http_metrics import Measured, Routed
from opsplane.api.metrics import Exposition
from opsplane.audit import metrics as audit_metrics
from opsplane.audit import spool
from opsplane.auth import tokens
from opsplane.config import Settings
from opsplane.errors import ConfigurationError, ServiceUnavailable
from opsplane.runbooks.service import Plane
from opsplane.runs import installation
from opsplane.runs.installation import Figures

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
LABELS = {"type", "status", "outcome", "state", "reason", "step", "plane", "method", "route", "limit"}
LABELS |= {"channel", "result", "kind", "signal"}
SUFFIX = re.compile(r"_(bucket|count|sum)$")


def own() -> Iterator[Any]:
    """Every metric that a process of opsplane registers."""
    assert serving  # what it imports is what a process has
    assert alert_metrics
    return (one for one in list(REGISTRY._collector_to_names) if getattr(one, "_name", "").startswith("opsplane_"))


def rows() -> dict[str, str]:
    """What the page must say of each metric, by its name."""
    found = [(one._name + "_total" * (one._type == "counter"), one) for one in own()]
    known = [(name, one._type, one._labelnames, one._documentation) for name, one in found]
    known += [
        (one.name, one.type, getattr(one, "_labelnames", ()), one.documentation)
        for one in installation.families(Figures())
    ]
    return {
        name: f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |"
        for name, kind, labels, meaning in known
    }


@pytest.mark.parametrize("name", sorted(rows()))
def test_the_page_has_a_row_for_every_metric(name: str) -> None:
    assert rows()[name] in PAGE.splitlines(), f"docs/metrics.md lacks this row:\n{rows()[name]}"


def test_the_page_names_no_metric_that_is_gone() -> None:
    named = {SUFFIX.sub("", name) for name in re.findall(r"\bopsplane_\w+", PAGE)}
    assert named == set(rows())


def test_names_follow_the_conventions_and_no_label_can_hold_an_id() -> None:
    for name, row in rows().items():
        kind, labels = [cell.strip() for cell in row.split("|")[2:4]]
        assert name.endswith("_total") == (kind == "counter"), name
        assert kind != "histogram" or name.endswith("_seconds"), name
        assert set(re.findall(r"`(\w+)`", labels)) <= LABELS, name


# Requests


def site() -> ASGIApp:
    app = FastAPI()

    @app.get("/system/things/{thing_id}")
    async def thing(thing_id: str) -> dict[str, str]:
        return {"id": thing_id}

    @app.get("/system/broken")
    async def broken() -> None:
        raise RuntimeError

    @app.get("/system/stream")
    async def stream() -> Response:
        async def events() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def file(scope: Any, receive: Any, send: Any) -> None:
        await Response()(scope, receive, send)

    app.mount("/static/{release}", file)
    return Measured(Routed(app))


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(site(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://ops.test") as client:
        yield client


def series(name: str) -> dict[tuple[str, ...], float]:
    """The values of a family's samples, by their labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == name
    }


def added(name: str, before: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """What has changed since."""
    return {key: value - before.get(key, 0) for key, value in series(name).items() if value != before.get(key, 0)}


REQUESTS, SECONDS = "opsplane_http_requests_total", "opsplane_http_request_seconds_count"


async def test_requests_of_one_route_are_one_series_whatever_ids_they_name(client: httpx.AsyncClient) -> None:
    before, timed = series(REQUESTS), series(SECONDS)
    for _ in range(50):
        await client.get(f"/system/things/{uuid.uuid4()}")
    assert added(REQUESTS, before) == {("system", "GET", "/system/things/{thing_id}", "200"): 50}
    assert added(SECONDS, timed) == {("system", "GET", "/system/things/{thing_id}"): 50}


async def test_200_random_paths_and_releases_of_static_files_add_one_series_each(client: httpx.AsyncClient) -> None:
    before = series(REQUESTS)
    for _ in range(200):
        await client.get(f"/{uuid.uuid4().hex}")
        await client.get(f"/static/{uuid.uuid4().hex}/{uuid.uuid4().hex}.js")
    assert added(REQUESTS, before) == {
        ("none", "GET", "none", "404"): 200,
        ("none", "GET", "mounted", "200"): 200,
    }


async def test_methods_that_somebody_makes_up_are_one_series(client: httpx.AsyncClient) -> None:
    before = series(REQUESTS)
    for number in range(20):
        await client.request(f"MADEUP{number}", "/nowhere")
    assert added(REQUESTS, before) == {("none", "other", "none", "404"): 20}


async def test_a_stream_is_counted_when_it_ends_and_its_time_is_not(client: httpx.AsyncClient) -> None:
    before, timed = series(REQUESTS), series(SECONDS)
    await client.get("/system/stream")
    assert added(REQUESTS, before) == {("system", "GET", "/system/stream", "200"): 1}
    assert added(SECONDS, timed) == {}


async def test_a_request_that_breaks_the_application_is_a_500(client: httpx.AsyncClient) -> None:
    before = series(REQUESTS)
    await client.get("/system/broken")
    assert added(REQUESTS, before) == {("system", "GET", "/system/broken", "500"): 1}


# The spool


def value(name: str) -> float:
    found = REGISTRY.get_sample_value(name)
    assert found is not None
    return found


async def test_the_spool_tells_its_files_and_the_age_of_its_oldest_event(tmp_path: Path) -> None:
    settings = Settings(audit_spool=tmp_path)
    audit_metrics.watch(settings)
    assert (value("opsplane_audit_spool_files"), value("opsplane_audit_spool_oldest_age_seconds")) == (0, 0)
    await spool.append(settings, {"occurred_at": "2020-01-01T00:00:00+00:00"})
    (tmp_path / "spool.jsonl").rename(tmp_path / "replaying-1.jsonl")
    await spool.append(settings, {"occurred_at": "2999-01-01T00:00:00+00:00"})
    assert value("opsplane_audit_spool_files") == 2
    assert value("opsplane_audit_spool_oldest_age_seconds") > 6 * 365 * 86_400


def test_a_torn_line_has_the_age_of_its_file(tmp_path: Path) -> None:
    audit_metrics.watch(Settings(audit_spool=tmp_path))
    (tmp_path / "spool.jsonl").write_text('\n{"occurred_at": "20\n')
    assert value("opsplane_audit_spool_files") == 1
    assert 0 <= value("opsplane_audit_spool_oldest_age_seconds") < 60


# A scrape


class Silent:
    """A database that takes questions and gives no answers, until it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = asyncio.Event()

    @asynccontextmanager
    async def reading(self, **_: object) -> AsyncIterator[Any]:
        self.asked += 1
        await self.answer.wait()
        raise ServiceUnavailable("It was away.")
        yield

    transaction = reading

    async def look(self, *_: object, **__: object) -> None:
        async with self.reading():
            pass


BODY = f"ops_{tokens.PLANE}_{'a' * 8}_{'b' * 43}"
UNKNOWN = BODY + tokens.checksum_of(BODY)  # only the database can say so


def scrape(db: Any, address: str = "127.0.0.1", token: str | None = None) -> Request:
    headers = [] if token is None else [(b"authorization", b"Bearer " + token.encode())]
    state = {"plane": Plane(db, None, Settings())}  # type: ignore[arg-type]
    return Request({"type": "http", "client": (address, 1), "headers": headers, "state": state})


async def test_a_silent_database_is_waited_for_two_seconds_and_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "WITHIN_S", 0.2)
    shown, db, took = Exposition(), Silent(), list[float]()
    for _ in range(3):
        began = time.monotonic()
        answer = await shown.show(scrape(db))
        took.append(time.monotonic() - began)
        body = bytes(answer.body).decode()
        assert "opsplane_database_up 0.0" in body
        assert "opsplane_leases_lost_total" in body
        assert "opsplane_runs_stalled" not in body
    assert min(took) < 1, "a busy machine may disturb one, not all"
    assert db.asked == 1
    db.answer.set()
    await asyncio.sleep(0)


async def test_a_stranger_with_a_token_that_nobody_can_check_is_told_to_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exposition, "WITHIN_S", 0.2)
    db = Silent()
    with pytest.raises(ServiceUnavailable):
        await Exposition().show(scrape(db, "192.0.2.1", UNKNOWN))
    db.answer.set()
    await asyncio.sleep(0)


# A port of a worker's own


def test_a_process_shows_its_numbers_on_a_port_and_a_taken_one_is_refused_in_one_line(free_port: int) -> None:
    with serving.exposed("127.0.0.1", free_port):
        answer = httpx.get(f"http://127.0.0.1:{free_port}/metrics")
        assert "opsplane_leases_lost_total" in answer.text
        with (
            pytest.raises(ConfigurationError, match="pick another with --metrics-port"),
            serving.exposed("127.0.0.1", free_port),
        ):
            pass
    with serving.exposed("127.0.0.1", free_port):  # and afterwards it is free again
        pass


def test_without_a_port_nothing_listens() -> None:
    with serving.exposed("127.0.0.1", None):
        pass


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
