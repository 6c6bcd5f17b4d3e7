"""Commands that watch real runs: on a terminal, through a pipe, left with Ctrl-C; and the demo."""

import asyncio
import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from opsplane import fleet
from opsplane.auth.actors import Actor
from opsplane.cli import demo
from opsplane.errors import ServiceUnavailable
from opsplane.findings.models import Finding
from opsplane.fleet import Fleet
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import support
from tests.integration.conftest import Commands

CONTROL = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")
FAILURE = "globex: runbook_error: ValueError: globex is broken"


class Terminal:
    """A terminal of which a test sees every byte."""

    def __init__(self, columns: int) -> None:
        self._ours, self.theirs = os.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.seen = ""

    def read_until(self, text: str, seconds: float = 40) -> None:
        """Read until this is on the screen."""
        ends = time.monotonic() + seconds
        while text not in CONTROL.sub("", self.seen):
            assert time.monotonic() < ends, self.seen
            self.seen += os.read(self._ours, 65_536).decode()

    def read(self, process: subprocess.Popen[str]) -> str:
        """All that was written until the process ended."""
        os.close(self.theirs)
        try:
            while more := os.read(self._ours, 65_536):
                self.seen += more.decode()
        except OSError:  # Linux says so when the last writer has gone
            pass
        process.wait(20)
        os.close(self._ours)
        return self.seen


async def test_a_terminal_is_drawn_on_and_a_failure_stays_above(
    plane: Plane, operator: Actor, tenants: list[Tenant], commands: Commands
) -> None:
    run = (await support.start(plane, operator, "test.effects.fails")).run
    terminal = Terminal(80)
    process = commands.start_on(terminal.theirs, "runs", "watch", str(run.id))
    await asyncio.to_thread(terminal.read_until, "Waiting for a worker")
    commands.start("worker")
    seen = await asyncio.to_thread(terminal.read, process)
    assert process.returncode == 1
    assert "\x1b[1A" in seen, "nothing was drawn over"
    text = CONTROL.sub("", seen)
    assert text.count(FAILURE) == 1
    end = text[text.rindex(" Partially succeeded ") :]
    for part in ("2 repaired", "0 nothing to repair", "1 failed", "Completed, Partially succeeded", "Took"):
        assert part in end, end
    assert text.count("Started by") == text.count(f"/system/ops/runs/{run.id}") == 1
    assert "No worker is alive" in text


async def test_a_pipe_gets_plain_lines_and_json_alone_on_stdout(
    plane: Plane, operator: Actor, tenants: list[Tenant], commands: Commands
) -> None:
    run = (await support.start(plane, operator, "test.effects.fails")).run
    process = commands.start("runs", "watch", str(run.id), "--json", FORCE_COLOR="1")
    await asyncio.sleep(2)
    commands.start("worker")
    out, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 1
    assert json.loads(out)["outcome"] == "partially_succeeded"
    assert not re.search(r"\x1b\[[?0-9;]*[A-HJKhl]|\r", err), "a cursor was moved in a log"
    lines = CONTROL.sub("", err).splitlines()
    assert len([line for line in lines if line.startswith(FAILURE)]) == 1
    states = [line.partition(":")[0] for line in lines if re.match(r"(Queued|Running|Partially succeeded): ", line)]
    assert list(dict.fromkeys(states)) in (
        ["Queued", "Running", "Partially succeeded"], ["Queued", "Partially succeeded"],
    )  # fmt: skip


async def test_ctrl_c_leaves_the_run_alone_and_says_how_to_come_back(
    plane: Plane, operator: Actor, tenants: list[Tenant], commands: Commands
) -> None:
    run = (await support.start(plane, operator, "test.effects.plain")).run
    terminal = Terminal(120)
    process = commands.start_on(terminal.theirs, "runs", "watch", str(run.id))
    await asyncio.to_thread(terminal.read_until, "Waiting for a worker")
    process.send_signal(signal.SIGINT)
    seen = await asyncio.to_thread(terminal.read, process)
    assert process.returncode == 130
    assert f"opsplane runs watch {run.id}" in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l"), "the cursor stayed hidden"
    assert (await support.show(plane, run.id)).status == "queued"


async def test_lists_and_sheets_have_the_words_of_the_pages(
    plane: Plane, operator: Actor, tenants: list[Tenant], commands: Commands
) -> None:
    run = (await support.start(plane, operator, "test.effects.fails")).run
    await support.drain(plane, run.id)
    listed = await asyncio.to_thread(commands.run, "runs", "list")
    assert re.search(rf"{run.id}  test.effects.fails  All tenants  Completed  Partially succeeded  100 ", listed.stdout)
    shown = (await asyncio.to_thread(commands.run, "runs", "show", str(run.id))).stdout
    assert "2 repaired, 0 nothing to repair, 1 failed" in shown
    assert "Some tenants failed, all others are done." in shown
    assert FAILURE in shown


async def test_the_demo_ends_with_a_proof_and_its_links_lead_to_its_port(plane: Plane, commands: Commands) -> None:
    small = ("--tenants", "5", "--findings", "500", "--port", "9123", "--no-serve")
    done = await asyncio.to_thread(commands.run, "demo", *small)
    assert done.returncode == 0, done.stderr
    steps = re.findall(r"^(\d)/6 ", done.stderr, re.MULTILINE)
    assert steps == ["1", "2", "3", "4", "5", "6"]
    assert done.stderr.count("http://localhost:9123/system/ops/runs/") == 2
    numbers = re.findall(r"  +([\d,]+)$", done.stdout, re.MULTILINE)
    assert len(set(numbers[:3])) == 1
    assert numbers[3:] == ["0", "0"]
    assert "Every number agrees" in done.stdout


@pytest.fixture
def hopeless(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setattr(fleet, "LOOK_S", 0.05)
    workers = Fleet([sys.executable, "-c", "exit(3)"], dict(os.environ), 1)
    yield workers
    workers.end()


async def test_the_demo_gives_up_once_none_of_its_workers_can_be_kept_alive(
    plane: Plane, operator: Actor, tenants: list[Tenant], hopeless: Fleet
) -> None:
    await support.add_findings(plane, tenants[0], 5)
    with pytest.raises(ServiceUnavailable, match="Every worker has ended"):
        await asyncio.wait_for(demo._run(plane, hopeless, "a test", by=operator, force=False), 20)
    assert await support.count(plane, Finding) == 5
