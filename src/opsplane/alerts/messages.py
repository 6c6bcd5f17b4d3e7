"""What an event says, the same for every channel; nothing in it comes from what customers stored."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from opsplane.db import new_id
from opsplane.outbox import Kind, OutboxEvent, Severity

UNKNOWN = {"type_label": "A run", "who": "Somebody"}
TITLES = {
    Kind.RUN_FAILED: "{type_label} failed",
    Kind.RUN_SUCCEEDED: "{type_label} succeeded",
    Kind.RUN_STALLED: "{type_label} has stalled",
    Kind.BREAK_GLASS_STARTED: "{who} broke the glass",
    Kind.BREAK_GLASS_ENDED: "Break-glass of {who} has ended",
    Kind.AUDIT_DEGRADED: "The audit is in trouble",
    Kind.TEST: "Test alert from opsplane",
}
PARTIALLY = "{type_label} partially succeeded"


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message; `key` is the same whenever it is sent again, so that receivers can drop a repeat."""

    key: str
    kind: Kind
    severity: Severity
    title: str
    facts: tuple[tuple[str, str], ...]
    link: str
    link_text: str
    at: datetime
    data: dict[str, Any]  # the same for programs


def of(event: OutboxEvent, base_url: str) -> Message:
    """The message of an event; its link is absolute and leads into the system plane."""
    kind, payload = Kind(event.kind), event.payload
    path, link_text = _link(kind, payload)
    link = f"{base_url}{path}"
    return Message(
        key=str(event.id),
        kind=kind,
        severity=Severity(event.severity),
        title=title(kind, payload),
        facts=tuple(_facts(payload)),
        link=link,
        link_text=link_text,
        at=event.created_at,
        data=payload | {"severity": event.severity, "view_url": link},
    )


def test(*, by: str, base_url: str) -> Message:
    """A message that somebody sends to see whether it arrives; every one of them is new."""
    event = OutboxEvent(
        id=new_id(), kind=Kind.TEST, severity=Severity.INFO, dedupe_key="", payload={"sent_by": by},
        created_at=datetime.now(UTC),
    )  # fmt: skip
    return of(event, base_url)


def title(kind: Kind, payload: dict[str, Any]) -> str:
    """What has happened, in one line."""
    partially = payload.get("outcome") == "partially_succeeded"
    return (PARTIALLY if partially else TITLES[kind]).format(**UNKNOWN | payload)


def _facts(payload: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "type" in payload:
        yield "Runbook", str(payload["type"])
    if "scope_kind" in payload:
        tenant = payload.get("tenant")
        yield "Scope", "All tenants" if tenant is None else f"Tenant {tenant}"
    yield from _counted(payload.get("counts", {}))
    for name, label in (("ends_at", "Ends"), ("what", "What"), ("sent_by", "Sent by")):
        if name in payload:
            yield label, str(payload[name])


def _counted(counts: dict[str, int]) -> Iterator[tuple[str, str]]:
    if counts.get("total"):
        parts = [f"{counts[name]:,} {name}" for name in ("succeeded", "failed", "skipped") if counts.get(name)]
        yield "Tenants", f"{', '.join(parts) or 'none done'} of {counts['total']:,}"
    if "updated" in counts:
        yield "Rows", f"{counts['updated']:,} updated, {counts.get('errors', 0):,} errors"


def _link(kind: Kind, payload: dict[str, Any]) -> tuple[str, str]:
    if "run_id" in payload:
        return f"/system/ops/runs/{uuid.UUID(payload['run_id'])}", "View run"
    if kind is Kind.TEST:
        return "/system/alerts", "View alerts"
    action = "platform.break_glass" if "break_glass" in kind else "platform.audit"
    return f"/system/audit?action={quote(action)}", "View audit"
