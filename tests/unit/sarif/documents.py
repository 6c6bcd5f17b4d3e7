"""SARIF documents as a linter would write them, and broken ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opsplane.errors import InvalidInput
from opsplane.findings import sarif
from opsplane.findings.sarif import SarifFinding

Write = Callable[..., Path]
One = Callable[..., SarifFinding]


def result(**changes: Any) -> dict[str, Any]:
    """A result that a linter would write; None takes a property away."""
    value = {
        "ruleId": "R1",
        "level": "error",
        "message": {"text": "First line\nsecond line"},
        "locations": [at("src/a.py", startLine=3, startColumn=5, endLine=4, endColumn=9)],
    }
    return {key: item for key, item in (value | changes).items() if item is not None}


def at(uri: str | None = None, *, index: int | None = None, **region: Any) -> dict[str, Any]:
    artifact = {"uri": uri, "index": index}
    return {"physicalLocation": {"artifactLocation": artifact, "region": region}}


def run(*results: Any, rules: Any = (), **changes: Any) -> dict[str, Any]:
    tool = {"driver": {"name": "lint", "version": "1.2", "rules": list(rules)}}
    return {"tool": tool, "results": list(results), **changes}


def sarif_document(*runs: Any) -> dict[str, Any]:
    return {"version": "2.1.0", "runs": list(runs)}


def score(value: Any) -> dict[str, Any]:
    return {"properties": {"security-severity": value}}


def broken(**changes: Any) -> dict[str, Any]:
    return sarif_document(run(result(), result(**changes)))


HERE = "scan.sarif: runs[0].results[1]"


def refusal(path: Path) -> str:
    with pytest.raises(InvalidInput) as caught:
        list(sarif.read(path))
    assert len(caught.value.message.splitlines()) == 1
    return caught.value.message
