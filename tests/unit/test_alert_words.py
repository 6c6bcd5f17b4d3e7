"""A rule in words: what people read before they trust it."""

import uuid
from typing import Any

import pytest

from opsplane.alerts import words
from opsplane.alerts.rules import RuleSpec

OPS = uuid.uuid4()
EVERYTHING = ["operations.run.failed", "operations.run.succeeded", "run.stalled"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "Failed and stalled runs, break-glass begun and ended, trouble of the audit → every destination"),
        ({"events": EVERYTHING}, "Failed, stalled and succeeded runs → every destination"),
        ({"events": ["break_glass.ended"]}, "Break-glass ended → every destination"),
        ({"runbooks": ["a.b"]}, "Failed and stalled runs of a.b → every destination"),  # nothing but runs has one
        ({"runbooks": ["c.d", "gone"]}, "Failed and stalled runs of Clean up and gone → every destination"),
        ({"min_severity": "warning", "tenants": ["acme"]}, "Failed and stalled runs of the tenant acme, warnings and above → every destination"),
        ({"min_severity": "critical", "events": EVERYTHING[:1]}, "Failed runs, critical alone → every destination"),
        ({"scope": "all_tenants", "destination_ids": [OPS]}, "Failed and stalled runs over all tenants → ops"),
        ({"tenants": ["acme"]}, "Failed and stalled runs of the tenant acme → every destination"),
        ({"tenants": ["acme"], "scope": "all_tenants"}, "Nothing: no event can pass all of its filters"),
        ({"tenants": ["acme"], "events": ["audit.degraded"]}, "Nothing: no event can pass all of its filters"),
        ({"destination_ids": [uuid.uuid4(), OPS], "runbooks": ["a.b"]}, "Failed and stalled runs of a.b → a deleted destination, ops"),
        (
            {"events": ["run.stalled"], "cooldown_s": 3600, "quiet_hours": {"from": "22:00", "until": "07:00"}},
            "Stalled runs → every destination; the same news once in 1 hour; held from 22:00 until 07:00 UTC",
        ),
    ],
)  # fmt: skip
def test_a_rule_says_what_it_sends_where_and_when(spec: dict[str, Any], said: str) -> None:
    assert words.rule(RuleSpec.model_validate({"name": "r"} | spec), {OPS: "ops"}, {"c.d": "Clean up"}) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(1, "1 second"), (90, "90 seconds"), (1800, "30 minutes"), (5400, "90 minutes"), (7200, "2 hours"), (604_800, "7 days")],
)  # fmt: skip
def test_a_span_is_a_whole_number_of_the_largest_unit(seconds: int, said: str) -> None:
    assert words.span(seconds) == said
