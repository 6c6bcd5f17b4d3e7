"""SARIF files on disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opsplane.findings import sarif
from opsplane.findings.sarif import SarifFinding
from tests.unit.sarif.documents import Write, run, sarif_document


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(content: Any) -> Path:
        path = tmp_path / "scan.sarif"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write_file


@pytest.fixture
def one(write: Write) -> Callable[..., SarifFinding]:
    def read_one(found: dict[str, Any], **run_changes: Any) -> SarifFinding:
        (finding,) = sarif.read(write(sarif_document(run(found, **run_changes))))
        return finding

    return read_one
