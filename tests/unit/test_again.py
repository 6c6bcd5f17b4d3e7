"""What `make unit` makes of tests that failed beside others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ONCE = """
import pathlib
def test_{n}():
    marker = pathlib.Path("{n}.ran")
    first = not marker.exists()
    marker.touch()
    assert not first
"""
RIGHT, WRONG = "def test_right(): pass\n", "def test_wrong(): assert False\n"
DIES = "import os\ndef test_dies(): os._exit(1)\n"


def run(folder: Path, text: str, *arguments: str) -> tuple[int, str]:
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p xdist")
    (folder / "test_it.py").write_text(text)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.again", "-n", "1", "--dist", "loadfile", *arguments],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return ended.returncode, ended.stdout


def once(count: int) -> str:
    return "".join(ONCE.format(n=n) for n in range(count))


def test_what_fails_beside_others_and_passes_alone_is_named_and_passes(tmp_path: Path) -> None:
    code, said = run(tmp_path, RIGHT + once(5))
    assert code == 0
    assert "5 failed, 1 passed" in said
    named = said.rpartition("FAILED beside others, and PASSED alone:")[2].split()
    assert named == [f"test_it.py::test_{n}" for n in range(5)]


def test_what_fails_twice_fails(tmp_path: Path) -> None:
    code, said = run(tmp_path, WRONG + once(1))
    assert code == 1
    assert "1 failed, 1 passed" in said
    assert "FAILED TWICE" in said


@pytest.mark.parametrize(
    ("text", "arguments"),
    [(once(6), []), (once(1) + RIGHT, ["-x"]), (once(1) + DIES, []), (once(1) + "import nothing_of_this_name", [])],
    ids=["six", "stopped early", "a worker that dies", "no collection"],
)
def test_much_that_fails_or_a_run_that_broke_is_not_repeated(tmp_path: Path, text: str, arguments: list[str]) -> None:
    code, said = run(tmp_path, text, *arguments)
    assert code != 0
    assert "Once more" not in said


def test_a_run_without_a_test_fails(tmp_path: Path) -> None:
    assert run(tmp_path, "")[0] == pytest.ExitCode.NO_TESTS_COLLECTED
