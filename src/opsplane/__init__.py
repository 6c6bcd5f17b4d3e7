"""An operator control plane: repairs of multi-tenant Postgres data as safe, tracked, audited runbooks.

The names here are what an author of runbooks needs. They are imported when first used, because the small
processes that own the embedded servers import this package too, and SQLAlchemy would cost each of them a second.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opsplane.auth.capabilities import Capability
    from opsplane.runbooks.base import RepairRunbook, Retry, Runbook
    from opsplane.runbooks.chunk import Chunk, Cursor
    from opsplane.runbooks.impact import Impact
    from opsplane.runbooks.indexes import Index
    from opsplane.runbooks.registry import register

__version__ = "0.1.0"
__all__ = ["Capability", "Chunk", "Cursor", "Impact", "Index", "RepairRunbook", "Retry", "Runbook", "register"]

_HOMES = {
    "Capability": "opsplane.auth.capabilities",
    "Chunk": "opsplane.runbooks.chunk",
    "Cursor": "opsplane.runbooks.chunk",
    "Impact": "opsplane.runbooks.impact",
    "Index": "opsplane.runbooks.indexes",
    "register": "opsplane.runbooks.registry",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'opsplane' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "opsplane.runbooks.base")), name)
