"""Where people meet pages: contexts with a session, and an ear for everything that goes wrong in them."""

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request, Response

from opsplane.api.cookies import SessionCookie
from opsplane.auth import sessions
from opsplane.auth.capabilities import Capability
from opsplane.auth.models import AdminSession, PlatformUser, SystemSession, TenantUser
from opsplane.auth.sessions import Client
from opsplane.runbooks.service import Plane
from tests import web

# A policy's violation is heard on the page itself; a click counts if a pointer made it, not a key (`detail` is 0 then).
LISTEN = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP refused ${event.blockedURI} by ${event.violatedDirective} in ${event.sourceFile}:${event.lineNumber}`));
globalThis.clicked = [];
addEventListener("click", (event) => {
  if (event.isTrusted && event.detail) clicked.push(event.target.closest("a, button, label, input, summary, li")?.textContent.trim());
}, true);
"""
DESKTOP = {"width": 1440, "height": 900}
EVERYTHING = (*Capability, "platform.runbooks.test.effects")
AT_WORK = tuple(one for one in EVERYTHING if one != Capability.BREAK_GLASS)
RUNBOOKS, RUNS, AUDIT, ALERTS = "/system/ops/runbooks", "/system/ops/runs", "/system/audit", "/system/alerts"
PLAIN, SLOW, FAILS = "test.effects.plain", "test.effects.slow", "test.effects.fails"


@dataclass
class Stage:
    """Opens pages for people."""

    browser: Browser
    plane: Plane
    contexts: list[BrowserContext] = field(default_factory=list)
    _heard: list[str] = field(default_factory=list)
    _consoles: list[tuple[str, str]] = field(default_factory=list)
    _answered: set[str] = field(default_factory=set)
    _announced: list[str] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        """Where the server is."""
        return self.plane.settings.base_url

    async def operator(self, *lacking: str, email: str = "olga@ops.test") -> PlatformUser:
        """Somebody who may do everything but break glass, except for what they are said to lack."""
        return await web.platform_user(self.plane, *(one for one in AT_WORK if one not in lacking), email=email)

    async def context(self, who: PlatformUser | TenantUser | None = None, **options: Any) -> BrowserContext:
        """A browser of its own, signed in if somebody is named."""
        given = {"viewport": DESKTOP, "reduced_motion": "reduce", "base_url": self.base_url, **options}
        context = await self.browser.new_context(**given)
        self.contexts.append(context)
        await context.add_init_script(LISTEN)
        context.on("console", self._console)
        context.on("weberror", lambda error: self._heard.append(f"page error: {error.error}"))
        context.on("response", self._response)
        context.on("requestfailed", self._failed)
        if who is not None:
            await self.sign_in(context, who)
        return context

    async def sign_in(self, context: BrowserContext, who: PlatformUser | TenantUser) -> None:
        """Give the browser a session, as a login does."""
        settings, client = self.plane.settings, Client("127.0.0.1", "Chromium")
        kind: Any = SystemSession if isinstance(who, PlatformUser) else AdminSession
        async with self.plane.db.transaction() as tx:
            opened = await sessions.begin(tx.session, settings, kind, who.id, client)
        name = SessionCookie.of("system" if kind is SystemSession else "admin", settings).name
        await context.add_cookies([{"name": name, "value": opened.secret, "url": self.base_url, "httpOnly": True}])

    async def page(self, path: str, who: PlatformUser | TenantUser | None = None, **options: Any) -> Page:
        """A page in a browser of its own."""
        page = await (await self.context(who, **options)).new_page()
        await page.goto(path)
        return page

    def announce(self, *patterns: str) -> None:
        """What is going to go wrong because the test wants it to: `409 POST /system/…`, or a console message."""
        self._announced += patterns

    def wrong(self) -> list[str]:
        """What went wrong and was not announced."""
        # A refused request is told by its answer already.
        told = "console: Failed to load resource"
        more = [said for said, url in self._consoles if not (said.startswith(told) and url in self._answered)]
        return [what for what in self._heard + more if not any(re.search(one, what) for one in self._announced)]

    async def close(self) -> None:
        """Close every browser."""
        for context in self.contexts:
            await context.close()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} or "Content Security Policy" in message.text:
            url = message.location["url"]
            self._consoles.append((f"console: {message.text} {url}", url))

    def _response(self, response: Response) -> None:
        if not response.url.startswith(self.base_url):
            self._heard.append(f"request to elsewhere: {response.url}")
        if response.status >= 400:
            self._answered.add(response.url)
            self._heard.append(f"{response.status} {response.request.method} {urlsplit(response.url).path}")

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page itself did not want it any more
            self._answered.add(request.url)
            self._heard.append(f"{request.failure} {request.method} {urlsplit(request.url).path}")


def card(page: Page, key: str) -> Locator:
    """A runbook's card."""
    return page.locator(f'[data-runbook="{key}"]')


async def look_again(page: Page) -> None:
    """Have the page ask at once what it would ask within five seconds: as when its tab comes to the front."""
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
