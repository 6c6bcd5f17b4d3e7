"""A message for tests of alerts."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from opsplane.alerts.messages import Message
from opsplane.outbox import Kind, Severity

MESSAGE = Message(
    key="01a1fea0-44a8-7086-9980-e2a1e6c1aaee",
    kind=Kind.RUN_FAILED,
    severity=Severity.CRITICAL,
    title="Rebuild Findings Lifecycle failed",
    facts=(("Runbook", "findings.lifecycle.backfill"), ("Scope", "All tenants"), ("Tenants", "3 failed of 250")),
    link="https://ops.example/system/ops/runs/01a1fea0-44a8-7086-9980-e2a1e6c1aaee",
    link_text="View run",
    at=datetime(2026, 11, 21, 20, 42, 22, 123456, tzinfo=UTC),
    data={"type": "findings.lifecycle.backfill", "outcome": "failed", "severity": "critical"},
)


def message(**changed: Any) -> Message:
    return replace(MESSAGE, **changed)
