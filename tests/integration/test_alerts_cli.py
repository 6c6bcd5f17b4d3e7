"""`opsplane alerts …`: what each command does, says and refuses."""

import asyncio
import json
import os
import pty
import re
import shlex
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from select import poll
from typing import Any

import pytest
import trustme
from sqlalchemy import func, insert, select, update
from typer.testing import CliRunner, Result

from opsplane import doctor, logs, outbox
from opsplane.alerts import destinations, rules
from opsplane.alerts.models import AlertDelivery, AlertDestination, AlertRule, DeliveryStatus
from opsplane.alerts.rules import RuleOut
from opsplane.audit.models import AuditEvent
from opsplane.auth import users
from opsplane.cli.main import app
from opsplane.db import new_id
from opsplane.outbox import Kind, OutboxEvent, Severity
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import receivers, support
from tests.receivers import MailServer

FIRST_RULE = "Everything that needs somebody"
TEAMS = "https://prod.westeurope.logic.azure.example:443/workflows/s3cret?sig=t0ken"
HOOK = "https://hooks.example/s3cret"
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
RUN = {"type": "findings.backfill", "type_label": "Backfill", "scope_kind": "all_tenants", "tenant": None}


@dataclass(frozen=True)
class Shell:
    """Runs commands in this process, as somebody at a shell whose standard input is no terminal."""

    environment: dict[str, str]

    async def __call__(self, line: str, typed: str = "", **environment: str) -> Result:
        arguments = ["alerts", *shlex.split(line)]
        return await asyncio.to_thread(
            CliRunner().invoke, app, arguments, input=typed, env=self.environment | environment
        )

    async def done(self, line: str, typed: str = "", **environment: str) -> str:
        result = await self(line, typed, **environment)
        assert result.exit_code == 0, result.output
        return result.output

    async def json(self, line: str, typed: str = "", **environment: str) -> Any:
        result = await self(f"{line} --json", typed, **environment)
        return json.loads(result.stdout)


@pytest.fixture
def shell(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr(logs, "configure", lambda _settings: None)  # the logs of the tests stay as they are
    settings = plane.settings
    assert settings.secret_key is not None
    return Shell({
        "OPSPLANE_DATABASE_URL": settings.database_url or "",
        "OPSPLANE_REDIS_URL": settings.redis_url or "",
        "OPSPLANE_HOME": str(settings.home),
        "OPSPLANE_SECRET_KEY": settings.secret_key.get_secret_value(),
        "OPSPLANE_BASE_URL": settings.base_url,
    })  # fmt: skip


@pytest.fixture(autouse=True)
async def _rules_as_they_come(plane: Plane) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(AlertRule).values(enabled=True))


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def mail(authority: trustme.CA) -> Iterator[MailServer]:
    with receivers.smtp(authority, tls="none") as server:
        yield server


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def through(port: int) -> dict[str, str]:
    return {"OPSPLANE_SMTP_URL": f"smtp+plain://127.0.0.1:{port}", "OPSPLANE_MAIL_FROM": "alerts@ops.example"}


async def kept(plane: Plane) -> list[AlertDestination]:
    async with plane.db.reading() as session:
        return await destinations.every(session)


async def rule(plane: Plane, name: str) -> RuleOut:
    async with plane.db.reading() as session:
        return next(one for one in await rules.every(session) if one.name == name)


async def delivery(plane: Plane, name: str, status: str, **values: Any) -> uuid.UUID:
    """A delivery of a failed run to the destination."""
    place = next(one for one in await kept(plane) if one.name == name)
    async with plane.db.transaction() as tx:
        await outbox.emit(tx.session, Kind.RUN_FAILED, about := uuid.uuid4(), Severity.WARNING, RUN)
        event = await tx.session.scalar(select(OutboxEvent.id).where(OutboxEvent.dedupe_key.startswith(str(about))))
        row = {
            "id": new_id(), "event_id": event, "destination_id": place.id, "destination_name": place.name,
            "rule_id": new_id(), "cooldown_key": "", "status": status, "give_up_at": func.clock_timestamp(), **values,
        }  # fmt: skip
        await tx.session.execute(insert(AlertDelivery).values(row))
        return uuid.UUID(str(row["id"]))


async def audited(plane: Plane) -> list[str]:
    async with plane.db.reading() as session:
        found = await session.scalars(select(AuditEvent.action).order_by(AuditEvent.id))
        return [action.removeprefix("platform.alerts.") for action in found]


