"""Every mapped table in one import: for migrations, and for nothing else."""

from opsplane.alerts.models import OutboxEvent
from opsplane.audit.models import AuditEvent, AuditHead, AuditPending, AuditSeal
from opsplane.auth.models import (
    AdminSession,
    ApiToken,
    BreakGlass,
    Membership,
    PlatformUser,
    PlatformUserCapability,
    RecoveryCode,
    SystemSession,
    TenantUser,
)
from opsplane.db import Base
from opsplane.findings.models import Finding
from opsplane.runbooks.models import IdempotencyKey, Preflight
from opsplane.runs.models import OperationRun, OperationRunFailure, OperationRunItem, Process
from opsplane.tenants.models import Tenant, Workspace

metadata = Base.metadata

__all__ = [
    "AdminSession",
    "ApiToken",
    "AuditEvent",
    "AuditHead",
    "AuditPending",
    "AuditSeal",
    "BreakGlass",
    "Finding",
    "IdempotencyKey",
    "Membership",
    "OperationRun",
    "OperationRunFailure",
    "OperationRunItem",
    "OutboxEvent",
    "PlatformUser",
    "PlatformUserCapability",
    "Preflight",
    "Process",
    "RecoveryCode",
    "SystemSession",
    "Tenant",
    "TenantUser",
    "Workspace",
    "metadata",
]
