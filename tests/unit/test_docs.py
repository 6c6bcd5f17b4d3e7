"""The README knows every setting and every command."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from opsplane.cli.main import app
from opsplane.config import PREFIX, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def commands(group: Any, path: str) -> Iterator[str]:
    for name, command in getattr(group, "commands", {}).items():
        below = list(commands(command, f"{path} {name}"))
        yield from below or [f"{path} {name}"]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_readme_has_a_row_for_every_setting(name: str) -> None:
    field = Settings.model_fields[name]
    default = "unset" if field.default is None else f"`{field.default}`"
    row = f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |"
    assert row in README.splitlines(), f"README.md lacks this row:\n{row}"


def test_the_readme_has_no_row_for_a_setting_that_is_gone() -> None:
    rows = re.findall(rf"^\| `{PREFIX}(\w+)`", README, re.MULTILINE)
    assert sorted(rows) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize("command", [*commands(typer.main.get_command(app), "opsplane"), "opsplane-deploy"])
def test_the_readme_lists_every_command(command: str) -> None:
    rows = [line for line in README.splitlines() if line.startswith("| `opsplane")]
    assert any(f"`{command}`" in row for row in rows), f"README.md lists no `{command}` under Commands"


def test_the_readme_lists_no_command_that_is_gone() -> None:
    rows = "\n".join(line for line in README.splitlines() if line.startswith("| `opsplane"))
    listed = set(re.findall(r"`(opsplane[^`]*)`", rows))
    assert listed == {*commands(typer.main.get_command(app), "opsplane"), "opsplane-deploy"}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    broken = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert broken == []
