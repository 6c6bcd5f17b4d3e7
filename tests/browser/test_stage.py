"""The ear of the other tests: what goes wrong in a page is heard, and fails the test unless it said so before."""

import contextlib
import re

import pytest
from playwright.async_api import Browser, Error

from opsplane.runbooks.service import Plane
from tests.browser.conftest import Server
from tests.browser.stage import Stage

WRONGS = {
    "an error of a script": ("setTimeout(() => { throw new Error('oops') })", "page error: .*oops"),
    "an error in the console": ("console.error('oops')", "console: oops"),
    "an inline style": ("document.body.setAttribute('style', 'color: red')", "CSP refused .*style-src"),
    "an inline script": (
        "document.body.append(Object.assign(document.createElement('script'), {text: 'globalThis.ours = 1'}))",
        "(CSP refused|page error|TrustedScript)",
    ),
    "markup from text": ("setTimeout(() => { document.body.innerHTML = '<b>' })", "TrustedHTML"),
    "another origin": ("fetch('http://127.0.0.1:1/').catch(() => 0)", "CSP refused http://127.0.0.1:1/"),
    "a refusal": ("fetch('/system/ops/runs').then(() => 0)", "404 GET /system/ops/runs"),
    "an image that is not there": ("new Image().src = '/static/none.png'", "404 GET /static/none.png"),
}


@pytest.mark.parametrize("what", WRONGS)
async def test_what_goes_wrong_in_a_page_is_heard(chromium: Browser, server: Server, plane: Plane, what: str) -> None:
    stage = Stage(chromium, plane)
    act, said = WRONGS[what]
    page = await stage.page("/system/login")
    assert stage.wrong() == []
    with contextlib.suppress(Error):  # some of them the browser throws at whoever did it
        await page.evaluate(f"() => {{ {act} }}")
    await page.wait_for_timeout(200)
    heard = stage.wrong()
    await stage.close()
    assert any(re.search(said, wrong) for wrong in heard), heard
    stage.announce(".")
    assert stage.wrong() == []
