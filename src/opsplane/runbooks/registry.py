"""Every runbook of this process, by key."""

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
import sys
from pathlib import Path
from typing import TypeVar

from opsplane.auth.capabilities import Capability
from opsplane.errors import ConfigurationError, NotFound
from opsplane.runbooks.base import Runbook

ENTRY_POINTS = "opsplane.runbooks"
LIBRARY = "opsplane.runbooks.library"
KEY = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)+")

_runbooks: dict[str, Runbook] = {}

AnyRunbook = TypeVar("AnyRunbook", bound=type[Runbook])


class RunbookNotFound(NotFound):
    """No runbook of this process has this key."""

    code = "runbook_not_found"

    def __init__(self, key: str) -> None:
        super().__init__(f"There is no runbook {key!r}; see `opsplane runbooks list`.", runbook=key)


def register(runbook: AnyRunbook) -> AnyRunbook:
    """Make a runbook known; the class decorator of every runbook file.

    Raises:
        ConfigurationError: it lacks something, or another runbook has its key.
    """
    runbook.check()
    if not KEY.fullmatch(runbook.key):
        raise ConfigurationError(f"The runbook key {runbook.key!r} is not of the form area.name in lower case.")
    other = _runbooks.get(runbook.key)
    if other is not None and _origin(type(other)) != _origin(runbook):
        raise ConfigurationError(
            f"Two runbooks have the key {runbook.key}: {_origin(type(other))}, {_origin(runbook)}."
        )
    _runbooks[runbook.key] = runbook()
    return runbook


def find(key: str) -> Runbook:
    """The runbook with this key.

    Raises:
        RunbookNotFound: 404.
    """
    try:
        return _runbooks[key]
    except KeyError:
        raise RunbookNotFound(key) from None


def known(key: str) -> bool:
    """Whether this process has the code of this runbook."""
    return key in _runbooks


def every() -> list[Runbook]:
    """All runbooks, by title."""
    return sorted(_runbooks.values(), key=lambda runbook: runbook.title)


def capabilities() -> frozenset[str]:
    """Every capability there is: opsplane's own and those its runbooks ask for."""
    return frozenset(str(capability) for capability in [*Capability, *(runbook.capability for runbook in every())])


def load(folder: Path | None = None) -> None:
    """Import the shipped library, the entry points of installed packages, and the files of `folder`.

    Raises:
        ConfigurationError: one of them cannot be imported, or registers a bad runbook.
    """
    library = importlib.import_module(LIBRARY)
    for module in pkgutil.iter_modules(library.__path__, LIBRARY + "."):
        importlib.import_module(module.name)
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        _import(f"entry point {entry_point.name}", entry_point.load)
    if folder is not None:
        _load_folder(folder)


def _load_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigurationError(f"OPSPLANE_RUNBOOKS_DIR: {folder} is not a folder.")
    for file in sorted(folder.glob("*.py")):
        if not file.name.startswith("_"):
            _import(str(file), lambda file=file: _import_file(file))


def _import_file(file: Path) -> None:
    name = f"opsplane_runbooks_dir.{file.stem}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _import(what: str, load_it: object) -> None:
    assert callable(load_it)
    try:
        load_it()
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"Runbooks of {what} cannot be loaded: {type(error).__name__}: {error}") from error


def _origin(runbook: type[Runbook]) -> str:
    return f"{runbook.__module__}.{runbook.__qualname__}"
