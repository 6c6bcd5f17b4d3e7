"""The record as people read it: over HTTP, at the shell, and as a role of the database that owns nothing."""

import asyncio
import json
import subprocess
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from opsplane.audit import chain, signing, spool
from opsplane.audit import log as audit
from opsplane.audit.models import AuditEvent
from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.db import new_id
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import web
from tests.unit.test_cli_usage import opsplane
from tests.web import Client, Doors


async def write(plane: Plane, action: str, who: str = "ann@ops.test", **values: Any) -> None:
    async with plane.db.transaction() as tx:
        await audit.record(tx.session, action, by=Actor.shell(who), **{"subject_type": "thing", **values})


@pytest.fixture
async def client(doors: Doors, plane: Plane) -> Client:
    user = await web.platform_user(plane, Capability.SYSTEM_ACCESS, Capability.AUDIT_VIEW)
    return doors.client(
        Authorization=f"Bearer {await web.token(plane, user, 'platform.system.access', 'platform.audit.view')}"
    )


async def actions(client: Client, **query: str) -> list[str]:
    answer = await client.get("/system/audit", params=query)
    assert answer.status_code == 200, answer.text
    return [event["action"] for event in answer.json()["items"]]


async def test_the_record_is_read_newest_first_and_filtered(
    client: Client, plane: Plane, tenants: list[Tenant]
) -> None:
    await write(plane, "a.b.one", subject_id="1", tenant_id=tenants[0].id)
    await write(plane, "a.b.two", "bob 100%", subject_type="other")
    await write(plane, "a.bc")
    assert await actions(client) == ["a.bc", "a.b.two", "a.b.one"]
    assert await actions(client, action="a.b.one") == ["a.b.one"]
    assert await actions(client, action="a.b.") == ["a.b.two", "a.b.one"]
    assert await actions(client, actor="BOB 100%") == ["a.b.two"]
    assert await actions(client, actor="%") == ["a.b.two"], "a wildcard is a letter like any other"
    assert await actions(client, subject_type="thing", subject_id="1") == ["a.b.one"]
    assert await actions(client, tenant_id=str(tenants[0].id)) == ["a.b.one"]
    assert await actions(client, break_glass="true") == []
    assert await actions(client, since="2999-01-01T00:00:00Z") == []
    assert await actions(client, until="2999-01-01T00:00:00+02:00", limit="1") == ["a.bc"]


async def test_every_event_is_on_one_page_also_while_others_come(client: Client, plane: Plane) -> None:
    for number in range(7):
        await write(plane, f"n.{number}")
    pages: list[str] = []
    query = {"limit": "2"}
    while True:
        page = (await client.get("/system/audit", params=query)).json()
        pages += [event["action"] for event in page["items"]]
        await write(plane, "later")
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert pages == [f"n.{number}" for number in reversed(range(7))]
    assert (await client.get("/system/audit", params={"cursor": "bm9uc2Vuc2U"})).json()["code"] == "invalid_input"


async def test_an_event_shows_its_place_in_the_chain_once_it_is_sealed(client: Client, plane: Plane) -> None:
    await write(plane, "one")
    assert (await client.get("/system/audit")).json()["items"][0]["seq"] is None
    async with plane.db.transaction() as tx:
        await chain.seal(tx, plane.settings)
    assert (await client.get("/system/audit")).json()["items"][0]["seq"] == 1


