"""The command line as a newcomer types it: help, typing errors, wrong settings, the scaffold."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from opsplane.cli import output
from opsplane.runbooks import registry

GROUPS = ("demo", "up", "serve", "worker", "migrate", "doctor", "runbooks", "runs", "tenants", "findings", "users")
NOBODY = {"OPSPLANE_DATABASE_URL": "postgresql://u:s3cret@127.0.0.1:1/x", "OPSPLANE_REDIS_URL": "redis://127.0.0.1:1"}


def opsplane(
    *arguments: str, module: str = "main", cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
    return subprocess.run(
        [sys.executable, "-m", f"opsplane.cli.{module}", *arguments],
        env={**os.environ, **(environment or {}), "PYTHONPATH": path, "NO_COLOR": "1"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, saying: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert saying in done.stderr
    assert not done.stdout


def test_help_lists_every_group() -> None:
    done = opsplane("--help")
    assert done.returncode == 0
    listed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("│ ") and line[2] != " "]
    assert [name for name in listed if not name.startswith("-")] == [
        *GROUPS,
        "tokens",
        "members",
        "alerts",
        "audit",
        "new",
    ]


@pytest.mark.parametrize("arguments", [["nope"], ["runs", "nope"], ["runs", "show", "not-a-uuid"], ["runs", "show"]])
def test_a_wrong_command_or_argument_is_a_usage_error(arguments: list[str]) -> None:
    done = opsplane(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("module", "arguments"), [("main", ["tenants", "list"]), ("deploy", [])])
def test_a_misspelt_setting_is_named(module: str, arguments: list[str]) -> None:
    done = opsplane(*arguments, module=module, environment={"OPSPLANE_DATABSE_URL": "x"})
    assert_one_line(done, 2, "OPSPLANE_DATABSE_URL is not a setting of opsplane; did you mean OPSPLANE_DATABASE_URL?")


@pytest.mark.parametrize(("module", "arguments"), [("main", ["runs", "list"]), ("deploy", [])])
def test_a_database_that_is_away_is_one_line_without_its_password(module: str, arguments: list[str]) -> None:
    done = opsplane(*arguments, module=module, environment=NOBODY)
    assert_one_line(done, 4, "The database cannot be reached")
    assert "s3cret" not in done.stderr


def test_a_deploy_of_an_unknown_runbook_stops_before_it_migrates() -> None:
    assert_one_line(
        opsplane("--runbook", "no.such", module="deploy", environment=NOBODY), 2, "There is no runbook 'no.such'"
    )


def test_a_new_runbook_imports_and_registers(tmp_path: Path) -> None:
    done = opsplane("new", "runbook", "invoices.due-date.fix", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "runbooks/invoices_due_date_fix.py",
        "runbooks/tests/test_invoices_due_date_fix.py",
    ]
    try:
        registry.load(tmp_path / "runbooks")
        runbook = registry.find("invoices.due-date.fix")
        assert runbook.capability == "platform.runbooks.invoices_due_date_fix"
        assert runbook.confirmation_phrase == "FIX"
    finally:
        registry._runbooks.pop("invoices.due-date.fix", None)
        sys.modules.pop("opsplane_runbooks_dir.invoices_due_date_fix", None)


def test_a_new_runbook_overwrites_nothing(tmp_path: Path) -> None:
    opsplane("new", "runbook", "invoices.fix", cwd=tmp_path)
    file = tmp_path / "runbooks" / "invoices_fix.py"
    file.write_text("mine")
    assert_one_line(opsplane("new", "runbook", "invoices.fix", cwd=tmp_path), 3, "is there already")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("key", ["bad", "A.B", "a..b", "a.b-", "../a.b", "a.b c"])
def test_a_bad_key_is_refused(key: str, tmp_path: Path) -> None:
    assert_one_line(opsplane("new", "runbook", key, cwd=tmp_path), 2, "is not a runbook key")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_one_line(opsplane("new", "runbook", "a.b", "--into", "file", cwd=tmp_path), 2, "cannot be written to")


def test_data_is_never_markup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant named like a closing tag once ended `tenants list` for everybody."""
    monkeypatch.setattr(output.out, "_file", sys.stdout)  # `file` would be put back as the standard output of now
    output.rows(["NAME"], [("Acme [/x] [red]GmbH",)], empty="")
    output.facts({"name": "Acme [/x] [red]GmbH"})
    assert capsys.readouterr().out.count("Acme [/x] [red]GmbH") == 2
