"""Every mapped table in one import: for migrations, and for nothing else."""

from opsplane.alerts.models import OutboxEvent
from opsplane.audit.models import AuditEvent
from opsplane.auth.models import ApiToken, PlatformUser, PlatformUserCapability
from opsplane.db import Base
from opsplane.findings.models import Finding
from opsplane.runbooks.models import IdempotencyKey, Preflight
from opsplane.runs.models import OperationRun, OperationRunFailure, OperationRunItem, Process
from opsplane.tenants.models import Tenant, Workspace

metadata = Base.metadata

__all__ = [
    "ApiToken",
    "AuditEvent",
    "Finding",
    "IdempotencyKey",
    "OperationRun",
    "OperationRunFailure",
    "OperationRunItem",
    "OutboxEvent",
    "PlatformUser",
    "PlatformUserCapability",
    "Preflight",
    "Process",
    "Tenant",
    "Workspace",
    "metadata",
]
