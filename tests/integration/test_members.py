"""Tenant users and their memberships: what a role shows, what is refused, what the commands do and record."""

import asyncio
import itertools
import json
import uuid
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from opsplane.audit.models import AuditEvent
from opsplane.auth import members
from opsplane.auth.members import Member, NothingHere, RoleTooWeak
from opsplane.auth.models import Membership, TenantUser
from opsplane.auth.roles import Role, TenantCapability
from opsplane.config import Settings
from opsplane.errors import Conflict, InvalidInput, NotFound
from opsplane.runbooks.service import Plane
from opsplane.runs import types
from opsplane.runs.types import OperationType
from opsplane.tenants import universe
from opsplane.tenants.models import PLATFORM_TENANT, Tenant
from tests import support
from tests.unit import test_cli_usage

VIEW, RESTRICTED = TenantCapability.OPERATIONS_VIEW, TenantCapability.OPERATIONS_RESTRICTED


async def user(plane: Plane, email: str = "ana@acme.test") -> TenantUser:
    async with plane.db.transaction() as tx:
        return await members.create(tx.session, email)


async def grant(plane: Plane, who: TenantUser, role: Role, tenant: Tenant | None) -> None:
    async with plane.db.transaction() as tx:
        workspace_id = await universe.workspace_id(tx.session)
        await members.grant(tx.session, who, role, workspace_id=workspace_id, tenant=tenant)


async def member(plane: Plane, who: TenantUser) -> Member:
    async with plane.db.reading() as session:
        loaded = await members.load(session, who.id)
    assert loaded is not None
    return loaded


async def seen(plane: Plane, who: Member, *capabilities: TenantCapability) -> list[str]:
    async with plane.db.reading() as session:
        tenants = select(Tenant.external_id).where(who.tenants_with(*capabilities)).order_by(Tenant.external_id)
        return list(await session.scalars(tenants))


async def the_platform(plane: Plane) -> Tenant:
    async with plane.db.reading() as session:
        return (await session.scalars(select(Tenant).where(Tenant.external_id == PLATFORM_TENANT))).one()


def test_a_stronger_role_may_do_whatever_a_weaker_may() -> None:
    """`Member.tenants_with` rests on it: of two roles in one tenant either may satisfy the condition."""
    for stronger, weaker in itertools.pairwise(Role):
        assert stronger.capabilities >= weaker.capabilities


async def test_a_role_in_one_tenant_shows_that_tenant_alone(plane: Plane, tenants: list[Tenant]) -> None:
    who = await user(plane)
    await grant(plane, who, Role.READONLY, tenants[0])
    loaded = await member(plane, who)
    assert await seen(plane, loaded, VIEW) == ["acme"]
    assert await seen(plane, loaded, RESTRICTED) == []
    assert [loaded.role_in(tenant) for tenant in tenants] == [Role.READONLY, None, None]
    with pytest.raises(NothingHere):
        loaded.require(VIEW, tenants[1])
    with pytest.raises(RoleTooWeak, match=r"tenant\.operations\.restricted"):
        loaded.require(RESTRICTED, tenants[0])


@pytest.mark.parametrize(
    ("in_tenant", "in_workspace"), [(Role.OWNER, Role.READONLY), (Role.READONLY, Role.OWNER)], ids=str
)
async def test_the_stronger_of_two_roles_wins(
    plane: Plane, tenants: list[Tenant], in_tenant: Role, in_workspace: Role
) -> None:
    who = await user(plane)
    await grant(plane, who, in_tenant, tenants[0])
    await grant(plane, who, in_workspace, None)
    loaded = await member(plane, who)
    assert [loaded.role_in(tenant) for tenant in tenants] == [Role.OWNER, in_workspace, in_workspace]
    assert "acme" in await seen(plane, loaded, RESTRICTED)
    assert await seen(plane, loaded, VIEW) == ["acme", "globex", "initech"]


async def test_nobody_is_a_member_of_the_platform(plane: Plane, tenants: list[Tenant]) -> None:
    platform, who = await the_platform(plane), await user(plane)
    await grant(plane, who, Role.OWNER, None)
    with pytest.raises(InvalidInput, match="platform itself"):
        await grant(plane, who, Role.OWNER, platform)
    async with plane.db.transaction() as tx:  # as only somebody with SQL could
        row = {"user_id": who.id, "workspace_id": platform.workspace_id, "tenant_id": platform.id, "role": "owner"}
        await tx.session.execute(insert(Membership).values(row))
    loaded = await member(plane, who)
    assert loaded.roles == {}
    assert loaded.role_in(platform) is None
    assert await seen(plane, loaded, VIEW) == ["acme", "globex", "initech"]
    async with plane.db.reading() as session:
        for name in (PLATFORM_TENANT, str(platform.id)):
            with pytest.raises(NothingHere):
                await members.pick(session, loaded, name, VIEW)


async def test_roles_are_read_anew(plane: Plane, tenants: list[Tenant]) -> None:
    who = await user(plane)
    await grant(plane, who, Role.OWNER, tenants[0])
    await grant(plane, who, Role.READONLY, tenants[0])
    assert (await member(plane, who)).roles == {tenants[0].id: Role.READONLY}
    async with plane.db.transaction() as tx:
        held: dict[str, Any] = {"workspace_id": tenants[0].workspace_id, "tenant": tenants[0]}
        assert await members.remove(tx.session, who, **held) is Role.READONLY
        with pytest.raises(NotFound, match="no member of the tenant acme"):
            await members.remove(tx.session, who, **held)
    assert (await member(plane, who)).roles == {}
    async with plane.db.transaction() as tx:
        await members.disable(tx.session, await members.find(tx.session, "ANA@acme.test "))
    async with plane.db.reading() as session:
        assert await members.load(session, who.id) is None
        assert await members.load(session, uuid.uuid4()) is None


