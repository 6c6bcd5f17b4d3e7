"""opsplane users: who operates the platform, and what they may do."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer
from sqlalchemy import select

from opsplane.audit import log as audit
from opsplane.auth import sessions, tokens, totp, users
from opsplane.auth.capabilities import Capability
from opsplane.auth.models import PlatformUser, SystemSession
from opsplane.cli import context, output, passwords
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
    as_: context.AsUser = None,
) -> None:
    """Add a platform user; prints their first password, once."""

    async def act(plane: Plane) -> None:
        capabilities, password = parse(grant_ or []), await passwords.new()
        async with plane.db.transaction() as tx:
            user = await users.create(tx.session, email, name=name)
            await users.grant(tx.session, user, capabilities)
            await users.set_password(tx.session, user, password.hashed)
            await _record(plane, tx, "created", user, by=as_, capabilities=sorted(capabilities))
        output.note(f"Added {user.email}.")
        password.show()

    context.run(act)


@app.command("list")
def list_(json_: output.AsJson = False) -> None:
    """List platform users with their capabilities."""

    async def act(plane: Plane) -> None:
        async with plane.db.reading() as session:
            found = (await session.scalars(select(PlatformUser).order_by(PlatformUser.email))).all()
            rights = {user.id: sorted(await tokens.capabilities_of(session, user.id)) for user in found}
        if json_:
            output.as_json([_shown(user, rights[user.id]) for user in found])
        else:
            table = [(user.email, user.name, _state(user), "\n".join(rights[user.id])) for user in found]
            headings = ("EMAIL", "NAME", "SIGNS IN", "CAPABILITIES")
            output.rows(headings, table, empty="No platform user; opsplane users create EMAIL")

    context.run(act)


@app.command()
def grant(email: Email, capabilities: Capabilities, as_: context.AsUser = None) -> None:
    """Allow; effective on the next request."""

    async def act(tx: Transaction, user: PlatformUser) -> dict[str, Any]:
        granted = parse(capabilities)
        await users.grant(tx.session, user, granted)
        return {"capabilities": sorted(granted)}

    user = _change(email, "granted", act, by=as_)
    output.note(f"{user.email} may now do that too; see opsplane users list.")


@app.command()
def revoke(email: Email, capabilities: Capabilities, as_: context.AsUser = None) -> None:
    """Take back; effective on the next request, tokens included."""

    async def act(tx: Transaction, user: PlatformUser) -> dict[str, Any]:
        taken = parse(capabilities, besides=await tokens.capabilities_of(tx.session, user.id))
        await users.revoke(tx.session, user, taken)
        return {"capabilities": sorted(taken)}

    user = _change(email, "revoked", act, by=as_)
    output.note(f"{user.email} and their tokens may no longer do that.")


@app.command()
def disable(email: Email, as_: context.AsUser = None) -> None:
    """Shut a user out, sessions and tokens included."""

    async def act(tx: Transaction, user: PlatformUser) -> dict[str, Any]:
        await users.disable(tx.session, user)
        return {}

    user = _change(email, "disabled", act, by=as_)
    output.note(f"{user.email} is shut out, their sessions and tokens included.")


@app.command()
def enable(email: Email, as_: context.AsUser = None) -> None:
    """Let a disabled user in again; their tokens work again too."""

    async def act(_tx: Transaction, user: PlatformUser) -> dict[str, Any]:
        users.enable(user)
        return {}

    user = _change(email, "enabled", act, by=as_)
    output.note(f"{user.email} may sign in again.")


@app.command("reset-password")
def reset_password(email: Email, stdin: passwords.FromStdin = False, as_: context.AsUser = None) -> None:
    """Give a user a new password, shown once; their sessions end."""
    chosen = passwords.read() if stdin else None

    async def act(tx: Transaction, user: PlatformUser) -> dict[str, Any]:
        password = await passwords.new(user.email, user.name, chosen=chosen)
        await users.set_password(tx.session, user, password.hashed)
        tx.after_commit.append(password.reveal)
        return {}

    user = _change(email, "password_reset", act, by=as_)
    output.note(f"The sessions of {user.email} have ended.")


@app.command("reset-totp")
def reset_totp(email: Email, as_: context.AsUser = None) -> None:
    """Forget a lost authenticator; the user enrols a new one. Their sessions end."""

    async def act(tx: Transaction, user: PlatformUser) -> dict[str, Any]:
        await totp.reset(tx.session, user)
        await sessions.end_all(tx.session, SystemSession, user.id)
        return {}

    user = _change(email, "totp_reset", act, by=as_)
    output.note(f"{user.email} signs in without a code once more; in production they must enrol at once.")


def _shown(user: PlatformUser, rights: list[str]) -> dict[str, Any]:
    return {
        "email": user.email,
        "name": user.name,
        "disabled": user.disabled_at is not None,
        "second_factor": user.totp_confirmed_at is not None,
        "capabilities": rights,
    }


def _state(user: PlatformUser) -> str:
    if user.disabled_at is not None:
        return "disabled"
    return "with a code" if user.totp_confirmed_at is not None else "by password alone"


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


def _change(
    email: str, act: str, change: Callable[[Transaction, PlatformUser], Awaitable[dict[str, Any]]], *, by: str | None
) -> PlatformUser:
    """Change a user and put it on record, both in one transaction."""

    async def changed(plane: Plane) -> PlatformUser:
        async with plane.db.transaction() as tx:
            user = await users.find(tx.session, email)
            await _record(plane, tx, act, user, by=by, **await change(tx, user))
        return user

    return context.run(changed)


async def _record(
    plane: Plane, tx: Transaction, act: str, user: PlatformUser, *, by: str | None, **details: Any
) -> None:
    actor = await context.actor(plane, by)
    actor.require(Capability.USERS_MANAGE)
    await audit.record(
        tx.session,
        f"platform.users.{act}",
        by=actor,
        subject_type="platform_user",
        subject_id=user.id,
        source="cli",
        details={"email": user.email, **details},
    )
