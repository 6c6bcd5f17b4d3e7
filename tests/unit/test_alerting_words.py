# ruff: noqa: RUF001 - the pages write dashes as dashes
"""What a rule of alerts says of itself in one sentence."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from opsplane.alerts.rules import RuleOut
from opsplane.outbox import Kind, Severity
from opsplane.pages import alerting

TEAMS, MAIL = uuid.UUID(int=1), uuid.UUID(int=2)
NAMES = {str(TEAMS): "Teams ops", str(MAIL): "Mail"}
TITLES = {"findings.backfill": "Backfill"}
RUNS = [Kind.RUN_FAILED, Kind.RUN_STALLED]
NIGHT = {"from": "22:00", "until": "07:00", "zone": "Europe/Berlin"}


def rule(**values: Any) -> RuleOut:
    kept = {"id": uuid.UUID(int=9), "name": "r", "created_at": datetime.now(UTC)}
    return RuleOut.model_validate(kept | values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {},
            ("Failed and stalled runs of all runbooks, break-glass begun, break-glass ended, trouble of the audit"
            " → every destination"),
        ),
        (
            {
                "events": RUNS, "min_severity": Severity.WARNING, "destination_ids": [TEAMS, MAIL],
                "cooldown_s": 3600, "quiet_hours": NIGHT,
            },
            ("Failed and stalled runs of all runbooks, warning and above → Teams ops, Mail"
            "; at most once in an hour; quiet 22:00–07:00 Europe/Berlin"),
        ),
        (
            {"events": [*RUNS, Kind.RUN_SUCCEEDED], "runbooks": ["findings.backfill", "gone"], "tenants": ["acme"]},
            "Failed, stalled and succeeded runs of Backfill and gone over acme → every destination",
        ),
        (
            {"events": [Kind.RUN_FAILED, Kind.AUDIT_DEGRADED], "scope": "single_tenant"},
            "Failed runs of all runbooks over a single tenant → every destination",
        ),
        ({"events": [Kind.AUDIT_DEGRADED], "scope": "all_tenants"}, "Nothing → every destination"),
        (
            {"events": [Kind.BREAK_GLASS_STARTED], "min_severity": Severity.CRITICAL, "destination_ids": [uuid.UUID(int=7)]},
            "Break-glass begun, critical alone → a destination that is gone",
        ),
    ],
)  # fmt: skip
def test_a_rule_says_what_it_sends_where_how_often_and_when_it_is_quiet(values: dict[str, Any], said: str) -> None:
    assert alerting.in_words(rule(**values), TITLES, NAMES) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (60, "a minute"), (90, "90 seconds"), (5400, "90 minutes"), (3600, "an hour"), (7200, "2 hours"),
        (86_400, "a day"), (604_800, "7 days"),
    ],
)  # fmt: skip
def test_a_time_between_two_messages_is_told_in_the_largest_whole_unit(seconds: int, said: str) -> None:
    assert alerting.every(seconds) == said


def test_every_event_that_a_rule_can_name_has_a_word() -> None:
    assert set(alerting.EVENTS) == set(Kind) - {Kind.TEST}
    assert set(alerting.SEVERITIES) == set(Severity)
