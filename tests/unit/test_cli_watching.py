"""What a terminal shows of a run, drawn from the values that pages and API show too."""

import io
import re
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from opsplane import serving
from opsplane.cli import heat, live, output, sheets
from opsplane.cli.lines import Lines
from opsplane.cli.live import Picture
from opsplane.cli.proof import Proof
from opsplane.cli.watching import Reporter
from opsplane.config import Settings
from opsplane.pages import badges
from opsplane.runbooks.scopes import ScopeKind
from opsplane.runs import words
from opsplane.runs.figures import FiguresOut
from opsplane.runs.schemas import (
    ActorOut,
    ContextOut,
    FailureOut,
    PreflightContext,
    ProgressOut,
    ReasonOut,
    RunOut,
    ScopeOut,
)  # fmt: skip
from opsplane.runs.states import ItemState, Outcome, Status

RUN_ID = uuid.UUID("01900000-0000-7000-8000-000000000001")
COUNTS = {"total": 250, "processed": 125, "succeeded": 120, "skipped": 3, "failed": 2, "updated": 55_265}
FIGURES = FiguresOut(
    cells="s" * 120 + "kkkff" + "rr" + "p" * 123, columns=40, tenants_per_cell=1, throughput=[], seconds_per_point=0
)
CONTROL = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")


def failed(name: str, message: str = "it is broken") -> FailureOut:
    tenant = uuid.uuid5(RUN_ID, name)
    return FailureOut(tenant_id=tenant, tenant_external_id=name, code="runbook_error", message=message, at=None)


def a_run(
    status: Status = Status.RUNNING, outcome: Outcome = Outcome.PENDING, *, fraction: float = 0.92, stalled: bool = False,
    failures: list[FailureOut] | None = None, **counts: int,
) -> RunOut:  # fmt: skip
    counts = COUNTS | counts
    progress = ProgressOut(
        fraction=fraction, rows_per_s=400, eta_s=12,
        said=words.said(status, counts, 60_000, fraction), pace=words.pace(status, 400 if fraction else None, 12, fraction),
    )  # fmt: skip
    return RunOut(
        id=RUN_ID, type="findings.lifecycle.backfill", type_label="Rebuild Findings Lifecycle",
        status=status, outcome=outcome, scope=ScopeOut(kind=ScopeKind.ALL_TENANTS),
        actor=ActorOut(kind="shell", display="root", break_glass=False), source="cli",
        reason=ReasonOut(code="DATA_REPAIR", text="Since the [/red] release"), release=None, summary_counts=counts,
        context=ContextOut(
            preflight=PreflightContext(affected_count=60_000), updated_count=counts["updated"],
            skipped_count=0, error_count=0, duration_ms=3500,
        ),
        failures=failures or [], progress=progress, stalled=stalled,
        next_step=words.next_step(status, outcome, stalled=stalled),
        created_at=datetime.now(UTC), started_at=None, completed_at=None, view_url=f"http://ops.test/system/ops/runs/{RUN_ID}",
    )  # fmt: skip


