"""opsplane tokens: API tokens for automation."""

from typing import Annotated

import typer
from sqlalchemy import select

from opsplane.audit import log as audit
from opsplane.auth import tokens, users
from opsplane.auth.actors import Actor
from opsplane.auth.models import ApiToken, PlatformUser
from opsplane.cli import context, output
from opsplane.cli.users import parse
from opsplane.db import Transaction
from opsplane.errors import InvalidInput
from opsplane.runbooks.service import Plane

app = typer.Typer(no_args_is_help=True, help="API tokens for automation.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the token is for.")],
    owner: Annotated[str, typer.Option(help="The platform user in whose name it acts.")],
    capability: Annotated[list[str] | None, typer.Option(help="Repeatable; default: all the owner has.")] = None,
    days: Annotated[int, typer.Option(help=f"How long it lives, 1 to {tokens.MAX_DAYS}.")] = tokens.MAX_DAYS,
    as_: context.AsUser = None,
    json_: output.AsJson = False,
) -> None:
    """Make a token. Its secret is shown once, now."""

    async def act(plane: Plane) -> None:
        actor = await context.actor(plane, as_)
        async with plane.db.transaction() as tx:
            user = await users.find(tx.session, owner)
            if user.disabled_at is not None:
                raise InvalidInput(f"{user.email} is disabled, so a token of theirs could do nothing.")
            owned = await tokens.capabilities_of(tx.session, user.id)
            wanted = parse(capability) if capability else owned
            minted = await tokens.mint(tx.session, user, name=name, capabilities=wanted, days=days, by=actor)
            await _record(tx, "created", minted.row, by=actor)
        if json_:
            expires_at = minted.row.expires_at.isoformat()
            output.as_json({"token": minted.secret, "prefix": minted.row.prefix, "expires_at": expires_at})
        else:
            typer.echo(minted.secret)
            output.note(f"Keep it now; it is not shown again. It expires on {minted.row.expires_at:%Y-%m-%d}.")
        if not wanted:
            output.note(f"{user.email} has no capability yet, so this token can do nothing: opsplane users grant")

    context.run(act)


@app.command("list")
def list_(json_: output.AsJson = False) -> None:
    """List tokens; secrets are not kept."""

    async def act(plane: Plane) -> None:
        async with plane.db.reading() as session:
            found = (
                await session.execute(
                    select(ApiToken, PlatformUser.email)
                    .join(PlatformUser, PlatformUser.id == ApiToken.owner_id)
                    .order_by(ApiToken.id)
                )
            ).all()
        columns = ("prefix", "name", "owner", "expires_at", "last_used_at", "revoked_at")
        table = [
            (token.prefix, token.name, email, token.expires_at, token.last_used_at, token.revoked_at)
            for token, email in found
        ]
        if json_:
            output.as_json([dict(zip(columns, row, strict=True)) for row in table])
        else:
            headings = tuple(column.replace("_", " ").upper() for column in columns)
            output.rows(headings, table, empty="No token; opsplane tokens create NAME --owner EMAIL")

    context.run(act)


@app.command()
def revoke(
    prefix: Annotated[str, typer.Argument(help="As `opsplane tokens list` shows it.")], as_: context.AsUser = None
) -> None:
    """End a token at once."""

    async def act(plane: Plane) -> None:
        async with plane.db.transaction() as tx:
            actor = await context.actor(plane, as_)
            await _record(tx, "revoked", await tokens.revoke(tx.session, prefix, by=actor), by=actor)
        output.note(f"The token {prefix} is revoked.")

    context.run(act)


async def _record(tx: Transaction, act: str, token: ApiToken, *, by: Actor) -> None:
    await audit.record(
        tx.session,
        f"platform.tokens.{act}",
        by=by,
        subject_type="api_token",
        subject_id=token.id,
        source="cli",
        details={"name": token.name, "prefix": token.prefix, "capabilities": token.capabilities},
    )
