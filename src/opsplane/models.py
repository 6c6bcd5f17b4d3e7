"""Every mapped table in one import: for migrations, and for nothing else."""

from opsplane.alerts.models import AlertDelivery, AlertDestination, AlertRule, Notification
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
from opsplane.outbox import OutboxEvent
from opsplane.runbooks.models import IdempotencyKey, Preflight
from opsplane.runs.models import OperationRun, OperationRunFailure, OperationRunItem, Process
from opsplane.tenants.models import Tenant, Workspace

metadata = Base.metadata

__all__ = [
    "AdminSession",
    "AlertDelivery",
    "AlertDestination",
    "AlertRule",
    "ApiToken",
    "AuditEvent",
    "AuditHead",
    "AuditPending",
    "AuditSeal",
    "BreakGlass",
    "Finding",
    "IdempotencyKey",
    "Membership",
    "Notification",
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
