"""What may call itself a runbook."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import ColumnElement
from sqlalchemy.orm import InstrumentedAttribute

from opsplane import RepairRunbook
from opsplane.errors import ConfigurationError
from opsplane.findings.models import Finding
from opsplane.runbooks import registry
from opsplane.tenants.models import Workspace

registry.load()  # now: a test that swaps the registry would otherwise be the first to import the library


class Good(RepairRunbook):
    key, title, capability, confirmation_phrase = "test.registry.good", "Good", "platform.runbooks.test", "GO"
    table: ClassVar[Any] = Finding

    def wrong(self) -> ColumnElement[bool]:
        return Finding.times_seen < 0

    def right(self) -> Mapping[InstrumentedAttribute[Any], Any]:
        return {Finding.times_seen: 1}


def variant(**attributes: Any) -> type[RepairRunbook]:
    return type("Variant", (Good,), attributes)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"capability": ""}, "has no capability"),
        ({"title": None}, "has no title"),
        ({"confirmation_phrase": ""}, "has no confirmation_phrase"),
        ({"key": "NoDots"}, "not of the form"),
        ({"table": Workspace}, "forgets the tenant"),
        ({"right": lambda _self: {Finding.tenant_id: None}}, "other than the key and the tenant"),
        ({"right": lambda _self: {}}, "other than the key and the tenant"),
    ],
)
def test_a_runbook_that_cannot_run_safely_is_refused(attributes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        registry.register(variant(**attributes))


def test_two_runbooks_cannot_have_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_runbooks", {})
    registry.register(Good)
    registry.register(Good)
    with pytest.raises(ConfigurationError, match="Two runbooks have the key"):
        registry.register(variant())


def test_a_folder_of_runbooks_is_loaded_and_a_broken_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_runbooks", {})
    (tmp_path / "broken_one.py").write_text("import nothing_of_this_name")
    with pytest.raises(ConfigurationError, match=r"broken_one\.py cannot be loaded: ModuleNotFoundError"):
        registry.load(tmp_path)
    with pytest.raises(ConfigurationError, match="is not a folder"):
        registry.load(tmp_path / "missing")


def test_every_runbook_that_ships_can_be_described() -> None:
    shipped = [runbook for runbook in registry.every() if type(runbook).__module__.startswith(registry.LIBRARY)]
    assert shipped
    for runbook in shipped:
        assert runbook.description
        assert runbook.description.endswith(".")
        assert registry.KEY.fullmatch(runbook.key)
