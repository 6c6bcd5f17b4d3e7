"""One Chromium and one real server for the session; contexts, people and clean tables for each test."""

import asyncio
import contextlib
import os
import shutil
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn
from playwright.async_api import Browser, async_playwright, expect
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import ASGIApp, Receive, Scope, Send

from opsplane.config import Settings
from opsplane.db import Database
from opsplane.queue import Queue
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.workers import supervisor
from tests import web
from tests.browser.stage import PLAIN, Stage

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
MISSING = "no Chromium here; install one: apt-get install chromium"
TIMEOUT_MS = 15_000  # what is right is seen at once; a busy machine may take its time
BUSY = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
"""


class Server(uvicorn.Server):
    """A server within the tests' own loop; signals stay pytest's. It keeps the paths it was asked for."""

    def __init__(self, app: ASGIApp) -> None:
        self.asked: list[str] = []
        config = uvicorn.Config(
            self._listened(app), lifespan="off", ws="none", log_config=None, access_log=False, server_header=False,
            proxy_headers=False, timeout_graceful_shutdown=2,
        )  # fmt: skip
        super().__init__(config)

    def cut(self) -> None:
        """Cut every connection, in the middle of whatever it is saying."""
        for connection in list(self.server_state.connections):
            if connection.transport:
                connection.transport.abort()

    def _listened(self, app: ASGIApp) -> ASGIApp:
        async def listened(scope: Scope, receive: Receive, send: Send) -> None:
            self.asked.append(scope["path"])
            await app(scope, receive, send)

        return listened

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """The browser; each test gets contexts of its own."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(MISSING, pytrace=False)
        pytest.skip(MISSING)
    expect.set_options(timeout=TIMEOUT_MS)
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def listening() -> Iterator[socket.socket]:
    """A port that is ours from the first moment on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        yield bound


@pytest.fixture(scope="session")
async def settings(settings: Settings, listening: socket.socket) -> Settings:
    """The tests' settings, at the address where the browser finds the server."""
    return settings.model_copy(update={"base_url": f"http://localhost:{listening.getsockname()[1]}"})


@pytest.fixture(scope="session")
async def server(chromium: Browser, settings: Settings, listening: socket.socket) -> AsyncIterator[Server]:
    """The whole application on a socket, with cheap password hashes."""
    plane = Plane(Database(settings), Queue(settings), settings)
    async with web.doors(plane) as doors:
        server = Server(doors.app)
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started:
            assert not serving.done(), "our server did not start"
            await asyncio.sleep(0.01)
        yield server
        server.should_exit = True
        await serving
    await plane.queue.close()
    await plane.db.close()


@pytest.fixture
async def stage(chromium: Browser, server: Server, plane: Plane) -> AsyncIterator[Stage]:
    """Opens pages for people; the test fails if anything went wrong in one that it did not announce."""
    opened = Stage(chromium, plane)
    yield opened
    await opened.close()
    await _quiet(plane)
    assert opened.wrong() == []


async def _quiet(plane: Plane) -> None:
    """Wait until the server has nothing in hand: the next test empties the tables, which waits for nobody."""
    for _ in range(200):
        async with plane.db.reading() as session:
            if not await session.scalar(text(BUSY)):
                return
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def a_worker(plane: Plane) -> AsyncIterator[None]:
    """Carries runs on as long as this lasts."""
    stop = asyncio.Event()
    working = asyncio.create_task(supervisor.work(plane, stop))
    yield
    stop.set()
    await working


@pytest.fixture
async def worker(plane: Plane) -> AsyncIterator[None]:
    """A worker that carries runs on while the test lasts."""
    async with a_worker(plane):
        yield


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """What a worker waits for within its first chunk of every tenant but acme."""
    opened = asyncio.Event()
    runbook: Any = registry.find(PLAIN)

    async def act(session: AsyncSession, tenant: uuid.UUID, first: int) -> None:
        if not await runbook.is_called(session, tenant, "acme"):
            await opened.wait()

    monkeypatch.setattr(runbook, "act", act)
    return opened
