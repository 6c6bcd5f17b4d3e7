"""Microsoft Teams, by the webhook of a Workflow: an Adaptive Card of our own."""

import json
import re
from dataclasses import dataclass
from typing import Any

from opsplane.alerts.channels import network, text
from opsplane.alerts.channels.network import Private
from opsplane.alerts.messages import Message
from opsplane.outbox import Severity

MOST_FACTS = 50
CARD_BYTES = 24_000  # Teams takes 28 KB, and does not say what it counts
COLOURS = {Severity.INFO: "Good", Severity.WARNING: "Warning", Severity.CRITICAL: "Attention"}
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>#~|]|^[-+](?= )|(?<=^\d)[.)]|(?<=^\d\d)[.)]|(?<=^\d\d\d)[.)]")


@dataclass(frozen=True)
class Teams:
    """One webhook of a Workflow."""

    url: str
    private: Private

    async def send(self, message: Message) -> None:
        """Deliver the message as a card."""
        content = _bytes(card(message))
        await network.post(
            self.url, headers={"Content-Type": "application/json"}, content=content, private=self.private
        )


def card(message: Message) -> dict[str, Any]:
    """What Teams is sent; of very many facts, as many as fit."""
    told = list(text.facts(message))[1:]  # the severity stands above the title
    shown = min(len(told), MOST_FACTS)
    while len(_bytes(made := _card(message, told[:shown], len(told) - shown))) > CARD_BYTES and shown:
        shown -= 1
    return made


def escaped(words: str) -> str:
    """The words with what Teams would read as markdown taken literally: no links, no lists, no emphasis."""
    return _MARKDOWN.sub(lambda found: f"\\{found.group()}", words)


def _card(message: Message, told: list[tuple[str, str]], left_out: int) -> dict[str, Any]:
    title, severity = text.line(message.title), text.SEVERITIES[message.severity]
    more = [("More", f"{left_out:,} facts are in opsplane")] if left_out else []
    content = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "fallbackText": escaped(f"{severity}: {title}"),
        "msteams": {"width": "Full"},
        "body": [
            _run(severity, message.severity, size="Small"),
            _run(title, message.severity, size="Large"),
            {
                "type": "FactSet",
                "facts": [{"title": escaped(name), "value": escaped(value)} for name, value in [*told, *more]],
            },
        ],
        "actions": [{"type": "Action.OpenUrl", "title": message.link_text, "url": message.link}],
    }
    return {
        "type": "message",
        "attachments": [
            {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": content}
        ],
    }


def _run(words: str, severity: Severity, *, size: str) -> dict[str, Any]:
    # A TextRun is never markdown, on no device; escapes show on some telephones.
    run = {"type": "TextRun", "text": words, "weight": "Bolder", "size": size, "color": COLOURS[severity]}
    return {"type": "RichTextBlock", "inlines": [run]}


def _bytes(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
