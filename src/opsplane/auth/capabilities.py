"""The registry of capabilities: what a platform user can be allowed to do."""

from enum import StrEnum


class Capability(StrEnum):
    """Capabilities opsplane itself asks for; a runbook may name one of its own besides."""

    SYSTEM_ACCESS = "platform.system.access"
    OPS_VIEW = "platform.ops.view"
    RUNBOOKS_VIEW = "platform.runbooks.view"
    RUNBOOKS_RUN = "platform.runbooks.run"
    RUNBOOKS_FINDINGS_LIFECYCLE_BACKFILL = "platform.runbooks.findings.lifecycle_backfill"
    BREAK_GLASS = "platform.break_glass"
    AUDIT_VIEW = "platform.audit.view"
    ALERTS_MANAGE = "platform.alerts.manage"
    USERS_MANAGE = "platform.users.manage"