def assert_one_line(result: Result, code: int, saying: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: "), result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert saying in result.stderr
    assert not result.stdout
    assert "s3cret" not in result.output


async def test_without_a_destination_every_list_says_what_to_do_next(shell: Shell) -> None:
    assert "nobody is told of anything: opsplane alerts destinations add teams" in await shell.done("destinations list")
    assert "opsplane alerts destinations test NAME" in await shell.done("deliveries list")
    assert FIRST_RULE in await shell.done("rules list")
    assert_one_line(await shell("destinations test ops"), 2, "there is none yet; add one: opsplane alerts destinations")


async def test_a_url_is_piped_in_and_never_shown_again(plane: Plane, shell: Shell) -> None:
    said = await shell.done("destinations add teams 'the team' --url-stdin", f" {TEAMS} \n")
    assert f"by the rules for every destination: {FIRST_RULE}." in said
    assert "Next, see whether it arrives: opsplane alerts destinations test 'the team'" in said
    listed = await shell.done("destinations list") + str(await shell.json("destinations list"))
    assert "https://prod.westeurope.logic.azure.example" in listed
    assert "s3cret" not in said + listed
    assert "t0ken" not in said + listed
    assert await audited(plane) == ["destination_added"]


async def test_a_destination_that_no_rule_sends_to_is_said_to_get_nothing(plane: Plane, shell: Shell) -> None:
    await shell.done(f"rules change '{FIRST_RULE}' --disable")
    said = await shell.done("destinations add teams ops --url-stdin", TEAMS)
    assert "No rule sends anything there yet: opsplane alerts rules add RULE --to ops" in said


async def test_the_secret_that_is_made_for_a_webhook_is_printed_once_and_alone(shell: Shell) -> None:
    added = await shell("destinations add webhook hook --url-stdin", HOOK)
    assert re.fullmatch(r"whsec_[\w+/]+=*\n", added.stdout)
    renamed = await shell("destinations change hook --rename hook2")
    assert (renamed.exit_code, renamed.stdout) == (0, "")
    moved = await shell("destinations change hook2 --new-url --url-stdin", HOOK)
    assert re.fullmatch(r"whsec_[\w+/]+=*\n", moved.stdout)
    assert moved.stdout != added.stdout
    assert "the one it has signs nothing any more" in moved.stderr


async def test_a_webhook_keeps_the_secret_that_is_given_with_its_url(shell: Shell) -> None:
    added = await shell.json("destinations add webhook hook --url-stdin", f"{HOOK}\n{SECRET}\n")
    assert added["secret"] is None
    assert SECRET not in await shell.done("destinations change hook --url-stdin", f"{HOOK}\n{SECRET}\n")


REFUSED = [
    ("destinations add teams ops {url}", "", 2, "The URL is a secret, and shells keep what is typed"),
    ("destinations add teams {url}", "", 2, "NAME is what people call it"),
    ("destinations add teams ' ' --url-stdin", TEAMS, 2, "NAME: String should have at least 1 character"),
    ("destinations add teams ops", "", 2, "elsewhere pipe it in and add --url-stdin"),
    ("destinations add teams ops --url-stdin", "", 2, "Standard input has no URL"),
    ("destinations add teams ops --url-stdin", "http://x.example/s3cret", 2, "The URL must start with https://"),
    ("destinations add webhook ops --url-stdin", "https://127.0.0.1/s3cret", 2, "OPSPLANE_ALERT_PRIVATE_HOSTS"),
    ("destinations add webhook ops --url-stdin", f"{HOOK}\nwhsec_s3cret", 2, "The secret must be whsec_"),
    ("destinations add service ops --url-stdin", "ftp://s3cret", 2, "must start with one of slack://"),
    ("destinations add email ops --to nobody", "", 2, "--to: A recipient is not a plain address"),
    ("destinations add email ops --to a@x.example", "", 2, "set OPSPLANE_SMTP_URL and OPSPLANE_MAIL_FROM first"),
    ("destinations add teams Team --url-stdin", TEAMS, 3, "one named 'Team' already"),
    ("destinations change Team", "", 2, "Say what to change"),
    ("destinations change Team {url}", "", 2, "The URL is a secret"),
    ("destinations change Team --rename {url}", "", 2, "--rename is what people call it"),
    ("destinations change Team --to a@x.example", "", 2, "--to is for mail, and 'Team' (Microsoft Teams"),
    ("destinations change team --disable", "", 2, "There is no destination 'team'; there are 'Hook' and 'Team'."),
    ("destinations remove Team", "", 2, "There is nobody to ask; add --yes"),
    ("destinations test Team --as nobody@x.example", "", 2, "nobody@x.example"),
    ("rules add new --event failed", "", 2, "--event: there is no 'failed'; there are operations.run.failed"),
    ("rules add new --runbook nope", "", 2, "There is no runbook 'nope'"),
    ("rules add new --tenant nope", "", 3, "pick one from `opsplane tenants list`"),
    ("rules add new --to nope", "", 2, "There is no destination 'nope'; there are 'Hook' and 'Team'."),
    ("rules add new --cooldown 30", "", 2, "--cooldown: '30' is no time; write one like 30m, 2h or 0"),
    ("rules add new --cooldown 8d", "", 2, "--cooldown is a week at most"),
    ("rules add new --quiet 22", "", 2, "--quiet is from when until when, such as 22:00-07:00"),
    ("rules add new --quiet 22:00-22:00", "", 2, "--quiet, --zone: quiet hours must end at another time"),
    ("rules add new --quiet 22:00-07:00 --zone Berlin", "", 2, "--quiet, --zone: 'Berlin' is no time zone"),
    ("rules add new --zone Europe/Berlin", "", 2, "give them too, such as --quiet 22:00-07:00"),
    (f"rules add '{FIRST_RULE}'", "", 3, "already; pick another name"),
    ("rules change first --disable", "", 2, f"There is no rule 'first'; there are '{FIRST_RULE}'."),
    (f"rules change '{FIRST_RULE}'", "", 2, "Say what to change"),
    (f"rules change '{FIRST_RULE}' --no-quiet --quiet 22:00-07:00", "", 2, "--quiet is given and taken back at once"),
    (f"rules remove '{FIRST_RULE}'", "", 2, "There is nobody to ask; add --yes"),
    ("deliveries list --to nope", "", 2, "There is no destination 'nope'"),
    (f"deliveries resend {uuid.UUID(int=0)}", "", 2, "There is no such delivery; they are kept for 90 days"),
]


async def test_a_refused_command_says_in_one_line_what_is_wrong_and_changes_nothing(plane: Plane, shell: Shell) -> None:
    await shell.done("destinations add teams Team --url-stdin", TEAMS)
    await shell.done("destinations add webhook Hook --url-stdin", HOOK)
    before = await audited(plane)
    for line, typed, code, saying in REFUSED:
        assert_one_line(await shell(line.format(url=TEAMS), typed), code, saying)
    assert await audited(plane) == before


@pytest.mark.parametrize(
    ("line", "saying"),
    [
        ("destinations add email ops", "--to"),
        ("destinations add teams", "NAME"),
        ("destinations add teams ops --url https://s3cret.example", "--url-stdin"),
        ("rules add x --min-severity high", "critical"),
        ("rules add x --scope some", "single_tenant"),
        ("deliveries list --status lost", "suppressed"),
        ("deliveries resend 12", "UUID"),
    ],
)
async def test_a_wrong_option_is_a_usage_error_that_names_what_can_be_typed(
    shell: Shell, line: str, saying: str
) -> None:
    result = await shell(line)
    assert result.exit_code == 2
    assert saying in result.stderr
    assert "s3cret" not in result.output


@pytest.mark.parametrize("line", ["destinations test Team", "rules add x", f"deliveries resend {uuid.UUID(int=0)}"])
async def test_who_may_not_manage_alerts_is_told_which_capability_is_missing(
    plane: Plane, shell: Shell, line: str
) -> None:
    async with plane.db.transaction() as tx:
        await users.create(tx.session, "ann@ops.example", name=None)
    assert_one_line(await shell(f"{line} --as ann@ops.example"), 3, "platform.alerts.manage")
    assert await audited(plane) == []


async def test_what_somebody_does_is_on_record_in_their_name(plane: Plane, shell: Shell) -> None:
    async with plane.db.transaction() as tx:
        ann = await users.create(tx.session, "ann@ops.example", name=None)
        await users.grant(tx.session, ann, frozenset({"platform.alerts.manage"}))
    await shell.done("rules add x --as ann@ops.example")
    async with plane.db.reading() as session:
        event = (await session.scalars(select(AuditEvent))).one()
    assert (event.actor_id, event.action) == (ann.id, "platform.alerts.rule_added")


async def test_a_test_message_that_arrives_says_how_long_it_took(plane: Plane, shell: Shell, mail: MailServer) -> None:
    await shell.done("destinations add email people --to a@x.example --to b@x.example", **through(mail.port))
    assert re.fullmatch(
        r"Delivered in \d\.\d s\.\n", await shell.done("destinations test people", **through(mail.port))
    )
    assert (await shell.json("destinations test people", **through(mail.port)))["delivered"] is True
    assert mail.recipients == ["a@x.example", "b@x.example"] * 2
    await shell.done("destinations change people --to c@x.example", **through(mail.port))
    await shell.done(f"destinations test {(await kept(plane))[0].id}", **through(mail.port))
    assert mail.recipients[-1] == "c@x.example"


async def test_a_test_message_that_does_not_arrive_says_why_and_what_to_do(shell: Shell, mail: MailServer) -> None:
    await shell.done("destinations add email people --to a@x.example", **through(mail.port))
    away = through(free_port())
    assert_one_line(await shell("destinations test people", **away), 1, "could not be reached")
    assert_one_line(await shell("destinations test people", **away), 1, "Check OPSPLANE_SMTP_URL")
    assert_one_line(await shell("destinations test people"), 1, "set OPSPLANE_SMTP_URL and OPSPLANE_MAIL_FROM first")
    failed = await shell("destinations test people --json", **away)
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["delivered"] is False


async def test_a_webhook_that_answers_has_got_the_test_message(
    shell: Shell, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receivers.trust(authority, tmp_path, monkeypatch)
    allowed = {"OPSPLANE_ALERT_PRIVATE_HOSTS": "127.0.0.1"}
    with receivers.https(authority) as receiver:
        await shell.done("destinations add webhook hook --url-stdin", receiver.url(), **allowed)
        assert "Delivered in" in await shell.done("destinations test hook", **allowed)
        receiver.answer = receivers.answers(500)
        assert_one_line(
            await shell("destinations test hook", **allowed),
            1,
            "answered 500 Internal Server Error. Check the receiver",
        )
    assert len(receiver.requests) == 2


async def test_a_destination_is_renamed_switched_off_and_on(plane: Plane, shell: Shell) -> None:
    await shell.done("destinations add teams ops --url-stdin", TEAMS)
    said = await shell.done("destinations change ops --rename night --disable")
    assert "'night'" in said
    assert "given up after a day" in said
    assert [(one.name, one.enabled) for one in await kept(plane)] == [("night", False)]
    assert (await shell.json("destinations change night --enable"))["enabled"] is True


async def test_removing_a_destination_switches_off_what_named_it_alone_and_says_so(plane: Plane, shell: Shell) -> None:
    for name in ("ops", "other"):
        await shell.done(f"destinations add teams {name} --url-stdin", TEAMS)
    await shell.done("rules add alone --to ops")
    await shell.done("rules add both --to ops --to other")
    said = await shell.done("destinations remove ops --yes")
    assert "These rules name it alone and are switched off: alone." in said
    assert [one.name for one in await kept(plane)] == ["other"]
    assert [(await rule(plane, name)).enabled for name in ("alone", "both")] == [False, True]
    refused = await shell("rules change alone --enable")
    assert_one_line(refused, 2, "Where 'alone' sends was deleted; add --to NAME, or --every-destination.")
    assert "→ other" in await shell.done("rules change alone --enable --to other")


async def test_a_rule_is_read_back_in_words(plane: Plane, shell: Shell, tenants: list[Tenant]) -> None:
    for name in ("ops", "mail"):
        await shell.done(f"destinations add teams {name} --url-stdin", TEAMS)
    said = await shell.done(
        "rules add Night --event operations.run.failed --event run.stalled --min-severity warning "
        f"--runbook {support.BACKFILL} --scope single_tenant --tenant acme --tenant {tenants[1].id} "
        "--to ops --to mail --cooldown 90m --quiet 22:00-07:00 --zone Europe/Berlin"
    )
    words = (
        "Failed and stalled runs of findings.lifecycle.backfill over a single tenant of the "
        "tenants acme and globex, warnings and above → ops, mail; the same news once in 90 minutes; held from 22:00 until 07:00 Europe/Berlin"
    )
    assert f"Added 'Night': {words}." in said
    assert words in " ".join((await shell.done("rules list")).split())
    made = await rule(plane, "Night")
    assert (made.tenants, made.cooldown_s, made.min_severity) == (["acme", "globex"], 5400, "warning")


async def test_changing_a_rule_leaves_the_rest_of_it(plane: Plane, shell: Shell) -> None:
    await shell.done("rules add r --cooldown 2h --quiet 22:00-07:00 --zone Europe/Berlin --event run.stalled --disable")
    before = (await rule(plane, "r")).model_dump()
    await shell.done("rules change r --quiet 23:00-06:00")
    hours = {"start": "23:00", "until": "06:00", "zone": "Europe/Berlin"}
    assert (await rule(plane, "r")).model_dump() == before | {"quiet_hours": hours}
    await shell.done("rules change r --zone UTC --rename s")
    after = before | {"quiet_hours": hours | {"zone": "UTC"}, "name": "s"}
    assert (await rule(plane, "s")).model_dump() == after
    await shell.done("rules change s --no-quiet --cooldown 0 --enable")
    assert (await rule(plane, "s")).model_dump() == after | {"quiet_hours": None, "cooldown_s": 0, "enabled": True}


async def test_filters_of_a_rule_are_taken_away_one_by_one(plane: Plane, shell: Shell, tenants: list[Tenant]) -> None:
    await shell.done("destinations add teams ops --url-stdin", TEAMS)
    await shell.done(f"rules add r --runbook {support.BACKFILL} --scope single_tenant --tenant acme --to ops")
    for option, field, empty in (
        ("--every-runbook", "runbooks", []),
        ("--every-scope", "scope", None),
        ("--every-tenant", "tenants", []),
        ("--every-destination", "destination_ids", []),
    ):
        before = (await rule(plane, "r")).model_dump()
        await shell.done(f"rules change r {option}")
        assert before[field]
        assert (await rule(plane, "r")).model_dump() == before | {field: empty}


async def test_a_rule_that_lets_nothing_through_says_so(shell: Shell, tenants: list[Tenant]) -> None:
    for options in ("--event break_glass.started --tenant acme", "--scope all_tenants --tenant acme"):
        assert "Nothing: no event can pass all of its filters" in await shell.done(
            f"rules add {uuid.uuid4()} {options}"
        )


async def test_the_last_rule_that_goes_is_missed(plane: Plane, shell: Shell) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(AlertRule).values(enabled=False))
    await shell.done("rules add last")
    assert "No rule is left that sends anything" in await shell.done("rules remove last --yes")


async def test_deliveries_are_listed_by_status_and_destination(plane: Plane, shell: Shell) -> None:
    for name in ("ops", "mail"):
        await shell.done(f"destinations add teams {name} --url-stdin", TEAMS)
    dead = await delivery(plane, "ops", "dead", last_error="500 [bold]", attempts=7)
    await delivery(plane, "mail", "delivered")
    assert [one["id"] for one in await shell.json("deliveries list --status dead")] == [str(dead)]
    assert [one["destination"] for one in await shell.json("deliveries list --to mail")] == ["mail"]
    assert len(await shell.json("deliveries list --limit 1")) == 1
    listed = await shell.done("deliveries list --to ops")
    assert "Backfill failed" in listed
    assert "500 [bold]" in listed
    assert "opsplane alerts deliveries resend ID" in listed
    assert "leave out an option" in await shell.done("deliveries list --status held")


async def test_a_dead_delivery_is_sent_again_and_one_that_arrived_is_not(plane: Plane, shell: Shell) -> None:
    await shell.done("destinations add teams ops --url-stdin", TEAMS)
    dead, arrived = await delivery(plane, "ops", "dead"), await delivery(plane, "ops", "delivered")
    said = await shell.done(f"deliveries resend {dead}")
    assert "Backfill failed is on its way to ops" in said
    assert await support.count(plane, AlertDelivery, AlertDelivery.status == DeliveryStatus.PENDING) == 1
    assert_one_line(await shell(f"deliveries resend {arrived}"), 3, "This delivery is delivered")


async def test_sending_again_to_what_is_switched_off_says_that_it_is(plane: Plane, shell: Shell) -> None:
    await shell.done("destinations add teams ops --url-stdin", TEAMS)
    await shell.done("destinations change ops --disable")
    said = await shell.done(f"deliveries resend {await delivery(plane, 'ops', 'dead')}")
    assert "But ops is switched off: opsplane alerts destinations change ops --enable" in said


async def looked_at(plane: Plane, name: str, **settings: str) -> tuple[bool, str]:
    found = await doctor._checked(
        name, doctor.CHECKS[name], Plane(plane.db, plane.queue, plane.settings.model_copy(update=settings))
    )
    return found.ok, found.detail


async def test_the_doctor_says_who_is_told_and_where_alerts_do_not_arrive(plane: Plane, shell: Shell) -> None:
    ok, detail = await looked_at(plane, "alerts")
    assert ok
    assert "nobody is told when a run fails; opsplane alerts destinations add teams NAME" in detail
    await shell.done("destinations add teams ops --url-stdin", TEAMS)
    assert await looked_at(plane, "alerts") == (True, "failed runs go to ops")
    await delivery(plane, "ops", "dead")
    await delivery(plane, "ops", "pending", last_error="500")
    ok, detail = await looked_at(plane, "alerts")
    assert not ok
    assert "ops: 1 given up, 1 tried in vain, and tried again (500). See `opsplane alerts deliveries list`" in detail


async def test_the_doctor_names_no_destination_that_no_rule_sends_failed_runs_to(plane: Plane, shell: Shell) -> None:
    await shell.done("destinations add teams ops --url-stdin", TEAMS)
    await shell.done("destinations add teams other --url-stdin", TEAMS)
    await shell.done(f"rules change '{FIRST_RULE}' --to ops")
    assert await looked_at(plane, "alerts") == (True, "failed runs go to ops")
    await shell.done(f"rules change '{FIRST_RULE}' --disable")
    assert "no rule sends failed runs anywhere" in (await looked_at(plane, "alerts"))[1]


async def test_the_doctor_forgets_what_was_given_up_before_a_destination_worked_again(
    plane: Plane, shell: Shell
) -> None:
    await shell.done("destinations add teams ops --url-stdin", TEAMS)
    await delivery(plane, "ops", "dead")
    await delivery(plane, "ops", "delivered", delivered_at=func.clock_timestamp())
    assert await looked_at(plane, "alerts") == (True, "failed runs go to ops")


async def test_the_doctor_says_whether_the_mail_server_can_be_reached(plane: Plane, mail: MailServer) -> None:
    assert (await looked_at(plane, "mail"))[0]
    for url, reached in ((f"smtp+plain://127.0.0.1:{mail.port}", True), (f"smtp://127.0.0.1:{free_port()}", False)):
        ok, detail = await looked_at(plane, "mail", smtp_url=url)
        assert ok is reached
        assert ("check host and port in OPSPLANE_SMTP_URL" in detail) is not reached


async def test_on_a_terminal_the_url_is_asked_for_and_not_echoed(plane: Plane, shell: Shell) -> None:
    said, code = await asyncio.to_thread(
        at_a_terminal, "destinations add webhook hook", [("URL", HOOK), ("Secret", "")], shell.environment
    )
    assert code == 0, said
    assert "s3cret" not in said
    assert "whsec_" in said.rpartition("shown once:")[2]
    said, code = await asyncio.to_thread(
        at_a_terminal, "destinations remove hook", [("Delete", "n")], shell.environment
    )
    assert (code, len(await kept(plane))) == (1, 1)
    assert "Nothing was deleted." in said
    said, code = await asyncio.to_thread(
        at_a_terminal, "destinations remove hook", [("Delete", "y")], shell.environment
    )
    assert (code, await kept(plane)) == (0, [])


def at_a_terminal(line: str, answers: list[tuple[str, str]], environment: dict[str, str]) -> tuple[str, int]:
    """Run a command on a terminal and answer its questions; what was on the screen, and the exit code."""
    ours, theirs = pty.openpty()
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.Popen(
        [sys.executable, "-m", "opsplane.cli.main", "alerts", *shlex.split(line)],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, **environment, "PYTHONPATH": path, "NO_COLOR": "1"},
    )  # fmt: skip
    os.close(theirs)
    screen = ""
    for question, answer in answers:
        screen += read_until(ours, question)
        os.write(ours, f"{answer}\n".encode())
    screen += read_until(ours, None)
    os.close(ours)
    return screen, process.wait(timeout=60)


def has_more(terminal: int) -> bool:
    waiting = poll()
    waiting.register(terminal)
    return bool(waiting.poll(200))


def read_until(terminal: int, question: str | None) -> str:
    """What is on the screen until the question waits for its answer, or until the end."""
    seen, deadline = "", time.monotonic() + 60
    while time.monotonic() < deadline:
        if question is not None and re.search(rf"{question}.*[:\]] $|{question}.*\]: $", seen, re.DOTALL):
            break
        if has_more(terminal):
            try:
                seen += os.read(terminal, 4096).decode()
            except OSError:  # Linux says so that nobody holds the other end any more
                break
    return seen
