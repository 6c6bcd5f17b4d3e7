"""Where the files beside the code are: in the wheel under `_data`, in a checkout at its root."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
_WHEEL = _PACKAGE / "_data"

ROOT = _WHEEL if _WHEEL.is_dir() else _PACKAGE.parent.parent
