"""Which events a rule is about, as a table."""

from typing import Any

import pytest

from opsplane.alerts import matching
from opsplane.alerts.models import AlertRule
from opsplane.alerts.rules import USUAL
from opsplane.outbox import Kind, OutboxEvent, Severity

RUN = {"type": "findings.backfill", "scope_kind": "all_tenants", "tenant": None}
ONE = {"type": "findings.backfill", "scope_kind": "single_tenant", "tenant": "acme"}


def rule(**values: Any) -> AlertRule:
    usual = {"events": USUAL, "min_severity": "info", "runbooks": [], "scope": None, "tenants": []}
    return AlertRule(**usual | values)


def event(kind: Kind, payload: dict[str, Any] | None = None, severity: Severity = Severity.WARNING) -> OutboxEvent:
    return OutboxEvent(kind=kind, payload=payload or {}, severity=severity)


@pytest.mark.parametrize(
    ("given", "happened", "goes"),
    [
        ({}, event(Kind.RUN_FAILED, RUN), True),
        ({}, event(Kind.RUN_STALLED, RUN), True),
        ({}, event(Kind.BREAK_GLASS_STARTED), True),
        ({}, event(Kind.BREAK_GLASS_ENDED), True),
        ({}, event(Kind.AUDIT_DEGRADED), True),
        ({}, event(Kind.RUN_SUCCEEDED, RUN), False),
        ({"events": [Kind.RUN_SUCCEEDED]}, event(Kind.RUN_SUCCEEDED, RUN), True),
        ({"events": [Kind.RUN_SUCCEEDED]}, event(Kind.RUN_FAILED, RUN), False),
        ({"min_severity": "warning"}, event(Kind.RUN_FAILED, RUN, Severity.WARNING), True),
        ({"min_severity": "critical"}, event(Kind.RUN_FAILED, RUN, Severity.WARNING), False),
        ({"min_severity": "critical"}, event(Kind.RUN_FAILED, RUN, Severity.CRITICAL), True),
        ({"min_severity": "warning"}, event(Kind.BREAK_GLASS_ENDED, {}, Severity.INFO), False),
        ({"runbooks": ["findings.backfill"]}, event(Kind.RUN_FAILED, RUN), True),
        ({"runbooks": ["findings"]}, event(Kind.RUN_FAILED, RUN), False),
        ({"runbooks": ["findings.backfill"]}, event(Kind.AUDIT_DEGRADED), False),
        ({"scope": "all_tenants"}, event(Kind.RUN_FAILED, RUN), True),
        ({"scope": "all_tenants"}, event(Kind.RUN_FAILED, ONE), False),
        ({"scope": "single_tenant"}, event(Kind.RUN_FAILED, ONE), True),
        ({"scope": "single_tenant"}, event(Kind.BREAK_GLASS_STARTED), False),
        ({"tenants": ["acme"]}, event(Kind.RUN_FAILED, ONE), True),
        ({"tenants": ["globex"]}, event(Kind.RUN_FAILED, ONE), False),
        ({"tenants": ["acme"]}, event(Kind.RUN_FAILED, RUN), False),
    ],
)
def test_a_rule_lets_through_what_it_is_about_and_nothing_else(
    given: dict[str, Any], happened: OutboxEvent, goes: bool
) -> None:
    assert matching.matches(rule(**given), happened) is goes


def test_a_cooldown_counts_the_same_news_of_the_same_runbook_and_scope_as_one() -> None:
    news = [
        event(Kind.RUN_FAILED, RUN),
        event(Kind.RUN_FAILED, ONE),
        event(Kind.RUN_FAILED, ONE | {"tenant": "globex"}),
        event(Kind.RUN_FAILED, RUN | {"type": "other"}),
        event(Kind.RUN_STALLED, RUN),
        event(Kind.RUN_FAILED, RUN, Severity.CRITICAL),
        event(Kind.AUDIT_DEGRADED, {"trouble": "spooled"}),
        event(Kind.AUDIT_DEGRADED, {"trouble": "not-sealed"}),
        event(Kind.BREAK_GLASS_STARTED, {"who": "olga"}),
        event(Kind.BREAK_GLASS_STARTED, {"who": "otto"}),
    ]
    assert len({matching.cooldown_key(one) for one in news}) == len(news)
    again = event(Kind.RUN_FAILED, RUN | {"run_id": "another", "counts": {"failed": 3}})
    assert matching.cooldown_key(again) == matching.cooldown_key(news[0])
