"""Whether an event is one that a rule is about."""

from opsplane.alerts.models import AlertRule
from opsplane.outbox import OutboxEvent, Severity

RANKS = {severity: rank for rank, severity in enumerate(Severity)}


def matches(rule: AlertRule, event: OutboxEvent) -> bool:
    """Whether the rule lets the event through; a filter on runs lets through nothing but runs."""
    payload = event.payload
    return (
        event.kind in rule.events
        and RANKS[Severity(event.severity)] >= RANKS[Severity(rule.min_severity)]
        and (not rule.runbooks or payload.get("type") in rule.runbooks)
        and (rule.scope is None or payload.get("scope_kind") == rule.scope)
        and (not rule.tenants or payload.get("tenant") in rule.tenants)
    )


def cooldown_key(event: OutboxEvent) -> str:
    """What a cooldown counts as the same again: news as bad, of the same runbook and scope, person or trouble."""
    about = (event.payload.get(name) for name in ("type", "scope_kind", "tenant", "who", "trouble"))
    return " ".join(str(part) for part in (event.kind, event.severity, *about) if part is not None)
