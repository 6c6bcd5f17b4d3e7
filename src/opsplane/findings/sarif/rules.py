"""The rules of a SARIF file, in the components of the tool of each run, and which of them a result means."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opsplane.findings.sarif.stream import stream
from opsplane.findings.sarif.values import (
    Place,
    Refused,
    dotted,
    expect_object,
    get,
    get_int,
    get_object,
    get_word,
    show,
)
from opsplane.findings.sarif.walker import VALUE, array_of, object_of, scalars

TABLE_CHARS = 64 * 2**20  # what is kept of all rules, or of all artifact addresses
RULE_ID_CHARS = 500
SEVERITY_OF_LEVEL = {"error": "high", "warning": "medium", "note": "low", "none": "informational"}

_RULE = object_of(
    {
        **scalars("id", "helpUri"),
        "defaultConfiguration": object_of(scalars("level")),
        "properties": object_of(scalars("security-severity")),
        "messageStrings": object_of(rest=object_of(scalars("text", "markdown"))),
    },
    is_item=True,
)
_COMPONENT = {**scalars("name", "version", "semanticVersion"), "rules": array_of(_RULE)}
_RUN = object_of(
    {
        "tool": object_of(
            {"driver": object_of(_COMPONENT), "extensions": array_of(object_of(_COMPONENT, is_item=True))}
        ),
        "results": array_of(None),
        "externalPropertyFileReferences": object_of({"results": array_of(VALUE)}),
    },
    is_item=True,
)
_HEAD = object_of({"version": VALUE, "runs": array_of(_RUN)}, is_item=True)


class Budget:
    """How much may be kept of all rules and artifact addresses."""

    def __init__(self) -> None:
        self._spent = 0

    def spend(self, chars: int, at: str) -> None:
        """Keep this many characters more."""
        self._spent += chars + 500
        if self._spent > TABLE_CHARS:
            raise Refused(f"{at}: too many rules or artifacts before it: more than {TABLE_CHARS} characters")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a rule says of its results."""

    id: str | None
    level: str | None
    score: float | None
    messages: dict[str, str]
    help_uri: str | None

    def disagrees(self, rule_id: str | None) -> bool:
        """Whether this id is of another rule; `CA1000/1` is of the rule `CA1000`."""
        return bool(self.id and rule_id and rule_id != self.id and not rule_id.startswith(f"{self.id}/"))


class Component:
    """The driver or an extension of a tool, with its rules."""

    def __init__(self) -> None:
        self.name = ""
        self.rules: list[Rule] = []
        self.by_id: dict[str, Rule] = {}

    def add(self, rule: Rule) -> None:
        """Append the next rule; of two with the same id, the first counts."""
        self.rules.append(rule)
        if rule.id:
            self.by_id.setdefault(rule.id, rule)


@dataclass(slots=True)
class Run:
    """The tool of one run, with its components."""

    index: int
    tool: str = ""
    version: str | None = None
    driver: Component = field(default_factory=Component)
    extensions: dict[int, Component] = field(default_factory=dict)

    def component(self, place: Place) -> Component:
        """The component that this place, `runs[0].tool.driver...` or `runs[0].tool.extensions[0]...`, is in."""
        if place[3] == "driver":
            return self.driver
        return self.extensions.setdefault(int(place[4]), Component())

    def find(self, rule_id: str) -> Rule | None:
        """The rule of this id, or the one that a hierarchical id such as `CA1000/1` belongs to."""
        while rule_id:
            for component in (self.driver, *self.extensions.values()):
                if rule := component.by_id.get(rule_id):
                    return rule
            rule_id = rule_id.rpartition("/")[0]
        return None


def read_runs(path: Path, budget: Budget) -> dict[int, Run]:
    """Check the whole document, and learn its tools and rules."""
    runs: dict[int, Run] = {}
    document: Any = None
    for place, value, chars in stream(path, _HEAD):
        at = dotted(place)
        budget.spend(chars, at)
        if place:
            index = int(place[1])
            _learn(runs.setdefault(index, Run(index)), place, value, at)
        else:
            document = value
    _check_document(document)
    return runs


