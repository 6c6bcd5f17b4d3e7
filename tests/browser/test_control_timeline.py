# ruff: noqa: RUF001 - the pages write dashes as dashes
"""What a run's page remembers and shows of what was asked, by whomever, and what became of it."""

import asyncio
import re

import pytest
from playwright.async_api import expect

from opsplane.auth.actors import Actor
from opsplane.runbooks import control
from opsplane.runbooks.service import Plane, Source
from opsplane.runs.control import Ask
from opsplane.tenants.models import Tenant
from tests import support
from tests.browser.run_page import (
    OLGA,
    OMAR,
    RIPE_S,
    TRANSIENT,
    bar,
    begun,
    button,
    ended,
    status,
    steps,
)
from tests.browser.stage import RUNBOOKS, RUNS, SLOW, Stage, card
from tests.browser.test_journeys import why


async def test_what_another_operator_asks_appears_with_their_name(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = await begun(plane, operator)
    hers = await stage.page(f"{RUNS}/{run}", await stage.operator())
    his = await stage.page(f"{RUNS}/{run}", await stage.operator(email=OMAR))
    await button(hers, "Pause").focus()
    await button(his, "Pause").click()
    await expect(status(hers)).to_have_text("Paused")
    await expect(button(hers, "Resume")).to_be_focused()
    await expect(hers.locator("#asked")).to_contain_text(f"Pause asked by {OMAR}")
    await expect(hers.locator("#live")).to_have_text(f"Now paused, asked by {OMAR}")
    await expect(hers.locator("#toasts")).to_be_empty()
    await asyncio.sleep(RIPE_S)
    await button(hers, "Resume").click()
    await expect(status(his)).to_have_text("Running")
    await expect(steps(his)).to_have_text(
        ["Queued", "by tester", "Started", "Pause asked", f"by {OMAR}", "Paused", "Resumed", f"by {OLGA}"]
    )


async def test_a_tenant_that_waits_for_another_try_says_why_and_when(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = (await support.start(plane, operator, TRANSIENT)).run
    page = await stage.page(f"{RUNS}/{run.id}", await stage.operator())
    await support.drain(plane, run.id)
    trouble = page.locator("#items tbody tr", has_text="globex").locator("[data-field=failure]")
    said = re.compile(r"^try_again: not yet\. Failed once, to be tried again at \d\d:\d\d:\d\d · ")
    await expect(trouble).to_have_text(said)
    await page.reload()
    await expect(trouble).to_have_text(said)


async def test_a_paused_run_is_named_as_what_keeps_a_runbook_from_its_scope(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = await begun(plane, operator, SLOW)
    await control.ask(plane, run, Ask.PAUSE, by=operator)
    page = await stage.page(RUNBOOKS, await stage.operator())
    await expect(why(card(page, SLOW))).to_have_text("Locked by a paused run – view run")
    await why(card(page, SLOW)).get_by_role("link", name="view run").click()
    await expect(page).to_have_url(f"{stage.base_url}{RUNS}/{run}")
    await expect(status(page)).to_have_text("Paused")


async def test_the_timeline_remembers_everything_that_was_asked_live_and_after_a_reload(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = await begun(plane, operator, held=True)
    page = await stage.page(f"{RUNS}/{run}", olga := await stage.operator())
    for what in (Ask.PAUSE, Ask.RESUME, Ask.PAUSE, Ask.RESUME, Ask.CANCEL):
        await control.ask(plane, run, what, by=Actor.shell("omar"))
    asks = ["Pause asked", "Resumed", "Pause asked", "Resumed", "Cancel asked"]
    said = ["Queued", "by tester", "Started", *(part for one in asks for part in (one, "by omar"))]
    await expect(steps(page)).to_have_text(said)
    await page.reload()
    await expect(steps(page)).to_have_text(said)
    as_sent = await stage.page(f"{RUNS}/{run}", olga, java_script_enabled=False)
    await expect(steps(as_sent)).to_have_text(said)


async def test_a_run_names_the_retry_of_its_failed_tenants_and_how_it_ends(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    old = await ended(plane, operator)
    page = await stage.page(f"{RUNS}/{old}", await stage.operator())
    retried = page.locator(".retried")
    await expect(retried).to_be_hidden()
    again = (await control.retry_failed(plane, old, by=operator, source=Source.CLI)).run
    await expect(retried).to_have_text(f"Retry of its failed tenants: run {again.id} Running")
    await expect(button(page, "Retry 1 failed tenant…")).to_be_hidden()
    await support.drain(plane, again.id)
    await expect(retried).to_have_text(f"Retry of its failed tenants: run {again.id} Failed")
    await expect(button(page, "Retry 1 failed tenant…")).to_be_visible()
    assert await bar(page) == pytest.approx(100 / 120, abs=0.001)
    await page.reload()
    assert await bar(page) == pytest.approx(100 / 120, abs=0.001)
    await expect(page.locator(".facts [data-retried]")).to_have_text(re.compile(rf"run {again.id}\s+Failed"))
    await retried.get_by_role("link").click()
    await expect(page).to_have_url(f"{stage.base_url}{RUNS}/{again.id}")
    await expect(page.locator(".head")).to_contain_text("Retry of failed tenants")
    await page.goto(RUNS)
    await expect(page.locator(f'tr[data-id="{again.id}"]')).to_contain_text("Retry of failed tenants")
    await expect(page.locator(f'tr[data-id="{old}"]')).to_contain_text("All tenants")
