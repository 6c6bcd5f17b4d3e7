"""SARIF results become findings."""

import re
from pathlib import Path
from typing import Any

import pytest

from opsplane.findings import sarif
from opsplane.findings.sarif import SarifReader
from tests.unit.sarif.documents import One, Write, at, result, run, sarif_document, score


def test_a_result_becomes_a_finding(one: One) -> None:
    finding = one(result(), rules=[{"id": "R1", "helpUri": "https://lint.example/R1"}])
    assert (finding.external_ref, finding.title, finding.severity) == ("R1", "First line", "high")
    assert re.fullmatch("[0-9a-f]{64}", finding.fingerprint)
    assert finding.evidence == {
        "tool": "lint",
        "tool_version": "1.2",
        "rule": "R1",
        "uri": "src/a.py",
        "start_line": 3,
        "start_column": 5,
        "end_line": 4,
        "message": "First line\nsecond line",
        "level": "error",
        "help_uri": "https://lint.example/R1",
    }


def test_a_help_link_that_a_browser_would_run_is_left_out(one: One) -> None:
    assert "help_uri" not in one(result(), rules=[{"id": "R1", "helpUri": "javascript:alert(1)"}]).evidence


def test_a_semantic_version_is_preferred(one: One) -> None:
    tool = {"driver": {"name": "lint", "version": "lint 1", "semanticVersion": "1.0.0"}}
    assert one(result(), tool=tool).evidence["tool_version"] == "1.0.0"


@pytest.mark.parametrize(
    ("changes", "rule", "severity"),
    [
        ({"level": "error"}, {}, "high"),
        ({"level": "warning"}, {}, "medium"),
        ({"level": "note"}, {}, "low"),
        ({"level": "none"}, {}, "informational"),
        ({"level": None}, {}, "medium"),
        ({"level": None}, {"defaultConfiguration": {"level": "note"}}, "low"),
        ({"level": None}, {"defaultConfiguration": {}}, "medium"),
        ({"level": "error"}, {"defaultConfiguration": {"level": "note"}}, "high"),
        ({"level": None, "kind": "review"}, {"defaultConfiguration": {"level": "error"}}, "informational"),
        ({"level": None, "kind": "fail"}, {"defaultConfiguration": {"level": "error"}}, "high"),
        ({"level": "note", "kind": "open"}, {}, "low"),
        ({}, score("10.0"), "critical"),
        ({}, score("9"), "critical"),
        ({}, score("8.9"), "high"),
        ({}, score("7.0"), "high"),
        ({}, score("6.99"), "medium"),
        ({}, score("4"), "medium"),
        ({}, score("3.9"), "low"),
        ({}, score("0.1"), "low"),
        ({}, score("0"), "informational"),
        ({}, score("0.0"), "informational"),
        ({}, score(7.5), "high"),
        (score("1"), score("9"), "low"),
        (score(None), score("9"), "critical"),
        ({"properties": {"issue_severity": "LOW"}}, {}, "low"),
        ({"properties": {"issue_severity": "MEDIUM"}}, {}, "medium"),
        ({"properties": {"issue_severity": "HIGH"}, "level": "note"}, {}, "high"),
        ({"properties": {"issue_severity": "UNDEFINED"}, "level": "note"}, {}, "low"),
        ({"properties": {"issue_severity": "LOW", "security-severity": "9.5"}}, {}, "critical"),
    ],
)
def test_severity(one: One, changes: dict[str, Any], rule: dict[str, Any], severity: str) -> None:
    assert one(result(**changes), rules=[{"id": "R1", **rule}]).severity == severity


DRIVER_RULES = [{"id": "D0", **score("9")}, {"id": "D1", **score("1")}]


EXTENSION_RULES = [{"id": "E0", **score("5")}, {"id": "D0", **score("0")}]


@pytest.mark.parametrize(
    ("reference", "rule_id", "severity"),
    [
        ({"ruleId": "D1"}, "D1", "low"),
        ({"ruleId": "E0"}, "E0", "medium"),
        ({"ruleId": "unknown"}, "unknown", "high"),
        ({"ruleId": "D0/sub/type"}, "D0/sub/type", "critical"),
        ({"ruleIndex": 1}, "D1", "low"),
        ({"ruleId": "D1", "ruleIndex": -1}, "D1", "low"),
        ({"ruleId": "D1", "ruleIndex": 0}, "D1", "low"),  # they disagree
        ({"ruleId": "D0", "ruleIndex": 77}, "D0", "critical"),
        ({"rule": {"id": "D0"}}, "D0", "critical"),
        ({"rule": {"index": 0}}, "D0", "critical"),
        ({"rule": {"index": 0, "toolComponent": {"index": 0}}}, "E0", "medium"),
        ({"rule": {"index": 0, "toolComponent": {"name": "pack"}}}, "E0", "medium"),
        ({"rule": {"index": 1, "toolComponent": {"name": "other"}}}, "D1", "low"),
        ({"rule": {"id": "D0", "index": 1, "toolComponent": {"index": 0}}}, "D0", "informational"),
        ({"ruleId": "D0", "rule": {"id": "D0", "index": 1, "toolComponent": {"index": 0}}}, "D0", "informational"),
    ],
)
def test_rule_lookup(one: One, reference: dict[str, Any], rule_id: str, severity: str) -> None:
    tool = {
        "driver": {"name": "lint", "rules": DRIVER_RULES},
        "extensions": [{"name": "pack", "rules": EXTENSION_RULES}],
    }
    finding = one(result(**({"ruleId": None} | reference)), tool=tool)
    assert (finding.external_ref, finding.evidence["rule"], finding.severity) == (rule_id, rule_id, severity)


