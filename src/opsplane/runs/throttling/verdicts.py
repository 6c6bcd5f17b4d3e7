"""How fast a run may go, from one reading to the next: down at once, and back up in steps."""

from dataclasses import dataclass, replace
from enum import StrEnum

from opsplane.runs.throttling.signals import BARELY, STOP, Judgement, Signal

FULL = 1.0
LONGEST_REST_S = 5.0


class Level(StrEnum):
    """What to do."""

    GO = "go"
    SLOW = "slow"
    PAUSE = "pause"


@dataclass(frozen=True)
class Verdict:
    """The share of its time in which a drain may work, and the judgement that made it less than all."""

    share: float = FULL
    because: Judgement | None = None

    @property
    def level(self) -> Level:
        """What to do: work, rest after each chunk, or wait without a tenant in hand."""
        if self.share == STOP:
            return Level.PAUSE
        return Level.GO if self.share == FULL else Level.SLOW

    @property
    def reason(self) -> str | None:
        """Why, as an operator sees it; None at full speed."""
        return None if self.because is None else self.because.reason

    @property
    def signal(self) -> Signal | None:
        """The signal that it is about."""
        return None if self.because is None else self.because.signal

    def rest_s(self, worked_s: float, *, longest_s: float = LONGEST_REST_S) -> float:
        """How long to rest after having worked so long; never so long that a lease could run out."""
        if self.level is not Level.SLOW:
            return 0
        return min(worked_s * (FULL / self.share - 1), longest_s)

    def after(self, worst: Judgement | None) -> "Verdict":
        """The next one, when a reading was judged: as fast as the judgement leaves it, twice as fast once it is over.

        It takes a few readings back to full speed, so that whatever was too much does not come all at once again.
        """
        raised = max(BARELY, min(FULL, self.share * 2))
        if worst is None:
            return Verdict() if raised == FULL else replace(self, share=raised)
        return Verdict(min(worst.least, raised), worst)
