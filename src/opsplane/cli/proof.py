"""What the demo says: its steps, its proof, and how to get in."""

from dataclasses import dataclass

from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from opsplane.cli import output
from opsplane.demo import OPERATOR, Access
from opsplane.runs.schemas import RunOut
from opsplane.runs.states import Outcome

STEPS = 6


@dataclass(frozen=True)
class Proof:
    """What was counted, by whom; the four numbers that must be one, and the two that must be nought."""

    before: int
    preflight: int
    first: RunOut
    second: RunOut
    after: int

    @property
    def rows(self) -> dict[str, int]:
        """Each number by what it is."""
        return {
            "Wrong before, by plain SQL": self.before,
            "Wrong by preflight": self.preflight,
            "Updated by the first run": self.first.context.updated_count,
            "Updated by the second run": self.second.context.updated_count,
            "Wrong after, by plain SQL": self.after,
        }

    @property
    def holds(self) -> bool:
        """Whether every number agrees."""
        before, *same, again, left = self.rows.values()
        ended = {self.first.outcome, self.second.outcome}
        return set(same) == {before} and again == left == 0 and ended == {Outcome.SUCCEEDED}


def step(number: int, what: str, why: str) -> None:
    """Say what comes, and what for."""
    output.note("")
    output.note(f"{number}/{STEPS} {what}", "bold")
    output.note(why, "dim")


def judge(proof: Proof) -> bool:
    """Print the numbers side by side, and say whether they agree."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right", style="bold")
    for what, number in proof.rows.items():
        table.add_row(what, f"{number:,}")
    output.out.print(table)
    if proof.holds:
        output.out.print(
            Text("Every number agrees: all that was wrong is repaired, and nothing was done twice.", "bold green")
        )
    else:
        output.out.print(Text("The numbers do not agree; this is a defect, please report it.", "bold red"))
    return proof.holds


def door(url: str, access: Access, seen: RunOut) -> None:
    """Say how to sign in, and where to look first; without borders at the sides, so that links can be copied."""
    output.note("")
    output.live.print(Rule("opsplane serves; Ctrl-C ends it", align="left"))
    output.facts({"Sign in": f"{url}/system/login", "E-mail": OPERATOR, "Password": access.password}, to=output.err)
    # Each on a line of its own, and that unbroken, whatever the width: they are copied.
    output.err.print(output.data(f"\nOpen the run you just saw:\n{seen.view_url}"))
    output.err.print(
        output.data(f"\nOr ask the API:\ncurl -H 'Authorization: Bearer {access.token}' {url}/system/ops/runs")
    )
    output.live.print(Rule())