async def test_grants_that_race_leave_one_membership(plane: Plane, tenants: list[Tenant]) -> None:
    who = await user(plane)
    for tenant in (tenants[0], None):  # null is a place of its own, too
        await asyncio.gather(*(grant(plane, who, role, tenant) for role in [*Role, *Role]))
    assert await support.count(plane, Membership) == 2


async def test_creations_that_race_leave_one_user_and_refusals(plane: Plane) -> None:
    done = await asyncio.gather(*(user(plane, "Ana@Acme.test") for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(one, Conflict) for one in done) == 4
    assert await support.count(plane, TenantUser, TenantUser.email == "ana@acme.test") == 1


@pytest.mark.parametrize("email", ["", "ana", "a b@c", "ana@", "a\x00@b", "a@b\n.test"], ids=repr)
async def test_what_is_no_address_is_refused(plane: Plane, email: str) -> None:
    with pytest.raises(InvalidInput, match="is not an e-mail address"):
        await user(plane, email)


def test_two_types_of_operations_cannot_share_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(types, "_types", {})
    sync = OperationType(key="sync", label="Sync", capability=VIEW)
    assert types.register(types.register(sync)) == types.find("sync") == sync
    with pytest.raises(Exception, match="Two types of operations have the key sync"):
        types.register(OperationType(key="sync", label="Other", capability=VIEW))
    assert types.every() == [sync]
    assert types.find("gone") == OperationType(key="gone", label="gone", capability=RESTRICTED)


async def command(settings: Settings, *arguments: str) -> Any:
    environment = {"OPSPLANE_DATABASE_URL": settings.database_url or "", "OPSPLANE_REDIS_URL": settings.redis_url or ""}
    return await asyncio.to_thread(test_cli_usage.opsplane, "members", *arguments, environment=environment)


async def test_commands_change_memberships_and_leave_a_record(
    plane: Plane, settings: Settings, tenants: list[Tenant]
) -> None:
    for line in (
        "create ana@acme.test --name Ana",
        "create bob@acme.test",
        "grant ana@acme.test --role owner --tenant acme",
        "grant ana@acme.test --role readonly --workspace",
        "grant bob@acme.test --role operator --tenant globex",
        "disable bob@acme.test",
    ):
        done = await command(settings, *line.split())
        assert done.returncode == 0, done.stderr
    listed = json.loads((await command(settings, "list", "--json")).stdout)
    assert listed == [
        {"email": "ana@acme.test", "name": "Ana", "disabled": False,
         "memberships": [{"tenant": None, "role": "readonly"}, {"tenant": "acme", "role": "owner"}]},
        {"email": "bob@acme.test", "name": "bob", "disabled": True,
         "memberships": [{"tenant": "globex", "role": "operator"}]},
    ]  # fmt: skip
    assert "bob@acme.test" not in (await command(settings, "list", "--tenant", "acme")).stdout
    assert (await command(settings, "revoke", "ana@acme.test", "--tenant", "acme")).returncode == 0
    async with plane.db.reading() as session:
        events = (await session.scalars(select(AuditEvent).order_by(AuditEvent.id))).all()
    acts = ["created", "created", "granted", "granted", "granted", "disabled", "revoked"]
    assert [event.action for event in events] == [f"tenant.members.{act}" for act in acts]
    assert {(event.plane, event.source, event.subject_type) for event in events} == {("admin", "cli", "tenant_user")}
    assert (events[-1].tenant_id, events[-1].details) == (
        tenants[0].id,
        {"email": "ana@acme.test", "role": "owner"},
    )


REFUSED = [
    ("grant ana@acme.test --role owner", 2, "either --tenant EXTERNAL_ID or --workspace"),
    ("grant ana@acme.test --role owner --tenant acme --workspace", 2, "either --tenant EXTERNAL_ID or --workspace"),
    ("grant ana@acme.test --role owner --tenant nobody", 3, "pick one from `opsplane tenants list`"),
    ("grant ana@acme.test --role owner --tenant platform", 3, "pick one from `opsplane tenants list`"),
    ("grant eve@acme.test --role owner --tenant acme", 2, "add one: opsplane members create EMAIL"),
    ("revoke ana@acme.test --workspace", 2, "see opsplane members list"),
    ("create ana@acme.test", 3, "already"),
]


async def test_a_refused_command_names_the_next_move_and_changes_nothing(
    plane: Plane, settings: Settings, tenants: list[Tenant]
) -> None:
    await user(plane)
    for line, code, saying in REFUSED:
        test_cli_usage.assert_one_line(await command(settings, *line.split()), code, saying)
    wrong_role = await command(settings, "grant", "ana@acme.test", "--role", "admin", "--tenant", "acme")
    assert wrong_role.returncode == 2
    assert "readonly" in wrong_role.stderr
    assert await support.count(plane, Membership) + await support.count(plane, AuditEvent) == 0


async def test_a_disabled_user_stays_disabled_at_the_first_time(plane: Plane) -> None:
    who = await user(plane)
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(TenantUser).values(disabled_at=text("'2020-01-01 00:00Z'")))
    async with plane.db.transaction() as tx:
        await members.disable(tx.session, await members.find(tx.session, who.email))
    async with plane.db.reading() as session:
        disabled_at = (await members.find(session, who.email)).disabled_at
    assert disabled_at is not None
    assert disabled_at.year == 2020
