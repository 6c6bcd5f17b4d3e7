"""The scope lock: an advisory lock gives an order, the run row holds the scope, a constraint proves it."""

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.errors import Conflict
from opsplane.runbooks.scopes import Scope
from opsplane.runs.models import OperationRun
from opsplane.runs.states import Status


class ScopeLocked(Conflict):
    """An active run of the same lock group overlaps the scope; `active_run_id` names it."""

    code = "scope_locked"

    def __init__(self, run: OperationRun, view_url: str) -> None:
        move = "resume or cancel it" if run.status == Status.PAUSED else "wait for it or look at it"
        super().__init__(
            f"A run of {run.type} is {run.status} on an overlapping scope; {move}: {view_url}",
            active_run_id=str(run.id),
            view_url=view_url,
        )


async def take(session: AsyncSession, scope: Scope, group: str) -> None:
    """Wait for every other start on an overlapping scope, until the transaction ends.

    All tenants takes the root key alone; one tenant shares it and takes its own, so
    that tenants do not wait for each other and nobody holds more than two locks.
    """
    isolation = await session.scalar(text("SHOW transaction_isolation"))
    # Under REPEATABLE READ the snapshot would be older than the lock, and blind to the run we waited for.
    if isolation != "read committed":
        raise RuntimeError(f"a scope cannot be locked under {isolation}")
    root = f"opsplane:scope:{scope.workspace_id}:{group}"
    if scope.tenant_id is None:
        await session.execute(select(func.pg_advisory_xact_lock(_key(root))))
    else:
        await session.execute(select(func.pg_advisory_xact_lock_shared(_key(root))))
        await session.execute(select(func.pg_advisory_xact_lock(_key(f"{root}:{scope.tenant_id}"))))


async def holder(session: AsyncSession, scope: Scope, group: str) -> OperationRun | None:
    """The active run that holds an overlapping scope; a paused run still holds its own."""
    return await session.scalar(
        select(OperationRun)
        .where(
            OperationRun.workspace_id == scope.workspace_id,
            OperationRun.lock_group == group,
            OperationRun.status != Status.COMPLETED,
            OperationRun.tenant_span.op("&&")(scope.span),
        )
        .limit(1)
    )


def _key(name: str) -> object:
    return func.hashtextextended(name, 0)
