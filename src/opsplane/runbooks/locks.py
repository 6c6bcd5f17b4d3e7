"""The scope lock: an advisory lock gives an order, the run row holds the scope, a constraint proves it."""

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Text, Uuid, func, literal, select

from opsplane.direct import Begun, directly
from opsplane.errors import Conflict
from opsplane.lookups import Lookup, parameter
from opsplane.runbooks.scopes import Scope, span
from opsplane.runs.models import OperationRun
from opsplane.runs.states import Status


@dataclass(frozen=True)
class Held:
    """What is told of the run that holds a scope."""

    id: uuid.UUID
    type: str
    status: str


class ScopeLocked(Conflict):
    """An active run of the same lock group overlaps the scope; `active_run_id` names it."""

    code = "scope_locked"

    def __init__(self, run: Held, view_url: str) -> None:
        move = "resume or cancel it" if run.status == Status.PAUSED else "wait for it or look at it"
        super().__init__(
            f"A run of {run.type} is {run.status} on an overlapping scope; {move}: {view_url}",
            active_run_id=str(run.id),
            view_url=view_url,
        )


async def take(session: Begun, scope: Scope, group: str) -> None:
    """Wait for every other start on an overlapping scope, until the transaction ends.

    All tenants takes the root key alone; one tenant shares it and takes its own, so
    that tenants do not wait for each other and nobody holds more than two locks.
    """
    root = f"opsplane:scope:{scope.workspace_id}:{group}"
    if scope.tenant_id is None:
        [locked] = await directly(session, ALL, root=root)
    else:
        [locked] = await directly(session, ONE, root=root, own=f"{root}:{scope.tenant_id}")
    # Under REPEATABLE READ the snapshot would be older than the lock, and blind to the run we waited for.
    if locked["isolation"] != "read committed":
        raise RuntimeError(f"a scope cannot be locked under {locked['isolation']}")


async def holder(session: Begun, scope: Scope, group: str) -> Held | None:
    """The active run that holds an overlapping scope; a paused run still holds its own."""
    given = {"workspace": scope.workspace_id, "group": group, "bound": scope.tenant_id}
    rows = await directly(session, HOLDER, **given)
    return Held(**rows[0]) if rows else None


def _key(name: str) -> Any:
    return func.hashtextextended(parameter(name, Text()), 0)


_ISOLATION = func.current_setting("transaction_isolation").label("isolation")
ALL = Lookup.of(select(_ISOLATION, func.pg_advisory_xact_lock(_key("root"))))
ONE = Lookup.of(
    select(_ISOLATION, func.pg_advisory_xact_lock_shared(_key("root")), func.pg_advisory_xact_lock(_key("own")))
)
HOLDER = Lookup.of(
    select(OperationRun.id, OperationRun.type, OperationRun.status)
    .where(
        OperationRun.workspace_id == parameter("workspace"),
        OperationRun.lock_group == parameter("group"),
        OperationRun.status != literal(str(Status.COMPLETED), literal_execute=True),
        OperationRun.tenant_span.op("&&")(span(parameter("bound", Uuid()))),
    )
    .limit(1)
)
