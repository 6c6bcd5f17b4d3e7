"""What runs and their items should be, in plain Python: nothing here looks at the database or calls the product."""

import uuid
from dataclasses import dataclass, field

from tests.faults.machines import NAMES

MAX_LOST, MAX_ATTEMPTS = 3, 4
UNDER_WAY = {"running", "pausing", "cancelling"}
ASKS = {  # what is asked: from where, to where, and where it is so already
    "pause": ({"running"}, "pausing", {"pausing", "paused"}),
    "resume": ({"pausing", "paused"}, "running", {"running"}),
    "cancel": ({"queued", "running", "pausing", "paused"}, "cancelling", {"cancelling"}),
}


@dataclass
class Item:
    """One tenant's part of a run."""

    state: str = "pending"
    token: int = 0
    updated: int = 0
    attempts: int = 0
    lost: int = 0
    waits: bool = False  # until later, for another try
    over: bool = False  # its lease has run out
    held: bool = False  # a chunk's transaction is open on it
    started: bool = False
    moved: bool = False  # of late


@dataclass(eq=False)
class Run:
    """A run, its scope and its items by tenant."""

    id: uuid.UUID
    group: str
    tenant: str | None
    retry_of: "Run | None" = None
    status: str = "queued"
    outcome: str = "pending"
    old: bool = False
    items: dict[str, Item] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """A retry begins as it starts."""
        if self.retry_of is not None:
            self.begin()

    def tenants(self) -> list[str]:
        """The tenants whose items it will have."""
        among = NAMES if self.retry_of is None else self.retry_of.failed()
        return [name for name in among if self.tenant in {None, name}]

    def failed(self) -> list[str]:
        """The tenants that failed in it."""
        return [name for name, item in self.items.items() if item.state == "failed"]

    def some(self, *states: str) -> list[Item]:
        """Its items in these states."""
        return [item for item in self.items.values() if item.state in states]

    def begin(self) -> bool:
        """Expand it."""
        if self.status != "queued":
            return False
        self.items = {name: Item() for name in self.tenants()}
        self.status = "running"
        return True

    def next_item(self) -> str | None:
        """The tenant that a claim gets."""
        due = [name for name, item in self.items.items() if item.state == "pending" and not item.waits]
        return min(due) if due and self.status == "running" else None

    def ask(self, what: str) -> str:
        """Ask it to pause, resume or cancel."""
        sources, wanted, so_already = ASKS[what]
        if self.status in so_already or (what == "cancel" and self.outcome == "cancelled"):
            return "same"
        if self.status not in sources:
            return "refused"
        self.status = wanted
        if what == "resume":
            self.old = False
        self.settle()
        return "done"

    def settle(self) -> bool:
        """Complete or pause it, if it is at rest."""
        if self.status not in UNDER_WAY:
            return False
        if self.status == "cancelling":
            for item in self.some("pending"):
                item.state = "cancelled"
                item.moved = True
        if not self.some("pending", "running"):
            self._complete()
        elif self.status == "pausing" and not self.some("running"):
            self.status = "paused"
        else:
            return False
        return True

    def free_leases(self) -> None:
        """Take back what is over."""
        for item in self.some("running"):
            if item.over and not item.held:
                item.token += 1
                item.lost += 1
                item.state = "failed" if item.lost >= MAX_LOST else "pending"
                item.moved |= item.state == "failed"

    def give_up(self, workers: str) -> None:
        """Fail it whole, if nobody can ever work on it: `workers` are none, able or unable."""
        if not self.is_stale() or workers == "able":
            return
        if workers == "none" and any(item.token for item in self.items.values()):
            return
        for item in self.some("pending", "running"):
            item.state, item.token, item.moved = "failed", item.token + 1, True
        self._complete(whole=True)

    def is_stale(self) -> bool:
        """Whether nothing has moved in it for long, though something is left to do."""
        if self.status not in {"queued", "running"} or not self.old:
            return False
        left = self.status == "queued" or self.some("pending", "running")
        return bool(left) and not any(item.moved for item in self.items.values())

    def _complete(self, *, whole: bool = False) -> None:
        self.status = "completed"
        failed = whole or bool(self.some("failed"))
        if self.some("cancelled") or not (self.items or whole):
            self.outcome = "cancelled"
        elif failed:
            self.outcome = "partially_succeeded" if self.some("succeeded") else "failed"
        else:
            self.outcome = "succeeded"


def holders(runs: list[Run], group: str, tenant: str | None) -> list[Run]:
    """The runs that keep others off this scope."""
    return [
        run
        for run in runs
        if run.group == group and run.status != "completed" and (None in {run.tenant, tenant} or run.tenant == tenant)
    ]