def terminal(width: int, **values: Any) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        width=width,
        height=40,
        highlight=False,
        color_system="standard",
        **values,
    )


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def drawn(shown: RunOut, width: int, figures: FiguresOut = FIGURES) -> list[str]:
    console = terminal(width)
    console.print(live.draw(shown, figures, width))
    return CONTROL.sub("", printed(console)).splitlines()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What goes to stdout."""
    file = io.StringIO()
    monkeypatch.setattr(output.out, "_file", file)  # `file` would be put back as the standard output of now
    return file


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_picture_says_how_far_how_fast_and_what_next_at_every_width(width: int) -> None:
    lines = drawn(a_run(), width)
    assert all(len(line.rstrip()) <= width for line in lines), lines
    text = " ".join(" ".join(lines).split())
    said = ("Running", "55,265 of 60,000 rows (92 %)", "400 rows/s, about 12 s left", "120 repaired")
    for part in (*said, "3 nothing to repair", "2 failed", "2 running", "123 pending", words.NEXT[Status.RUNNING]):
        assert part in text


def test_the_heat_line_is_one_line_as_wide_as_the_terminal() -> None:
    [line] = [line for line in drawn(a_run(), 50) if "\N{BLACK DIAMOND}" in line and "repaired" not in line][:1]
    assert len(line) == 50
    assert line.startswith("\N{BLACK SQUARE}" * 24)
    assert line.endswith("\N{MIDDLE DOT}" * 24)


@pytest.mark.parametrize(("cells", "expected"), [
    ("ks", "ks"), ("ssssss", "sss"), ("sskkcc", "skc"), ("kscspc", "scp"), ("ppprrf", "prf"), ("sssssssk", "sss"), ("", ""),
])  # fmt: skip
def test_of_several_tenants_the_one_that_needs_attention_most_is_drawn(cells: str, expected: str) -> None:
    assert heat.fitted(cells, 3) == expected


def test_no_failure_is_lost_however_narrow_the_line() -> None:
    for at in range(997):
        assert heat.fitted("s" * at + "f" + "s" * (996 - at), 40).count("f") == 1


def test_every_state_has_a_character_of_its_own() -> None:
    assert set(heat.CHARACTERS) == set(ItemState)
    assert len(set(heat.CHARACTERS.values())) == len(ItemState)


@pytest.mark.parametrize("kind", [Status, Outcome, ItemState])
def test_the_terminal_has_the_words_of_the_pages(kind: type[Status]) -> None:
    name = {"ItemState": "item"}.get(kind.__name__, kind.__name__.lower())
    assert set(badges.CATALOGUE[name]) - {"stalled", "throttled"} == set(kind)


def test_a_run_without_a_worker_says_what_to_do() -> None:
    assert drawn(a_run(stalled=True), 80)[-1].strip() == "No worker carries it on. Start one: opsplane worker"


def test_only_the_badge_has_the_look_of_a_badge() -> None:
    console = terminal(80)
    console.print(live.draw(a_run(), FIGURES, 80))
    assert printed(console).startswith("\x1b[1;7;34m Running \x1b[0m  55,265 of")


def test_without_colour_nothing_is_coloured() -> None:
    console = terminal(80, no_color=True)
    console.print(live.draw(a_run(), FIGURES, 80))
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|9[0-7])m", printed(console))
    assert "\N{BLACK DIAMOND}" in printed(console)


@pytest.mark.parametrize("screen", [Picture, Lines])
def test_each_failure_is_told_once_and_above(screen: type[Picture | Lines]) -> None:
    console = terminal(80)
    acme, globex = failed("acme", "a [bold]name[/bold]\nof two lines \x1b[2J"), failed("globex")
    with screen(console) as opened:
        reporter = Reporter(opened)
        reporter.show(a_run(), FIGURES)
        for failures in ([acme], [acme], [globex, acme], [globex, acme]):
            reporter.show(a_run(failures=failures), FIGURES)
    text = CONTROL.sub("", printed(console))
    assert text.count("acme: runbook_error: a [bold]name[/bold] of two lines \N{REPLACEMENT CHARACTER}[2J") == 1
    assert text.count("globex: runbook_error: it is broken") == 1
    assert text.rindex("globex") < text.rindex("Running") or screen is Lines


def test_more_failures_than_are_told_are_counted_at_the_end() -> None:
    console = terminal(80)
    with Lines(console) as opened:
        ended = a_run(Status.COMPLETED, Outcome.PARTIALLY_SUCCEEDED, fraction=1, failed=123, failures=[failed("acme")])
        Reporter(opened).show(ended, FIGURES)
    assert "and 122 more failed" in printed(console)


def test_a_pipe_gets_a_line_for_each_state_each_quarter_and_each_ten_seconds() -> None:
    now = 0.0
    console = Console(file=io.StringIO(), soft_wrap=True)
    lines = Lines(console, clock=lambda: now)

    def show(status: Status, updated: int, after_s: float) -> None:
        nonlocal now
        now += after_s
        lines.show(a_run(status, fraction=updated / 60_000, updated=updated))

    show(Status.QUEUED, 0, 0)
    show(Status.QUEUED, 0, 100)
    show(Status.RUNNING, 0, 1)
    show(Status.RUNNING, 14_999, 1)
    show(Status.RUNNING, 15_000, 1)
    show(Status.RUNNING, 20_000, 9.9)
    show(Status.RUNNING, 20_001, 0.1)
    show(Status.RUNNING, 46_000, 1)
    show(Status.RUNNING, 46_000, 60)
    show(Status.PAUSED, 46_000, 1)
    assert "\x1b" not in printed(console)
    assert [line.partition(" rows")[0] for line in printed(console).splitlines()] == [
        "Queued: Waiting for a worker. A worker will take it within seconds.",
        "Running: 0 of 60,000",
        "Running: 15,000 of 60,000",
        "Running: 20,001 of 60,000",
        "Running: 46,000 of 60,000",
        "Paused: 46,000 of 60,000",
    ]


def test_a_run_on_paper_has_the_pages_words_its_next_step_and_its_failures(answers: io.StringIO) -> None:
    shown = a_run(
        Status.COMPLETED, Outcome.PARTIALLY_SUCCEEDED, fraction=1, failed=3, failures=[failed("acme", "[/x]")]
    )
    sheets.whole(shown, json_=False)
    text = answers.getvalue()
    for part in (
        "Completed, Partially succeeded", "Data repair: Since the [/red] release", "All tenants", "root (cli)",
        "120 repaired, 3 nothing to repair, 3 failed", "3.5 s", words.ENDED[Outcome.PARTIALLY_SUCCEEDED],
        "acme: runbook_error: [/x]\nand 2 more failed\n",
    ):  # fmt: skip
        assert part in text


def test_a_run_that_ended_early_claims_no_percentage() -> None:
    assert words.said(Status.COMPLETED, {"updated": 20}, 60, 1.0) == "20 of 60 rows"
    assert words.said(Status.COMPLETED, {"updated": 60}, 60, 1.0) == "60 of 60 rows (100 %)"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_that_does_not_fit_becomes_paragraphs_with_whole_values(
    width: int, answers: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output.out, "width", width)
    output.rows(["RUN", "RUNBOOK", "SCOPE"], [(RUN_ID, "findings.lifecycle.backfill", "tenant-of-somebody")], empty="")
    text = answers.getvalue()
    assert max(len(line) for line in text.splitlines()) <= width
    assert all(part in text for part in (str(RUN_ID), "findings.lifecycle.backfill", "tenant-of-somebody"))


@pytest.mark.parametrize(("host", "expected"), [
    ("127.0.0.1", "http://localhost:9000"), ("0.0.0.0", "http://localhost:9000"), ("::1", "http://localhost:9000"),
    ("10.0.0.7", "http://10.0.0.7:9000"), ("fd00::7", "http://[fd00::7]:9000"),
])  # fmt: skip
def test_links_lead_to_the_port_being_served(host: str, expected: str) -> None:
    assert serving.linked(Settings(), host, 9000).base_url == expected
    known = Settings(base_url="https://ops.example")
    assert serving.linked(known, host, 9000).base_url == "https://ops.example"


@pytest.mark.parametrize(("before", "preflight", "again", "after", "holds"), [
    (70, 70, 0, 0, True), (71, 70, 0, 0, False), (70, 71, 0, 0, False), (70, 70, 1, 0, False), (70, 70, 0, 1, False),
])  # fmt: skip
def test_the_proof_holds_only_if_every_number_agrees(
    before: int, preflight: int, again: int, after: int, holds: bool
) -> None:
    first, second = (a_run(Status.COMPLETED, Outcome.SUCCEEDED, updated=updated) for updated in (70, again))
    assert Proof(before=before, preflight=preflight, first=first, second=second, after=after).holds is holds
