"""opsplane tenants: add, list."""

from typing import Annotated

import typer

from opsplane.audit import log as audit
from opsplane.cli import context, output
from opsplane.runbooks.service import Plane
from opsplane.tenants import universe

app = typer.Typer(no_args_is_help=True, help="The customers.")


@app.command()
def add(
    external_id: Annotated[str, typer.Argument(help="The id your own systems know the tenant by.")],
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    json_: output.AsJson = False,
) -> None:
    """Add a tenant."""

    async def act(plane: Plane) -> None:
        async with plane.db.transaction() as tx:
            workspace_id = await universe.workspace_id(tx.session)
            added = await universe.add(tx.session, workspace_id, external_id, name=name)
            await audit.record(
                tx.session, "platform.tenants.created", by=await context.actor(plane, None), subject_type="tenant",
                subject_id=added.id, workspace_id=workspace_id, tenant_id=added.id, source="cli",
                details={"external_id": added.external_id},
            )  # fmt: skip
        shown = {"id": str(added.id), "external_id": added.external_id, "name": added.name}
        output.as_json(shown) if json_ else output.facts(shown)

    context.run(act)


@app.command("list")
def list_(
    search: Annotated[str | None, typer.Option(help="Part of a name or external id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many.")] = 1000,
    json_: output.AsJson = False,
) -> None:
    """List the tenants that runbooks may target."""

    async def act(plane: Plane) -> None:
        async with plane.db.reading() as session:
            tenants = universe.search(await universe.workspace_id(session), search).limit(limit)
            found = [(str(row.id), row.external_id, row.name) for row in await session.scalars(tenants)]
        if json_:
            output.as_json([dict(zip(("id", "external_id", "name"), row, strict=True)) for row in found])
        else:
            output.rows(("ID", "EXTERNAL ID", "NAME"), found, empty="No tenant; add one: opsplane tenants add ID")

    context.run(act)
