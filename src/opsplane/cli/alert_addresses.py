"""Addresses of destinations, which are secrets: typed unseen or piped in, and never in a command's arguments."""

import sys
from typing import Annotated, Any

import typer

from opsplane.alerts.channels.targets import Target
from opsplane.cli import alerting, context
from opsplane.errors import InvalidInput

UrlStdin = Annotated[bool, typer.Option("--url-stdin", help="Read the URL from standard input.")]
# Takes what somebody types after the name all the same, so that the refusal does not print it once more.
SPILLING = {"allow_extra_args": True}

URLS = {
    "teams": "URL of the Teams Workflow (hidden)",
    "webhook": "URL of the receiver, https://… (hidden)",
    "service": "URL of the service, such as slack://… or pagerduty://… (hidden)",
}
SECRET = "Secret, whsec_…, that the receiver knows already (hidden; Enter: make a new one)"  # noqa: S105 - a question # nosec B105
OPTIONS = {"recipients": "--to"}  # of all else, the sentence says what it is about

NOT_HERE = (
    "The URL is a secret, and shells keep what is typed: leave it out. It is asked for unseen, "
    "or read from standard input with --url-stdin."
)


def email(recipients: list[str]) -> Target:
    """The address of people with mail.

    Raises:
        InvalidInput: one is no address.
    """
    return _target({"kind": "email", "recipients": recipients})


def asked(kind: str) -> Target:
    """An address that only whoever knows it may type.

    Of a webhook, a second line is its secret.

    Raises:
        InvalidInput: it is no URL that can be used, or there is nobody to ask.
    """
    lines = _prompted(kind) if sys.stdin.isatty() else _piped(kind)
    given: dict[str, Any] = {"kind": kind, "url": lines[0]}
    return _target(given | {"secret": lines[1]} if len(lines) > 1 and lines[1] else given)


def require_way(ctx: typer.Context, *, stdin: bool) -> None:
    """Refuse before anything else what can only end badly."""
    require_unspilled(ctx)
    if not stdin and not sys.stdin.isatty():
        raise InvalidInput("The URL is asked for on a terminal only; elsewhere pipe it in and add --url-stdin.")


def require_unspilled(ctx: typer.Context) -> None:
    """Refuse a URL among the arguments."""
    if ctx.args:
        raise InvalidInput(NOT_HERE)


def _prompted(kind: str) -> list[str]:
    with context.prompting():
        lines = [typer.prompt(URLS[kind], hide_input=True, err=True)]
        if kind == "webhook":
            lines.append(typer.prompt(SECRET, hide_input=True, err=True, default="", show_default=False))
    return [line.strip() for line in lines]


def _piped(kind: str) -> list[str]:
    lines = [sys.stdin.readline().strip() for _ in range(2 if kind == "webhook" else 1)]
    if not lines[0]:
        raise InvalidInput("Standard input has no URL in its first line.")
    return lines


def _target(given: dict[str, Any]) -> Target:
    target: Target = alerting.parsed(Target, given, OPTIONS)
    return target
