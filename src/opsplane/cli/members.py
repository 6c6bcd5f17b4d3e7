"""opsplane members: the customers' people, and their roles in tenants."""

import itertools
import uuid
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.audit import log as audit
from opsplane.auth import members
from opsplane.auth.models import TenantUser
from opsplane.auth.roles import Role
from opsplane.cli import context, output, passwords
from opsplane.db import Transaction
from opsplane.errors import InvalidInput
from opsplane.runbooks.service import Plane
from opsplane.tenants import universe
from opsplane.tenants.models import Tenant

app = typer.Typer(no_args_is_help=True, help="Tenant users and their roles.")

Email = Annotated[str, typer.Argument(metavar="EMAIL", help="The tenant user's e-mail address.")]
InTenant = Annotated[str | None, typer.Option("--tenant", help="In this tenant, by id or external id.")]
InWorkspace = Annotated[bool, typer.Option("--workspace", help="In every tenant, those to come included.")]


@app.command()
def create(email: Email, name: Annotated[str | None, typer.Option(help="What people call them.")] = None) -> None:
    """Add a tenant user, who sees nothing until a role is granted; prints their first password, once."""

    async def act(plane: Plane) -> None:
        password = await passwords.new()
        async with plane.db.transaction() as tx:
            user = await members.create(tx.session, email, name=name)
            await members.set_password(tx.session, user, password.hashed)
            await _record(plane, tx, "created", user)
        output.note(f"Added {user.email}. Next: opsplane members grant {user.email} --role ROLE --tenant TENANT")
        password.show()

    context.run(act)


@app.command()
def grant(
    email: Email,
    role: Annotated[Role, typer.Option(help="What they may do there.")],
    tenant: InTenant = None,
    workspace: InWorkspace = False,
) -> None:
    """Give a role, in place of the one held there; effective on the next request."""

    async def act(plane: Plane) -> None:
        async with plane.db.transaction() as tx:
            user = await members.find(tx.session, email)
            workspace_id, there = await _place(tx.session, tenant, workspace=workspace)
            await members.grant(tx.session, user, role, workspace_id=workspace_id, tenant=there)
            await _record(plane, tx, "granted", user, role=role, workspace_id=workspace_id, tenant=there)
        output.note(f"{user.email} is {role} of {_name(there)} now.")
        if user.disabled_at is not None:
            output.note(f"{user.email} is disabled and cannot log in.")

    context.run(act)


@app.command()
def revoke(email: Email, tenant: InTenant = None, workspace: InWorkspace = False) -> None:
    """Take a membership back; effective on the next request."""

    async def act(plane: Plane) -> None:
        async with plane.db.transaction() as tx:
            user = await members.find(tx.session, email)
            workspace_id, there = await _place(tx.session, tenant, workspace=workspace)
            role = await members.remove(tx.session, user, workspace_id=workspace_id, tenant=there)
            await _record(plane, tx, "revoked", user, role=role, workspace_id=workspace_id, tenant=there)
        output.note(f"{user.email} is no longer {role} of {_name(there)}.")

    context.run(act)


@app.command()
def disable(email: Email) -> None:
    """Shut a tenant user out, with all memberships."""

    async def act(plane: Plane) -> None:
        async with plane.db.transaction() as tx:
            user = await members.find(tx.session, email)
            await members.disable(tx.session, user)
            await _record(plane, tx, "disabled", user)
        output.note(f"{user.email} is shut out.")

    context.run(act)


@app.command()
def enable(email: Email) -> None:
    """Let a disabled tenant user in again, with the memberships they have."""

    async def act(plane: Plane) -> None:
        async with plane.db.transaction() as tx:
            user = await members.find(tx.session, email)
            user.disabled_at = None
            await _record(plane, tx, "enabled", user)
        output.note(f"{user.email} may sign in again.")

    context.run(act)


@app.command("reset-password")
def reset_password(email: Email, stdin: passwords.FromStdin = False) -> None:
    """Give a tenant user a new password, shown once; their sessions end."""
    chosen = passwords.read() if stdin else None

    async def act(plane: Plane) -> None:
        async with plane.db.transaction() as tx:
            user = await members.find(tx.session, email)
            password = await passwords.new(user.email, user.name, chosen=chosen)
            await members.set_password(tx.session, user, password.hashed)
            await _record(plane, tx, "password_reset", user)
        output.note(f"The sessions of {user.email} have ended.")
        password.show()

    context.run(act)


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only who sees this tenant; id or external id.")] = None,
    json_: output.AsJson = False,
) -> None:
    """List tenant users with their roles."""

    async def act(plane: Plane) -> None:
        async with plane.db.reading() as session:
            workspace_id = await universe.workspace_id(session)
            there = await universe.pick(session, workspace_id, tenant) if tenant is not None else None
            rows = await members.listing(session, workspace_id=workspace_id, tenant=there)
        found = [_shown(user, held) for user, held in itertools.groupby(rows, key=lambda row: row[0])]
        if json_:
            output.as_json(found)
        else:
            output.rows(
                ("EMAIL", "", "ROLES"), [_line(user) for user in found],
                empty="No tenant user; opsplane members create EMAIL",
            )  # fmt: skip

    context.run(act)


async def _place(session: AsyncSession, tenant: str | None, *, workspace: bool) -> tuple[uuid.UUID, Tenant | None]:
    if workspace == (tenant is not None):
        raise InvalidInput("Say where: either --tenant EXTERNAL_ID or --workspace, which is every tenant.")
    workspace_id = await universe.workspace_id(session)
    return workspace_id, None if tenant is None else await universe.pick(session, workspace_id, tenant)


def _name(tenant: Tenant | None) -> str:
    return "every tenant" if tenant is None else tenant.external_id


def _shown(user: TenantUser, held: Any) -> dict[str, Any]:
    roles = [{"tenant": external_id, "role": role} for _, external_id, role in held if role is not None]
    return {"email": user.email, "name": user.name, "disabled": user.disabled_at is not None, "memberships": roles}


def _line(user: dict[str, Any]) -> tuple[str, str, str]:
    held = "\n".join(f"{one['role']} of {one['tenant'] or 'every tenant'}" for one in user["memberships"])
    return user["email"], "disabled" if user["disabled"] else "", held


async def _record(
    plane: Plane,
    tx: Transaction,
    act: str,
    user: TenantUser,
    *,
    role: Role | None = None,
    workspace_id: uuid.UUID | None = None,
    tenant: Tenant | None = None,
) -> None:
    await audit.record(
        tx.session,
        f"tenant.members.{act}",
        by=await context.actor(plane, None),
        subject_type="tenant_user",
        subject_id=user.id,
        plane="admin",
        workspace_id=workspace_id,
        tenant_id=tenant.id if tenant else None,
        source="cli",
        details={"email": user.email} | ({"role": str(role)} if role else {}),
    )