def rule_of(result: dict[str, Any], run: Run, at: str) -> tuple[str, Rule | None]:
    """The id of the result's rule, and the rule itself if the tool describes it."""
    reference = get_object(result, "rule", at)
    rule_id = get(result, "ruleId", str, at) or get(reference, "id", str, f"{at}.rule")
    index = get_int(reference, "index", f"{at}.rule")
    if index is None:
        index = get_int(result, "ruleIndex", at)
    rule = None if index is None else _numbered(index, _component_of(reference, run, f"{at}.rule"), rule_id, at)
    if rule and rule.disagrees(rule_id):
        rule = None  # the id is what people see
    rule_id = rule_id or (rule.id if rule else None)
    if not rule_id:
        raise Refused(f"{at}: names no rule")
    return rule_id[:RULE_ID_CHARS], rule or run.find(rule_id)


def text_of(message: dict[str, Any], at: str) -> str | None:
    """Of a message: its plain text, or else its Markdown."""
    text, markdown = get(message, "text", str, at), get(message, "markdown", str, at)
    return text if text is not None else markdown


def score_of(holder: dict[str, Any], at: str) -> float | None:
    """`properties.security-severity`, the CVSS score of a result or a rule."""
    value = get_object(holder, "properties", at).get("security-severity")
    if value is None:
        return None
    try:
        score = math.nan if isinstance(value, bool | dict | list) else float(value)
    except (ValueError, OverflowError):
        score = math.nan
    if not 0 <= score < math.inf:
        raise Refused(f"{at}: security-severity is not a number from 0 up but {show(value)}")
    return score


def _check_document(document: Any) -> None:
    if not isinstance(document, dict):
        raise Refused(f"top level is not an object but {show(document)}")
    if "version" not in document:
        raise Refused('no "version"; is this SARIF?')
    if document["version"] != "2.1.0":
        raise Refused(f"version is {show(document['version'])}, only 2.1.0 is read")
    if "runs" not in document:
        raise Refused('no "runs"; is this SARIF?')
    if not isinstance(document["runs"], list):
        raise Refused(f"runs is not an array but {show(document['runs'])}")


def _learn(run: Run, place: Place, value: Any, at: str) -> None:
    """Take in the run itself, a rule, or an extension."""
    if len(place) == 2:
        _learn_driver(run, expect_object(value, at), at)
    elif place[-2] == "rules":
        run.component(place).add(_rule(value, at))
    else:
        extension = expect_object(value, at)
        get(extension, "rules", list, at)
        run.component(place).name = get(extension, "name", str, at) or ""


def _learn_driver(run: Run, value: dict[str, Any], at: str) -> None:
    tool = get_object(value, "tool", at)
    driver = get_object(tool, "driver", f"{at}.tool")
    get(value, "results", list, at)
    get(driver, "rules", list, f"{at}.tool.driver")
    get(tool, "extensions", list, f"{at}.tool")
    if get(get_object(value, "externalPropertyFileReferences", at), "results", list, at):
        raise Refused(f"{at}: has its results in another file")
    at = f"{at}.tool.driver"
    run.tool = run.driver.name = get(driver, "name", str, at) or ""
    if not run.tool:
        raise Refused(f"{at}: has no name")
    run.version = get(driver, "semanticVersion", str, at) or get(driver, "version", str, at)


def _rule(value: Any, at: str) -> Rule:
    rule = expect_object(value, at)
    messages = get_object(rule, "messageStrings", at)
    help_uri = get(rule, "helpUri", str, at)
    return Rule(
        id=get(rule, "id", str, at),
        level=get_word(get_object(rule, "defaultConfiguration", at), "level", SEVERITY_OF_LEVEL, at),
        score=score_of(rule, at),
        messages={key: text_of(get_object(messages, key, at), at) or "" for key in messages},
        help_uri=help_uri if help_uri and help_uri.startswith(("https://", "http://")) else None,
    )


def _numbered(index: int, component: Component, rule_id: str | None, at: str) -> Rule | None:
    """The rule of this number; without one, the id has to do."""
    if index < len(component.rules):
        return component.rules[index]
    if rule_id:
        return None
    raise Refused(f"{at}: rule {index} is not among the {len(component.rules)} rules of its tool component")


def _component_of(reference: dict[str, Any], run: Run, at: str) -> Component:
    component = get_object(reference, "toolComponent", at)
    index = get_int(component, "index", at)
    if index is not None:
        return run.extensions.get(index) or Component()
    if name := get(component, "name", str, at):
        for candidate in (run.driver, *run.extensions.values()):
            if candidate.name == name:
                return candidate
    return run.driver
