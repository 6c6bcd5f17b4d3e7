"""The choices in the form of a rule of alerts, as people read them."""

from opsplane.outbox import Kind, Severity

EVENTS = {
    Kind.RUN_FAILED: "Failed runs",
    Kind.RUN_STALLED: "Stalled runs",
    Kind.RUN_SUCCEEDED: "Succeeded runs",
    Kind.BREAK_GLASS_STARTED: "Break-glass begun",
    Kind.BREAK_GLASS_ENDED: "Break-glass ended",
    Kind.AUDIT_DEGRADED: "Trouble of the audit",
}
SEVERITIES = {
    Severity.INFO: "Whatever it is",
    Severity.WARNING: "Warning and above",
    Severity.CRITICAL: "Critical alone",
}