async def at_a_shell(plane: Plane, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = plane.settings
    assert settings.secret_key is not None
    environment = {
        "OPSPLANE_DATABASE_URL": settings.database_url or "",
        "OPSPLANE_REDIS_URL": settings.redis_url or "",
        "OPSPLANE_SECRET_KEY": settings.secret_key.get_secret_value(),
        "OPSPLANE_HOME": str(settings.home),
    }
    return await asyncio.to_thread(partial(opsplane, "audit", *arguments, environment=environment))


async def test_verify_at_a_shell_names_the_first_broken_event(plane: Plane) -> None:
    for number in range(5):
        await write(plane, f"n.{number}")
    async with plane.db.transaction() as tx:
        await chain.seal(tx, plane.settings)
    whole = await at_a_shell(plane, "verify", "--json")
    assert whole.returncode == 0, whole.stderr
    seen = json.loads(whole.stdout)
    assert (seen["intact"], seen["sealed"], seen["first_broken"]) == (True, 5, None)
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("SET LOCAL session_replication_role = replica"))
        await tx.session.execute(text("UPDATE audit_events SET actor_display = 'eve' WHERE action IN ('n.2', 'n.3')"))
    broken = await at_a_shell(plane, "verify", "--anchor", seen["anchor"])
    assert broken.returncode == 1
    assert broken.stdout.startswith("BROKEN: 2. The first is number 3 of the chain, event ")
    assert (await at_a_shell(plane, "verify", "--anchor", "7")).returncode == 2


async def test_export_writes_every_event_with_its_seal_to_a_new_file(plane: Plane, tmp_path: Path) -> None:
    for number in range(3):
        await write(plane, f"n.{number}", details={"n": number})
    async with plane.db.transaction() as tx:
        await chain.seal(tx, plane.settings)
    target = tmp_path / "audit.jsonl"
    assert (await at_a_shell(plane, "export", "--output", str(target))).returncode == 0
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(line["seq"], line["action"], line["details"]) for line in lines] == [
        (n, f"n.{n - 1}", {"n": n - 1}) for n in (1, 2, 3)
    ]
    assert all(len(line["hmac"]) == 64 for line in lines)
    again = await at_a_shell(plane, "export", "--output", str(target))
    assert again.returncode == 2
    assert "there already" in again.stderr


async def test_a_role_that_owns_nothing_works_and_cannot_touch_the_record(plane: Plane) -> None:
    role = f"app_{new_id().hex}"
    async with plane.db.transaction() as tx:
        await tx.session.execute(text(f"CREATE ROLE {role}"))
        await tx.session.execute(text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"))
    try:
        async with plane.db.transaction() as tx:
            await tx.session.execute(text(f"SET LOCAL ROLE {role}"))
            await audit.record(tx.session, "as.role", by=Actor.shell("x"), subject_type="thing")
            await chain.seal(tx, plane.settings)
        for act in (
            "UPDATE audit_events SET action = 'x'",
            "DELETE FROM audit_seals",
            "TRUNCATE audit_events",
            "ALTER TABLE audit_events DISABLE TRIGGER only_grows",
            "DROP TRIGGER only_grows ON audit_events",
            "SET session_replication_role = replica",
        ):
            with pytest.raises(DBAPIError, match=r"only grows|permission denied|must be owner"):
                async with plane.db.transaction() as tx:
                    await tx.session.execute(text(f"SET LOCAL ROLE {role}"))
                    await tx.session.execute(text(act))
    finally:
        async with plane.db.transaction() as tx:
            await tx.session.execute(text(f"DROP OWNED BY {role}"))
            await tx.session.execute(text(f"DROP ROLE {role}"))


async def test_a_command_brings_back_what_an_earlier_one_had_to_spool(plane: Plane) -> None:
    """The host of a deploy hook may have no other process of opsplane."""
    line = {"event": _event(), "xid": None, "occurred_at": datetime.now(UTC).isoformat()}
    await spool.append(plane.settings, signing.spooled(plane.settings, line))
    done = await at_a_shell(plane, "verify", "--json")
    assert (done.returncode, json.loads(done.stdout)["waiting"]) == (0, 1), done.stderr
    assert not spool.holds_any(plane.settings)


def _event() -> dict[str, Any]:
    nothing = dict.fromkeys(column.name for column in AuditEvent.__table__.columns)
    del nothing["signature"], nothing["occurred_at"]
    facts = {"action": "a", "plane": "system", "actor_kind": "system", "actor_display": "x", "subject_type": "t"}
    return nothing | facts | {"id": new_id(), "details": {}}