@pytest.mark.parametrize(
    ("locations", "uri", "line"),
    [
        ([at("a.py", startLine=7)], "a.py", 7),
        ([at("a.py")], "a.py", None),
        ([at(index=1, startLine=2)], "second.py", 2),
        ([at("a.py", index=1)], "a.py", None),
        ([{}, at("b.py", startLine=1)], "b.py", 1),
        ([at("a.py"), at("b.py")], "a.py", None),
        ([{"logicalLocations": [{"fullyQualifiedName": "app::main"}]}], "app::main", None),
        ([{"logicalLocations": [{}, {"name": "main"}]}], "main", None),
        ([{"logicalLocations": [{"name": "main"}]}, at("b.py")], "b.py", None),
        ([{"physicalLocation": None, "logicalLocations": [{"name": "main"}]}], "main", None),
        ([at("a.py", startLine=7.0)], "a.py", 7),
    ],
)
def test_locations(one: One, locations: list[Any], uri: str, line: int | None) -> None:
    artifacts = [{"location": {"uri": "first.py"}}, {"location": {"uri": "second.py"}}]
    evidence = one(result(locations=locations), artifacts=artifacts).evidence
    assert (evidence["uri"], evidence["start_line"], evidence["end_line"]) == (uri, line, line)


STRINGS = {"found": {"text": "found {0} in {1}"}, "rich": {"markdown": "**rich**"}}


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ({"text": "plain"}, "plain"),
        ({"text": "plain", "markdown": "**rich**"}, "plain"),
        ({"markdown": "**rich**"}, "**rich**"),
        ({"id": "rich"}, "**rich**"),
        ({"id": "found", "arguments": ["x", "y"]}, "found x in y"),
        ({"id": "found", "arguments": ["x"]}, "found x in {1}"),
        ({"id": "found"}, "found {0} in {1}"),
        ({"text": "{0}{0} {{0}}", "arguments": ["a{0}"]}, "a{0}a{0} {0}"),
        ({"text": "f-string {{x}} {0}"}, "f-string {{x}} {0}"),
        ({"text": "\n  padded \r\nmore"}, "padded"),
        ({"text": " "}, "R1"),
        ({"text": "x" * 600}, "x" * 500),
    ],
)
def test_messages(one: One, message: dict[str, Any], title: str) -> None:
    assert one(result(message=message), rules=[{"id": "R1", "messageStrings": STRINGS}]).title == title


def test_a_long_message_is_cut(one: One) -> None:
    assert one(result(message={"text": "x" * 9000})).evidence["message"] == "x" * 4000
    assert len(one(result(message={"text": "{0}" * 900, "arguments": ["y" * 900]})).evidence["message"]) == 4000


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "pass"}, "kind pass"),
        ({"kind": "notApplicable"}, "kind notApplicable"),
        ({"suppressions": [{"kind": "inSource"}]}, "suppressed"),
        ({"suppressions": [{"status": "rejected"}, {"status": "accepted"}]}, "suppressed"),
        ({"baselineState": "absent"}, "baselineState absent"),
        ({"kind": "fail"}, None),
        ({"suppressions": []}, None),
        ({"suppressions": [{"status": "underReview"}, {"status": "rejected"}]}, None),
        ({"baselineState": "unchanged"}, None),
    ],
)
def test_skips(write: Write, changes: dict[str, Any], reason: str | None) -> None:
    reader = SarifReader(write(sarif_document(run(result(**changes), result()))))
    assert len(list(reader)) == (1 if reason else 2)
    assert dict(reader.skipped) == ({reason: 1} if reason else {})
    assert reader.results == 2


def test_counts_start_again_with_each_reading(write: Write) -> None:
    reader = SarifReader(write(sarif_document(run(result(kind="pass")))))
    assert [list(reader), list(reader)] == [[], []]
    assert (reader.results, reader.skipped.total()) == (1, 1)


def fingerprints(path: Path) -> list[str]:
    return [finding.fingerprint for finding in sarif.read(path)]


