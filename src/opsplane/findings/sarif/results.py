"""One result of a scan, turned into a finding: its severity, its message, and the evidence."""

import re
from dataclasses import dataclass
from typing import Any

from opsplane.findings.sarif.fingerprints import Occurrences, fingerprint_of
from opsplane.findings.sarif.locations import LOCATIONS, Artifacts, Location, location_of
from opsplane.findings.sarif.rules import SEVERITY_OF_LEVEL, Rule, Run, rule_of, score_of, text_of
from opsplane.findings.sarif.values import (
    TEXT_CHARS,
    Refused,
    get,
    get_object,
    get_objects,
    get_strings,
    get_word,
    show,
)
from opsplane.findings.sarif.walker import VALUE, array_of, members_of_runs, object_of, scalars

TITLE_CHARS = 500
SEVERITY_OF_WORD = {"high": "high", "medium": "medium", "low": "low"}
KINDS = ("notApplicable", "pass", "fail", "review", "open", "informational")
NOT_FINDINGS = ("pass", "notApplicable")

RESULTS = members_of_runs(
    "results",
    object_of(
        {
            **scalars("ruleId", "ruleIndex", "kind", "level", "baselineState"),
            "rule": object_of({**scalars("id", "index"), "toolComponent": object_of(scalars("index", "name"))}),
            "message": object_of({**scalars("text", "markdown", "id"), "arguments": array_of(VALUE)}),
            "suppressions": array_of(object_of(scalars("status"))),
            "locations": LOCATIONS,
            "partialFingerprints": object_of(rest=VALUE),
            "fingerprints": object_of(rest=VALUE),
            "properties": object_of(scalars("security-severity", "issue_severity")),
        },
        is_item=True,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SarifFinding:
    """One result of a scan."""

    external_ref: str
    """Rule id, at most 500 characters."""
    title: str
    """First line of the message, at most 500 characters."""
    severity: str
    """critical, high, medium, low or informational."""
    fingerprint: str
    """SHA-256 in hex: the same at every import of the same file, and no other finding of that file has it."""
    evidence: dict[str, Any]
    """What was found and where, as JSON."""


def reason_to_skip(result: dict[str, Any], at: str) -> str | None:
    """Why the result is no finding, if it is none."""
    kind = get_word(result, "kind", KINDS, at)
    if kind in NOT_FINDINGS:
        return f"kind {kind}"
    for suppression in get_objects(result, "suppressions", at):
        if get(suppression, "status", str, at) in (None, "accepted"):
            return "suppressed"
    return "baselineState absent" if get(result, "baselineState", str, at) == "absent" else None


def finding_of(
    result: dict[str, Any], run: Run, artifacts: Artifacts, occurrences: Occurrences, at: str
) -> SarifFinding:
    """The finding that a result is."""
    rule_id, rule = rule_of(result, run, at)
    level = _level(result, rule, at)
    message = _message(result, rule, at)
    location = location_of(result, run.index, artifacts, at)
    return SarifFinding(
        external_ref=rule_id,
        title=_title(message) or rule_id,
        fingerprint=fingerprint_of(result, run.tool, rule_id, location, message, occurrences, at),
        severity=_severity(result, rule, level, at),
        evidence={
            "tool": run.tool,
            "tool_version": run.version,
            "rule": rule_id,
            **_whereabouts(location),
            "message": message,
            "level": level,
            **({"help_uri": rule.help_uri} if rule and rule.help_uri else {}),
        },
    )


def _whereabouts(location: Location) -> dict[str, Any]:
    region = location.region
    return {
        "uri": location.uri,
        "start_line": region.start_line,
        "start_column": region.start_column,
        "end_line": region.end_line,
    }


def _title(message: str) -> str:
    lines = message.strip().splitlines()
    return lines[0].strip()[:TITLE_CHARS] if lines else ""


def _level(result: dict[str, Any], rule: Rule | None, at: str) -> str:
    if level := get_word(result, "level", SEVERITY_OF_LEVEL, at):
        return level
    if (get(result, "kind", str, at) or "fail") != "fail":
        return "none"
    return (rule and rule.level) or "warning"


def _severity(result: dict[str, Any], rule: Rule | None, level: str, at: str) -> str:
    score = score_of(result, at)
    if score is None and rule:
        score = rule.score
    if score is not None:
        return _severity_of_score(score)
    word = get(get_object(result, "properties", at), "issue_severity", str, at) or ""
    return SEVERITY_OF_WORD.get(word.lower()) or SEVERITY_OF_LEVEL[level]


def _severity_of_score(score: float) -> str:
    for least, severity in ((9, "critical"), (7, "high"), (4, "medium")):
        if score >= least:
            return severity
    return "low" if score > 0 else "informational"


def _message(result: dict[str, Any], rule: Rule | None, at: str) -> str:
    message = get(result, "message", dict, at)
    if message is None:
        raise Refused(f"{at}: has no message")
    at = f"{at}.message"
    text = text_of(message, at)
    if text is None:
        text = _text_by_id(message, rule, at)
    return _fill(text, get_strings(message, "arguments", at))[:TEXT_CHARS]


def _text_by_id(message: dict[str, Any], rule: Rule | None, at: str) -> str:
    message_id = get(message, "id", str, at)
    if message_id is None:
        raise Refused(f"{at}: has no text")
    text = rule.messages.get(message_id) if rule else None
    if text is None:
        raise Refused(f"{at}: id {show(message_id)} is not in the messageStrings of its rule")
    return text


def _fill(text: str, arguments: list[str]) -> str:
    """The text with `{0}` replaced by the first argument, and so on."""
    if not arguments:
        return text

    def replace(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        return arguments[int(match[1])] if int(match[1]) < len(arguments) else match[0]

    return re.sub(r"\{([0-9]{1,3})\}|\{\{|\}\}", replace, text)
