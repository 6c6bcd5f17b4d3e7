"""Rules of alerts in words, for people who must see at a glance what reaches whom."""

from collections.abc import Iterator, Mapping, Sequence

from opsplane.alerts.rules import RuleOut
from opsplane.outbox import Kind, Severity
from opsplane.runs import words

# As they stand in a rule's sentence, and as choices in its form.
RUNS = {Kind.RUN_FAILED: "failed", Kind.RUN_STALLED: "stalled", Kind.RUN_SUCCEEDED: "succeeded"}
OTHERS = {
    Kind.BREAK_GLASS_STARTED: "break-glass begun",
    Kind.BREAK_GLASS_ENDED: "break-glass ended",
    Kind.AUDIT_DEGRADED: "trouble of the audit",
}
EVENTS = {kind: f"{word.capitalize()} runs" for kind, word in RUNS.items()} | {
    kind: word.capitalize() for kind, word in OTHERS.items()
}
SEVERITIES = {
    Severity.INFO: "Whatever it is",
    Severity.WARNING: "Warning and above",
    Severity.CRITICAL: "Critical alone",
}
SCOPES = {"all_tenants": "over all tenants", "single_tenant": "over a single tenant"}
EVERYWHERE, NOWHERE = "every destination", "a destination that is gone"


def in_words(rule: RuleOut, titles: Mapping[str, str], names: Mapping[str, str]) -> str:
    """Everything a rule says; `titles` are those of runbooks by key, `names` those of destinations by id."""
    what = ", ".join(_what(rule, titles)) or "nothing"
    places = [names.get(str(one), NOWHERE) for one in rule.destination_ids] or [EVERYWHERE]
    limits = "".join(f"; {limit}" for limit in _limits(rule))
    return f"{what[:1].upper()}{what[1:]} → {', '.join(places)}{limits}"


def every(seconds: int) -> str:
    """A time between two messages: an hour, 90 minutes."""
    for size, noun in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            count = seconds // size
            article = "an" if noun == "hour" else "a"
            return f"{article} {noun}" if count == 1 else f"{words.number(count)} {noun}s"
    return f"{words.number(seconds)} seconds"


def _what(rule: RuleOut, titles: Mapping[str, str]) -> Iterator[str]:
    runs = [word for kind, word in RUNS.items() if kind in rule.events]
    if runs:
        yield f"{_and(runs)} runs {' '.join(_which(rule, titles))}"
    if not (rule.runbooks or rule.scope or rule.tenants):  # which let nothing through but runs
        yield from (word for kind, word in OTHERS.items() if kind in rule.events)
    if rule.min_severity is not Severity.INFO:
        yield SEVERITIES[rule.min_severity].lower()


def _which(rule: RuleOut, titles: Mapping[str, str]) -> Iterator[str]:
    yield f"of {_and([titles.get(key, key) for key in rule.runbooks])}" if rule.runbooks else "of all runbooks"
    if rule.scope:
        yield SCOPES[rule.scope]
    if rule.tenants:
        yield f"over {_and(rule.tenants)}"


def _limits(rule: RuleOut) -> Iterator[str]:
    if rule.cooldown_s:
        yield f"at most once in {every(rule.cooldown_s)}"
    if rule.quiet_hours:
        quiet = rule.quiet_hours
        yield f"quiet {quiet.start}\N{EN DASH}{quiet.until} {quiet.zone}"


def _and(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