def test_fingerprints_are_stable_and_distinct(write: Write) -> None:
    other_column = [at("src/a.py", startLine=3, startColumn=6, endLine=4, endColumn=9)]
    other_end = [at("src/a.py", startLine=3, startColumn=5, endLine=4, endColumn=10)]
    path = write(
        sarif_document(
            run(
                result(),
                result(),
                result(),
                result(ruleId="R2"),
                result(message={"text": "other"}),
                result(locations=other_column),
                result(locations=other_end),
                result(locations=[at("b.py")]),
                result(partialFingerprints={"hash/v1": "x"}),
                result(partialFingerprints={"hash/v1": "x"}),
                result(fingerprints={"hash/v1": "x"}),
            ),
            run(result(), tool={"driver": {"name": "other"}}),
        )
    )
    first = fingerprints(path)
    assert fingerprints(path) == first
    assert len(set(first)) == len(first) == 12


def test_a_given_fingerprint_outlives_a_moved_line(one: One) -> None:
    given = {"primaryLocationLineHash": "39fa2ee980eb94b0:1"}
    before = one(result(partialFingerprints=given))
    after = one(result(partialFingerprints=given, locations=[at("src/a.py", startLine=99)], message={"text": "new"}))
    assert before.fingerprint == after.fingerprint


def test_a_fingerprint_that_is_the_same_for_all_is_not_one(one: One) -> None:
    login = {"matchBasedId/v1": "requires login"}
    assert one(result(fingerprints=login)).fingerprint == one(result()).fingerprint


def test_a_skipped_result_does_not_shift_the_occurrences(write: Write) -> None:
    plain = fingerprints(write(sarif_document(run(result(), result()))))
    assert fingerprints(write(sarif_document(run(result(kind="pass"), result(), result())))) == plain


@pytest.mark.parametrize("results", [[], None])
def test_a_run_that_found_nothing(write: Write, results: Any) -> None:
    assert list(sarif.read(write(sarif_document(run() | {"results": results})))) == []
    nothing = run()
    del nothing["results"]
    assert list(sarif.read(write(sarif_document(nothing)))) == []
    assert list(sarif.read(write(sarif_document()))) == []


def test_the_order_of_properties_does_not_matter(write: Write) -> None:
    whole = sarif_document(run(result(level=None), rules=[{"id": "R1", "defaultConfiguration": {"level": "note"}}]))
    results_last = write(whole)
    expected = list(sarif.read(results_last))
    reverse = {"runs": [dict(reversed(r.items())) for r in whole["runs"]], "version": "2.1.0"}
    assert list(sarif.read(write(reverse))) == expected
    assert expected[0].severity == "low"


def test_what_nobody_reads_may_be_anything(one: One) -> None:
    odd: dict[str, Any] = {"properties": {"hash": 2**70, "deep": [[{"a": [1.5]}]], "x": None}, "codeFlows": 7}
    assert one(result(**odd)) == one(result())


def test_each_run_has_its_own_rules_and_artifacts(write: Write) -> None:
    runs = [
        run(
            result(ruleId=None, ruleIndex=0, locations=[at(index=0)]),
            rules=[{"id": name}],
            artifacts=[{"location": {"uri": f"{name}.py"}}],
        )
        for name in ("A", "B")
    ]
    found = sarif.read(write(sarif_document(*runs)))
    assert [(each.external_ref, each.evidence["uri"]) for each in found] == [("A", "A.py"), ("B", "B.py")]


def bandit_document() -> dict[str, Any]:
    """The form that bandit[sarif] writes."""
    text = "subprocess call with shell=True identified, security issue."
    return {
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "Bandit",
                        "organization": "PyCQA",
                        "rules": [
                            {
                                "id": "B602",
                                "name": "subprocess_popen_with_shell_equals_true",
                                "properties": {"tags": ["security", "external/cwe/cwe-78"], "precision": "high"},
                                "helpUri": "https://bandit.readthedocs.io/en/1.9.4/plugins/b602.html",
                            }
                        ],
                        "version": "1.9.4",
                        "semanticVersion": "1.9.4",
                    }
                },
                "invocations": [{"executionSuccessful": True, "endTimeUtc": "2026-01-01T00:00:00Z"}],
                "properties": {"metrics": {"_totals": {"loc": 3, "SEVERITY.HIGH": 1}}},
                "results": [
                    {
                        "message": {"text": text},
                        "level": "error",
                        "locations": [
                            {
                                "physicalLocation": {
                                    "region": {
                                        "snippet": {"text": "call(x, shell=True)\n"},
                                        "endColumn": 20,
                                        "endLine": 2,
                                        "startColumn": 1,
                                        "startLine": 2,
                                    },
                                    "artifactLocation": {"uri": "app/run.py"},
                                    "contextRegion": {"snippet": {"text": "..."}, "endLine": 3, "startLine": 1},
                                }
                            }
                        ],
                        "properties": {"issue_confidence": "HIGH", "issue_severity": "LOW"},
                        "ruleId": "B602",
                        "ruleIndex": 0,
                    }
                ],
            }
        ],
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
    }


def test_bandit(write: Write) -> None:
    (finding,) = sarif.read(write(bandit_document()))
    assert (finding.external_ref, finding.severity) == ("B602", "low")
    assert finding.evidence["tool"] == "Bandit"
    assert (finding.evidence["uri"], finding.evidence["start_line"]) == ("app/run.py", 2)
