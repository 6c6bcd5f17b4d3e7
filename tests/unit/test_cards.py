"""The card that Teams is sent: within its schema and size, and nothing in it is read as markdown."""

import json
from typing import Any

import pytest

from opsplane.alerts.channels import teams, text
from opsplane.outbox import Severity
from tests.alerting import MESSAGE, message


def content(card: dict[str, Any]) -> dict[str, Any]:
    [attachment] = card["attachments"]
    inner: dict[str, Any] = attachment["content"]
    return inner


def facts(card: dict[str, Any]) -> dict[str, str]:
    return {fact["title"]: fact["value"] for fact in content(card)["body"][2]["facts"]}


def test_a_card_is_the_message_that_a_workflow_takes() -> None:
    assert teams.card(MESSAGE) == {
        "type": "message",
        "attachments": [
            {
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": None,
                "content": {
                    "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                    "type": "AdaptiveCard",
                    "version": "1.4",
                    "fallbackText": "Critical: Rebuild Findings Lifecycle failed",
                    "msteams": {"width": "Full"},
                    "body": [
                        {
                            "type": "RichTextBlock",
                            "inlines": [
                                {
                                    "type": "TextRun",
                                    "text": "Critical",
                                    "weight": "Bolder",
                                    "size": "Small",
                                    "color": "Attention",
                                }
                            ],
                        },
                        {
                            "type": "RichTextBlock",
                            "inlines": [
                                {
                                    "type": "TextRun",
                                    "text": "Rebuild Findings Lifecycle failed",
                                    "weight": "Bolder",
                                    "size": "Large",
                                    "color": "Attention",
                                }
                            ],
                        },
                        {
                            "type": "FactSet",
                            "facts": [
                                {"title": "Runbook", "value": "findings.lifecycle.backfill"},
                                {"title": "Scope", "value": "All tenants"},
                                {"title": "Tenants", "value": "3 failed of 250"},
                                {"title": "Time", "value": "2026-11-21 20:42:22 UTC"},
                            ],
                        },
                    ],
                    "actions": [{"type": "Action.OpenUrl", "title": "View run", "url": MESSAGE.link}],
                },
            }
        ],
    }


@pytest.mark.parametrize(
    ("severity", "word", "colour"),
    [
        (Severity.CRITICAL, "Critical", "Attention"),
        (Severity.WARNING, "Warning", "Warning"),
        (Severity.INFO, "Information", "Good"),
    ],
)
def test_the_severity_has_a_word_and_not_only_a_colour(severity: Severity, word: str, colour: str) -> None:
    [run] = content(teams.card(message(severity=severity)))["body"][0]["inlines"]
    assert (run["text"], run["color"]) == (word, colour)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("[free money](https://evil.example)", r"\[free money\](https://evil.example)"),
        ("**bold** _thin_ `code`", r"\*\*bold\*\* \_thin\_ \`code\`"),
        ("app_pool_01", r"app\_pool\_01"),
        (r"back\slash\[x]", r"back\\slash\\\[x\]"),
        ("<at>everyone</at>", r"\<at\>everyone\</at\>"),
        ("- a list", r"\- a list"),
        ("1. a list", r"1\. a list"),
        ("{{DATE(2017-02-14T06:00:00Z)}}", r"\{\{DATE(2017-02-14T06:00:00Z)\}\}"),
        ("3 failed, 1,204 skipped of 3.5 - all", "3 failed, 1,204 skipped of 3.5 - all"),
        ("one\r\n\r\n# two\x00\u202e", r"one \# two"),
    ],
)
def test_a_fact_is_not_read_as_markdown(value: str, shown: str) -> None:
    assert facts(teams.card(message(facts=(("Scope", value),))))["Scope"] == shown


def test_a_title_stands_where_no_markdown_is_read() -> None:
    card = content(teams.card(message(title="[x](https://evil.example) failed\r\n# now")))
    [run] = card["body"][1]["inlines"]
    assert (run["type"], run["text"]) == ("TextRun", "[x](https://evil.example) failed # now")
    assert card["fallbackText"] == r"Critical: \[x\](https://evil.example) failed \# now"


@pytest.mark.parametrize("many", [0, 1, 40, 2_000])
@pytest.mark.parametrize("value", ["x" * 10_000, "\U0001f600" * 10_000, "[" * 10_000])
def test_a_card_stays_below_the_size_that_teams_takes(many: int, value: str) -> None:
    card = teams.card(message(title=value, facts=tuple((f"Fact {number}", value) for number in range(many))))
    assert len(json.dumps(card, ensure_ascii=False).encode()) < 28_000
    shown = facts(card)
    left_out = int(shown["More"].split()[0].replace(",", "")) if "More" in shown else 0
    assert len(shown) - ("More" in shown) + left_out == many + 1, "each fact is shown or counted"
    assert content(card)["actions"][0]["url"] == MESSAGE.link


def test_plain_words_hold_all_that_a_card_holds() -> None:
    assert text.body(MESSAGE) == (
        "Severity: Critical\nRunbook: findings.lifecycle.backfill\nScope: All tenants\nTenants: 3 failed of 250\n"
        f"Time: 2026-11-21 20:42:22 UTC\n\nView run: {MESSAGE.link}\n"
    )
