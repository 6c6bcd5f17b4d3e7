"""A rule in a sentence, the same for every door."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from opsplane.alerts.rules import RuleSpec
from opsplane.outbox import Kind, Severity

OF_RUNS = {Kind.RUN_FAILED: "failed", Kind.RUN_STALLED: "stalled", Kind.RUN_SUCCEEDED: "succeeded"}
OF_BREAK_GLASS = {Kind.BREAK_GLASS_STARTED: "begun", Kind.BREAK_GLASS_ENDED: "ended"}
AT_LEAST = {Severity.INFO: "", Severity.WARNING: ", warnings and above", Severity.CRITICAL: ", critical alone"}
SCOPES = {None: "", "all_tenants": " over all tenants", "single_tenant": " over a single tenant"}
SPANS = ((86_400, "day", "days"), (3600, "hour", "hours"), (60, "minute", "minutes"), (1, "second", "seconds"))


def rule(rule: RuleSpec, names: Mapping[uuid.UUID, str], titles: Mapping[str, str] = MappingProxyType({})) -> str:
    """What a rule does; `names` are those of the destinations, `titles` those of the runbooks."""
    return "".join(_parts(rule, names, titles))


def span(seconds: int) -> str:
    """An hour, 90 minutes, 2 days: whole numbers of the largest unit that fits."""
    length, one, many = next(unit for unit in SPANS if seconds % unit[0] == 0)
    return f"{seconds // length} {one if seconds == length else many}"


def listed(words: Sequence[str]) -> str:
    """One, two and three."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _parts(rule: RuleSpec, names: Mapping[uuid.UUID, str], titles: Mapping[str, str]) -> Iterator[str]:
    news = ", ".join(_news(rule))
    if not news or (rule.tenants and rule.scope == "all_tenants"):
        yield "Nothing: no event can pass all of its filters"
        return
    yield news[0].upper() + news[1:]
    if rule.runbooks:
        yield f" of {listed([titles.get(key, key) for key in rule.runbooks])}"
    yield SCOPES[rule.scope]
    if rule.tenants:
        yield f" of the tenant{'s' if len(rule.tenants) > 1 else ''} {listed(rule.tenants)}"
    yield AT_LEAST[rule.min_severity]
    yield f" → {_places(rule, names)}"
    if rule.cooldown_s:
        yield f"; the same news once in {span(rule.cooldown_s)}"
    if quiet := rule.quiet_hours:
        yield f"; held from {quiet.start} until {quiet.until} {quiet.zone}"


def _news(rule: RuleSpec) -> Iterator[str]:
    """What it tells; a filter on runs lets nothing else through."""
    if runs := [word for kind, word in OF_RUNS.items() if kind in rule.events]:
        yield f"{listed(runs)} runs"
    if rule.runbooks or rule.scope or rule.tenants:
        return
    if break_glass := [word for kind, word in OF_BREAK_GLASS.items() if kind in rule.events]:
        yield f"break-glass {listed(break_glass)}"
    if Kind.AUDIT_DEGRADED in rule.events:
        yield "trouble of the audit"


def _places(rule: RuleSpec, names: Mapping[uuid.UUID, str]) -> str:
    if not rule.destination_ids:
        return "every destination"
    return ", ".join(names.get(one, "a deleted destination") for one in rule.destination_ids)
