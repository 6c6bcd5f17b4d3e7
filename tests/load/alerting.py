"""How long after a run has failed somebody hears of it, at default settings: `python -m tests.load.alerting`.

Real processes, a real SMTP server and real TLS receivers on loopback. Prints the card and the mail too.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from pathlib import Path

import trustme
from sqlalchemy import select

from opsplane import migrate
from opsplane.alerts import destinations
from opsplane.alerts.channels import targets
from opsplane.alerts.models import Notification
from opsplane.auth.actors import Actor, ActorKind
from opsplane.auth.models import PlatformUser
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.queue import Queue
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.tenants import universe
from tests import receivers, support, web
from tests.conftest import RUNBOOKS
from tests.faults.campaign import quantile
from tests.load import stand
from tests.receivers import MailServer, Receiver

FAILS = "test.effects.fails"
ROOT = Actor.shell("root")
PATIENCE_S = 120.0


@dataclass
class Ears:
    """Everybody who may hear of a run."""

    teams: Receiver
    hook: Receiver
    mail: MailServer

    def heard(self) -> dict[str, dict[str, float]]:
        """For each channel, when which run was heard of first, by the clock of this machine."""
        teams = {_run_in(request.body.decode()): request.at for request in reversed(self.teams.requests)}
        hook = {_run_in(request.body.decode()): request.at for request in reversed(self.hook.requests)}
        mails = zip(self.mail.mails, self.mail.arrived, strict=True)
        mail = {_run_in(_text(one)): at for one, at in reversed(list(mails))}
        return {"Teams": teams, "webhook": hook, "mail": mail}


def _run_in(text: str) -> str:
    return text.split("/system/ops/runs/")[1][:36]


def _text(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    return str(body.get_content())


@contextlib.contextmanager
def ears(folder: Path) -> Iterator[tuple[Ears, dict[str, str]]]:
    """The receivers, and the environment in which opsplane may reach and trusts them."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    with (
        receivers.https(authority) as teams,
        receivers.https(authority) as hook,
        receivers.smtp(authority) as mail,
    ):
        yield (
            Ears(teams, hook, mail),
            {
                "SSL_CERT_FILE": str(folder / "authority.pem"),
                "OPSPLANE_ALERT_PRIVATE_HOSTS": "127.0.0.1",
                "OPSPLANE_SMTP_URL": f"smtp://localhost:{mail.port}",
                "OPSPLANE_MAIL_FROM": "opsplane@ops.example",
            },
        )


@contextlib.asynccontextmanager
async def furnished(settings: Settings, found: Ears) -> AsyncIterator[tuple[Plane, PlatformUser]]:
    """A database with tenants, an operator, and a destination of each kind."""
    await migrate.upgrade(settings)
    registry.load(RUNBOOKS)
    plane = Plane(Database(settings), Queue(settings), settings)
    async with plane.db.transaction() as tx:
        workspace = await universe.workspace_id(tx.session)
        for name in ("acme", "globex", "initech"):
            await universe.add(tx.session, workspace, name)
        connection = await tx.session.connection()
        await connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS effects (tenant_id uuid NOT NULL, n int NOT NULL)")
        for name, target in (
            ("Teams", {"kind": "teams", "url": found.teams.url()}),
            ("Webhook", {"kind": "webhook", "url": found.hook.url()}),
            ("Mail", {"kind": "email", "recipients": ["oncall@ops.example"]}),
        ):
            await destinations.add(tx.session, settings, name, targets.parse(target), by=ROOT)
    yield plane, await web.platform_user(plane, email="olga@ops.example")
    await plane.queue.close()
    await plane.db.close()


async def fail_runs(plane: Plane, olga: PlatformUser, count: int) -> dict[str, datetime]:
    """So many failing runs, one after the other; when each had ended."""
    by, ended = Actor(kind=ActorKind.PLATFORM_USER, display=olga.email, id=olga.id), {}
    for _ in range(count):
        run_id = (await support.start(plane, by, FAILS)).run.id
        while (shown := await support.show(plane, run_id)).completed_at is None:
            await asyncio.sleep(0.1)
        ended[str(run_id)] = shown.completed_at
    return ended


async def waits(plane: Plane, found: Ears, ended: dict[str, datetime]) -> dict[str, list[float]]:
    """Seconds from a run's end until each channel had it, once all have them all; a run nobody told of is infinite."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and any(not ended.keys() <= heard.keys() for heard in found.heard().values()):
        await asyncio.sleep(0.2)
    async with plane.db.reading() as session:
        rung = await session.scalars(select(Notification))
        bell = {str(one.run_id): one.created_at.timestamp() for one in rung}
    return {
        channel: [heard.get(run, float("inf")) - at.timestamp() for run, at in ended.items()]
        for channel, heard in (found.heard() | {"bell": bell}).items()
    }


async def main(count: int) -> bool:
    """Measure, print, and say whether the promise was kept."""
    folder = Path(tempfile.mkdtemp(prefix="opsplane-alerts-"))
    with ears(folder) as (found, environment), stand.servers(folder) as bare:
        os.environ.update(environment)
        settings = Settings(**bare.model_dump(exclude_unset=True))
        async with furnished(settings, found) as (plane, olga):
            serve = stand.opsplane(settings, "serve", "--port", str(stand.free_port()), **environment)
            with serve, stand.opsplane(settings, "worker", **environment):
                ended = await fail_runs(plane, olga, count)
                took = await waits(plane, found, ended)
    return report(found, took)


def report(found: Ears, took: dict[str, list[float]]) -> bool:
    """Print what was measured and what was sent."""
    say(json.dumps(json.loads(found.teams.requests[0].body), indent=2))
    say(found.mail.mails[0].as_string())
    kept = True
    for channel, each in took.items():
        ordered = sorted(each)
        p50, p95 = quantile(ordered, 0.5), quantile(ordered, 0.95)
        kept = kept and p95 <= 30
        say(f"{channel}: {len(each)} failed runs, heard of after p50 {p50:.1f}, p95 {p95:.1f}, max {ordered[-1]:.1f} s")
    sent = {"Teams": len(found.teams.requests), "webhook": len(found.hook.requests), "mail": len(found.mail.mails)}
    say(f"messages: {sent}")
    return kept and set(sent.values()) == {len(each) for each in took.values()}


def say(line: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.load.alerting", description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    promise_kept = asyncio.run(main(parser.parse_args().runs))
    say("kept" if promise_kept else "NOT KEPT")
    sys.exit(0 if promise_kept else 1)
