"""The findings of one SARIF file, and the count of what was left out."""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opsplane.errors import InvalidInput, ServiceUnavailable
from opsplane.findings.sarif.fingerprints import Occurrences
from opsplane.findings.sarif.locations import Artifacts
from opsplane.findings.sarif.results import RESULTS, SarifFinding, finding_of, reason_to_skip
from opsplane.findings.sarif.rules import Budget, Run, read_runs
from opsplane.findings.sarif.stream import members
from opsplane.findings.sarif.values import Refused, dotted, expect_object


class SarifReader:
    """The findings of one SARIF file; iterate to read it, then ask what was left out.

    Raises:
        InvalidInput: the file cannot be read or is not SARIF 2.1.0; findings before the fault may have been yielded.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results = 0
        """Results read so far, the skipped ones included."""
        self.skipped: Counter[str] = Counter()
        """Results that are no findings, by reason."""

    def __iter__(self) -> Iterator[SarifFinding]:
        self.results = 0
        self.skipped.clear()
        name = "".join(char if char.isprintable() else "\ufffd" for char in self.path.name) or "."
        try:
            yield from self._findings()
        except Refused as refusal:
            raise InvalidInput(f"{name}: {refusal}") from None
        except OSError as error:
            raise InvalidInput(f"{name}: cannot be read: {error.strerror or error}") from error
        except sqlite3.Error as error:
            raise ServiceUnavailable(f"{name}: no room for a temporary file: {error}") from error

    def _findings(self) -> Iterator[SarifFinding]:
        budget = Budget()
        runs = read_runs(self.path, budget)
        artifacts = Artifacts(self.path, budget)
        with contextlib.closing(Occurrences()) as occurrences:
            for place, value, _ in members(self.path, RESULTS):
                self.results += 1
                at = dotted(place)
                result = expect_object(value, at)
                if not self._skips(result, at):
                    yield finding_of(result, _run(runs, int(place[1]), at), artifacts, occurrences, at)

    def _skips(self, result: dict[str, Any], at: str) -> bool:
        reason = reason_to_skip(result, at)
        if reason:
            self.skipped[reason] += 1
        return bool(reason)


def read(path: Path) -> Iterator[SarifFinding]:
    """The findings of a SARIF 2.1.0 file.

    Raises:
        InvalidInput: the file cannot be read or is not SARIF 2.1.0; the message names it and the position.

    """
    yield from SarifReader(path)


def _run(runs: dict[int, Run], index: int, at: str) -> Run:
    if index not in runs:
        raise Refused(f"{at}: the file changed while it was read")
    return runs[index]
