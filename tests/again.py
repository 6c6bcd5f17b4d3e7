"""Runs pytest, and what failed once more, alone: a test that fails only beside others has failed in time, not in fact.

`python -m tests.again` takes pytest's arguments. Many failures, a worker that crashed, a file that cannot be
collected or a run that stopped early are never repeated.
"""

import subprocess
import sys
from collections.abc import Sequence

import pytest

AT_MOST = 5
PHASES = ("setup", "call", "teardown")


class Failures:
    """Which tests failed, and whether anything else did."""

    def __init__(self) -> None:
        self.tests: list[str] = []
        self.broken = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.nodeid not in self.tests:
            self.tests.append(report.nodeid)
        self.broken |= report.when not in PHASES  # so xdist reports a worker that died

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.broken |= report.failed

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.broken |= bool(session.shouldfail or session.shouldstop)


def main(arguments: Sequence[str]) -> int:
    """The exit code of pytest, or 0 if at most five tests failed and each of them passes alone."""
    failures = Failures()
    code = int(pytest.main(list(arguments), plugins=[failures]))
    if code != pytest.ExitCode.TESTS_FAILED or failures.broken or not 0 < len(failures.tests) <= AT_MOST:
        return code
    _say("Once more, alone:", failures.tests)
    alone = subprocess.run([sys.executable, "-m", "pytest", "-n", "0", *failures.tests], check=False).returncode
    _say("FAILED TWICE, some of:" if alone else "FAILED beside others, and PASSED alone:", failures.tests)
    return alone


def _say(heading: str, tests: list[str]) -> None:
    print(f"\n{heading}", *tests, sep="\n  ", flush=True)  # noqa: T201 - it is a command


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
