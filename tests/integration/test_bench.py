"""The measurements of `python -m bench` at sizes that say nothing, so that they can still be taken."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_backfill_is_measured_against_a_script_that_leaves_the_same(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "bench", "backfill", "--rows", "2000", "--tenants", "20", "--repeats", "1"]
    done = subprocess.run(
        [*command, "--results", str(results)], cwd=ROOT, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    kept = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["contestant"] for line in kept] == ["script", "opsplane"]
    assert kept[0]["rows"] == kept[1]["rows"] > 1000
    assert "ratio" in done.stdout
