"""opsplane users: who operates the platform, and what they may do."""

from typing import Annotated

import typer
from sqlalchemy import select

from opsplane.audit import log as audit
from opsplane.auth import tokens, users
from opsplane.auth.models import PlatformUser
from opsplane.cli import context, output
from opsplane.db import Transaction
from opsplane.errors import InvalidInput
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane

app = typer.Typer(no_args_is_help=True, help="Platform users and what they may do.")

Email = Annotated[str, typer.Argument(metavar="EMAIL", help="The user's e-mail address.")]
Capabilities = Annotated[list[str], typer.Argument(metavar="CAPABILITY…", help="Capabilities, or `all`.")]


@app.command()
def create(
    email: Email,
    name: Annotated[str | None, typer.Option(help="What people call them.")] = None,
    grant_: Annotated[list[str] | None, typer.Option("--grant", help="A capability, or `all`; repeatable.")] = None,
) -> None:
    """Add a platform user."""

    async def act(plane: Plane) -> None:
        async with plane.db.transaction() as tx:
            user = await users.create(tx.session, email, name=name)
            await users.grant(tx.session, user, parse(grant_ or []))
            await _record(plane, tx, "created", user, sorted(parse(grant_ or [])))
        output.note(f"Added {user.email}.")

    context.run(act)


@app.command("list")
def list_(json_: output.AsJson = False) -> None:
    """List platform users with their capabilities."""

    async def act(plane: Plane) -> None:
        async with plane.db.reading() as session:
            found = (await session.scalars(select(PlatformUser).order_by(PlatformUser.email))).all()
            rights = {user.id: sorted(await tokens.capabilities_of(session, user.id)) for user in found}
        if json_:
            output.as_json([
                {"email": user.email, "disabled": user.disabled_at is not None, "capabilities": rights[user.id]}
                for user in found
            ])  # fmt: skip
        else:
            table = [(user.email, "disabled" if user.disabled_at else "", "\n".join(rights[user.id])) for user in found]
            output.rows(("EMAIL", "", "CAPABILITIES"), table, empty="No platform user; opsplane users create EMAIL")

    context.run(act)


@app.command()
def grant(email: Email, capabilities: Capabilities) -> None:
    """Allow; effective on the next request."""

    async def act(plane: Plane) -> None:
        async with plane.db.transaction() as tx:
            user = await users.find(tx.session, email)
            await users.grant(tx.session, user, parse(capabilities))
            await _record(plane, tx, "granted", user, sorted(parse(capabilities)))
        output.note(f"{user.email} may now do that too; see opsplane users list.")

    context.run(act)


@app.command()
def revoke(email: Email, capabilities: Capabilities) -> None:
    """Take back; effective on the next request, tokens included."""

    async def act(plane: Plane) -> None:
        async with plane.db.transaction() as tx:
            user = await users.find(tx.session, email)
            taken = parse(capabilities, besides=await tokens.capabilities_of(tx.session, user.id))
            await users.revoke(tx.session, user, taken)
            await _record(plane, tx, "revoked", user, sorted(taken))
        output.note(f"{user.email} and their tokens may no longer do that.")

    context.run(act)


@app.command()
def disable(email: Email) -> None:
    """Shut a user out, tokens included."""

    async def act(plane: Plane) -> None:
        async with plane.db.transaction() as tx:
            user = await users.find(tx.session, email)
            await users.disable(tx.session, user)
            await _record(plane, tx, "disabled", user, [])
        output.note(f"{user.email} is shut out, their tokens included.")

    context.run(act)


def parse(names: list[str], *, besides: frozenset[str] = frozenset()) -> frozenset[str]:
    """Capabilities that exist: opsplane's own, those runbooks ask for, and `besides`.

    What a user has outlives the runbook that asked for it, and must still be revocable.

    Raises:
        InvalidInput: one is unknown.
    """
    known = registry.capabilities() | besides
    if names == ["all"]:
        return known
    if unknown := sorted(set(names) - known):
        raise InvalidInput(f"Unknown capability {', '.join(unknown)}; known: {', '.join(sorted(known))}.")
    return frozenset(names)


async def _record(plane: Plane, tx: Transaction, act: str, user: PlatformUser, capabilities: list[str]) -> None:
    await audit.record(
        tx.session,
        f"platform.users.{act}",
        by=await context.actor(plane, None),
        subject_type="platform_user",
        subject_id=user.id,
        source="cli",
        details={"email": user.email, "capabilities": capabilities},
    )
