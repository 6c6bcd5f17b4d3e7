"""A message in plain words, for channels and readers that know nothing better."""

from collections.abc import Iterator
from datetime import UTC, datetime

from opsplane.alerts.messages import Message
from opsplane.outbox import Severity

SEVERITIES = {Severity.INFO: "Information", Severity.WARNING: "Warning", Severity.CRITICAL: "Critical"}


def line(text: str, most: int = 300) -> str:
    """The text in one line, without what does not print: no ends of headers, and nothing that turns words around."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    words = " ".join(printable.split())
    return words if len(words) <= most else f"{words[: most - 1]}…"


def moment(at: datetime) -> str:
    """The time, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def facts(message: Message) -> Iterator[tuple[str, str]]:
    """What the message says, its severity first and its time last; each in one line."""
    yield "Severity", SEVERITIES[message.severity]
    for name, value in message.facts:
        yield line(name), line(value)
    yield "Time", moment(message.at)


def body(message: Message) -> str:
    """Everything but the title, ending with the link."""
    told = "\n".join(f"{name}: {value}" for name, value in facts(message))
    return f"{told}\n\n{message.link_text}: {message.link}\n"
