"""An operator control plane: repairs of multi-tenant Postgres data as safe, tracked, audited runbooks.

The names here are what an author of runbooks needs.
"""

__version__ = "0.1.0"

from opsplane.auth.capabilities import Capability
from opsplane.runbooks.base import Chunk, Cursor, Impact, RepairRunbook, Retry, Runbook
from opsplane.runbooks.registry import register

__all__ = ["Capability", "Chunk", "Cursor", "Impact", "RepairRunbook", "Retry", "Runbook", "register"]
