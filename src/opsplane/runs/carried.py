"""What one chunk has made of the tenants that a worker held."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from opsplane.runs.leases import Lease


@dataclass
class Carried:
    """Those that are `whole` and those that are `unfinished`, as it has stored them; and what it took of its limit.

    It has not got to those that are `waiting`; those that are `lost` are another worker's.
    """

    whole: list[Lease] = field(default_factory=list)
    unfinished: list[Lease] = field(default_factory=list)
    waiting: list[Lease] = field(default_factory=list)
    lost: list[Lease] = field(default_factory=list)
    updated: int = 0
    took: int = 0

    def with_waiting(self, others: Sequence[Lease]) -> "Carried":
        """And those that it was not asked to carry."""
        return replace(self, waiting=[*self.waiting, *others])
