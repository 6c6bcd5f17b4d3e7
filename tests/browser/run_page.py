"""The page of a run as the tests of what is asked there find it, and runs for it to show."""

import asyncio
import uuid

from playwright.async_api import Locator, Page, Route

from opsplane.auth.actors import Actor
from opsplane.runbooks.service import Plane
from tests import support
from tests.browser.conftest import Server
from tests.browser.stage import FAILS, PLAIN

OLGA, OMAR = "olga@ops.test", "omar@ops.test"
TRANSIENT = "test.effects.transient"
RIPE_S = 0.6  # the page takes no click on a button that has only just come up


async def begun(plane: Plane, operator: Actor, key: str = PLAIN, *, held: bool = False) -> uuid.UUID:
    """A run under way; if it is held, by a worker in the middle of acme."""
    run_id = await support.begun(plane, operator, key)
    if held:
        async with plane.db.transaction() as tx:
            await support.claimed(tx.session, run_id, lease_s=600)
    return run_id


async def ended(plane: Plane, operator: Actor, key: str = FAILS) -> uuid.UUID:
    return await support.finished_run(plane, operator, key)


def button(page: Page | Locator, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def status(page: Page) -> Locator:
    return page.locator("[data-badge-slot=status]")


def outcome(page: Page) -> Locator:
    return page.locator("[data-badge-slot=outcome]")


async def bar(page: Page) -> float:
    """How much of it is full."""
    return float(await page.locator("#bar").evaluate("bar => bar.value"))


def steps(page: Page) -> Locator:
    return page.locator(".timeline [data-step] strong, .timeline [data-step] strong + .muted:not(:empty)")


def asked(server: Server, what: str) -> int:
    """How often the server was asked for it."""
    return sum(path.endswith(f"/{what}") for path in server.asked)


async def retry_dialog(page: Page) -> Locator:
    await button(page, "Retry 1 failed tenant…").click()
    return page.get_by_role("dialog", name="Retry 1 failed tenant of Effects?")


async def held_back(page: Page, what: str) -> asyncio.Event:
    """Requests for it are on their way until this happens."""
    late = asyncio.Event()

    async def wait(route: Route) -> None:
        await late.wait()
        await route.continue_()

    await page.route(what, wait)
    return late
