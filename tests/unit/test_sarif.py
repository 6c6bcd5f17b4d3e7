"""SARIF files become findings, and whatever else they hold becomes one line that says what is wrong and where."""

import json
import os
import random
import re
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsplane.errors import InvalidInput
from opsplane.findings import sarif
from opsplane.findings.sarif import SarifFinding, SarifReader

Write = Callable[..., Path]


def result(**changes: Any) -> dict[str, Any]:
    """A result that a linter would write; None takes a property away."""
    value = {
        "ruleId": "R1",
        "level": "error",
        "message": {"text": "First line\nsecond line"},
        "locations": [at("src/a.py", startLine=3, startColumn=5, endLine=4, endColumn=9)],
    }
    return {key: item for key, item in (value | changes).items() if item is not None}


def at(uri: str | None = None, *, index: int | None = None, **region: Any) -> dict[str, Any]:
    artifact = {"uri": uri, "index": index}
    return {"physicalLocation": {"artifactLocation": artifact, "region": region}}


def run(*results: Any, rules: Any = (), **changes: Any) -> dict[str, Any]:
    tool = {"driver": {"name": "lint", "version": "1.2", "rules": list(rules)}}
    return {"tool": tool, "results": list(results), **changes}


def sarif_document(*runs: Any) -> dict[str, Any]:
    return {"version": "2.1.0", "runs": list(runs)}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(content: Any) -> Path:
        path = tmp_path / "scan.sarif"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write_file


@pytest.fixture
def one(write: Write) -> Callable[..., SarifFinding]:
    def read_one(found: dict[str, Any], **run_changes: Any) -> SarifFinding:
        (finding,) = sarif.read(write(sarif_document(run(found, **run_changes))))
        return finding

    return read_one


def refusal(path: Path) -> str:
    with pytest.raises(InvalidInput) as caught:
        list(sarif.read(path))
    assert len(caught.value.message.splitlines()) == 1
    return caught.value.message


One = Callable[..., SarifFinding]


# What a finding holds


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


def score(value: Any) -> dict[str, Any]:
    return {"properties": {"security-severity": value}}


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
    ("escaped", "text"),
    [
        (r"a\u0000b", "a\ufffdb"),
        (r"\ud800", "\ufffd"),
        (r"\udc00x", "\ufffdx"),
        (r"\ud800\u0041", "\ufffdA"),
        (r"\uDBFF\uDBFF\uDFFF", "\ufffd\U0010ffff"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\\ud800", r"\ud800"),
        (r"\\\ud800", "\\\ufffd"),
        (r"caf\u00e9 \" \/", 'café " /'),
    ],
)
def test_text_that_postgres_cannot_store_is_replaced(write: Write, escaped: str, text: str) -> None:
    """Wherever the escapes fall in relation to the chunks that are read."""
    content = json.dumps(sarif_document(run(result(message={"text": "MARK"})))).encode()
    for padding in range(sarif.CHUNK_BYTES - content.index(b"MARK") - 20, sarif.CHUNK_BYTES):
        path = write(b"{" + b" " * padding + content[1:].replace(b"MARK", escaped.encode()))
        (finding,) = sarif.read(path)
        assert finding.evidence["message"] == text
        if padding > sarif.CHUNK_BYTES - content.index(b"MARK") + 20:
            break


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


# Fingerprints


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


# Whole files


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


def test_a_byte_order_mark_is_skipped(write: Write) -> None:
    content = json.dumps(sarif_document(run(result()))).encode()
    assert list(sarif.read(write(b"\xef\xbb\xbf" + content))) == list(sarif.read(write(content)))


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


# What is refused


def broken(**changes: Any) -> dict[str, Any]:
    return sarif_document(run(result(), result(**changes)))


HERE = "scan.sarif: runs[0].results[1]"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "scan.sarif: top level is not an object but an array"),
        (7, "scan.sarif: top level is not an object but 7"),
        (None, "scan.sarif: top level is not an object but null"),
        ({"runs": []}, 'scan.sarif: no "version"; is this SARIF?'),
        ({"version": "2.0.0", "runs": []}, "scan.sarif: version is '2.0.0', only 2.1.0 is read"),
        ({"version": {}, "runs": []}, "scan.sarif: version is an object, only 2.1.0 is read"),
        ({"version": "2.1.0"}, 'scan.sarif: no "runs"; is this SARIF?'),
        ({"version": "2.1.0", "runs": {}}, "scan.sarif: runs is not an array but an object"),
        ({"version": "2.1.0", "runs": None}, "scan.sarif: runs is not an array but null"),
        (sarif_document(7), "scan.sarif: runs[0]: is not an object but 7"),
        (sarif_document(run(), []), "scan.sarif: runs[1]: is not an object but an array"),
        (sarif_document(run() | {"results": {}}), "scan.sarif: runs[0]: results is not an array but an object"),
        (sarif_document(run() | {"tool": 7}), "scan.sarif: runs[0]: tool is not an object but 7"),
        (sarif_document({"results": []}), "scan.sarif: runs[0].tool.driver: has no name"),
        (
            sarif_document(run(externalPropertyFileReferences={"results": [{}]})),
            "scan.sarif: runs[0]: has its results in another file",
        ),
        (sarif_document(run(rules=[7])), "scan.sarif: runs[0].tool.driver.rules[0]: is not an object but 7"),
        (
            sarif_document(run(rules=[{}, {"id": 7}])),
            "scan.sarif: runs[0].tool.driver.rules[1]: id is not a string but 7",
        ),
        (
            sarif_document(run(rules=[{"defaultConfiguration": {"level": "high"}}])),
            "scan.sarif: runs[0].tool.driver.rules[0]: level is 'high', not one of error, warning, note, none",
        ),
        (
            sarif_document(run(rules=[{"messageStrings": {"a\nb": 7}}])),
            "scan.sarif: runs[0].tool.driver.rules[0]: a\\nb is not an object but 7",
        ),
        (
            sarif_document(run() | {"tool": {"driver": {"name": "x"}, "extensions": [{"rules": 7}]}}),
            "scan.sarif: runs[0].tool.extensions[0]: rules is not an array but 7",
        ),
        (
            sarif_document(run(result(locations=[at(index=0)]), artifacts=[{"location": []}])),
            "scan.sarif: runs[0].artifacts[0]: location is not an object but an array",
        ),
        (sarif_document(run(result(), 7)), f"{HERE}: is not an object but 7"),
        (sarif_document(run(result(), [])), f"{HERE}: is not an object but an array"),
        (sarif_document(run(result(), None)), f"{HERE}: is not an object but null"),
        (broken(locations=None), f"{HERE}: has no location"),
        (broken(locations=[]), f"{HERE}: has no location"),
        (broken(locations=[at("")]), f"{HERE}: has no location"),
        (broken(locations={}), f"{HERE}: locations is not an array but an object"),
        (broken(locations=[7]), f"{HERE}: locations[0] is not an object but 7"),
        (
            broken(locations=[at(index=9)]),
            f"{HERE}.locations[0].physicalLocation: artifact 9 is not in runs[0].artifacts",
        ),
        (
            broken(locations=[{"physicalLocation": {"artifactLocation": {"uri": []}}}]),
            f"{HERE}.locations[0].physicalLocation: uri is not a string but an array",
        ),
        (
            broken(locations=[at("a", startLine="3")]),
            f"{HERE}.locations[0].physicalLocation.region: startLine is not a whole number from 0 to 2147483647 but \"'3'\"".replace(
                '"', ""
            ),
        ),
        (broken(ruleId=None), f"{HERE}: names no rule"),
        (broken(ruleId=""), f"{HERE}: names no rule"),
        (broken(ruleId=7), f"{HERE}: ruleId is not a string but 7"),
        (broken(ruleId=None, ruleIndex=3), f"{HERE}: rule 3 is not among the 0 rules of its tool component"),
        (broken(rule=[]), f"{HERE}: rule is not an object but an array"),
        (broken(message=None), f"{HERE}: has no message"),
        (broken(message=7), f"{HERE}: message is not an object but 7"),
        (broken(message={}), f"{HERE}.message: has no text"),
        (broken(message={"text": ["x"]}), f"{HERE}.message: text is not a string but an array"),
        (broken(message={"id": "x"}), f"{HERE}.message: id 'x' is not in the messageStrings of its rule"),
        (
            broken(message={"text": "{0}", "arguments": [1]}),
            f"{HERE}.message: arguments[0] is not a string but 1",
        ),
        (broken(level="fatal"), f"{HERE}: level is 'fatal', not one of error, warning, note, none"),
        (broken(level=True), f"{HERE}: level is not a string but true"),
        (broken(kind=[]), f"{HERE}: kind is not a string but an array"),
        (broken(suppressions="x"), f"{HERE}: suppressions is not an array but 'x'"),
        (broken(fingerprints=[]), f"{HERE}: fingerprints is not an object but an array"),
        (broken(partialFingerprints={"a": 1}), f"{HERE}.partialFingerprints: a is not a string but 1"),
        (broken(properties=[]), f"{HERE}: properties is not an object but an array"),
        (broken(**score("severe")), f"{HERE}: security-severity is not a number from 0 up but 'severe'"),
        (broken(**score("nan")), f"{HERE}: security-severity is not a number from 0 up but 'nan'"),
        (broken(**score(-1)), f"{HERE}: security-severity is not a number from 0 up but -1"),
        (broken(**score(10**400)), f"{HERE}: security-severity is not a number from 0 up but 1{'0' * 56}..."),
        (broken(**score(True)), f"{HERE}: security-severity is not a number from 0 up but true"),
    ],
)
def test_a_document_that_is_not_sarif_is_refused(write: Write, document: Any, message: str) -> None:
    assert refusal(write(document)) == message


@pytest.mark.parametrize("line", [True, -2, 1.5, 2**31, [], "x"])
def test_a_line_that_is_no_line_is_refused(write: Write, line: Any) -> None:
    path = write(broken(locations=[at("a.py", startLine=line)]))
    assert refusal(path).startswith(f"{HERE}.locations[0].physicalLocation.region: startLine is not a whole number")


def test_the_findings_before_the_fault_are_yielded(write: Write) -> None:
    findings: Iterator[SarifFinding] = sarif.read(write(broken(message=None)))
    assert next(findings).external_ref == "R1"
    with pytest.raises(InvalidInput, match="has no message"):
        next(findings)


HEAD = b'{"version": "2.1.0",\n "runs": ['


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "scan.sarif: is empty"),
        (b" \n", "scan.sarif: truncated: the file ends at byte 2"),
        (b"not json", "scan.sarif: line 1, column 2 (byte 1): not JSON: invalid string in json text"),
        (HEAD + b"NaN]}", "scan.sarif: line 2, column 11 (byte 31): not JSON: invalid char in json text"),
        (HEAD + b"]} x", "scan.sarif: line 2, column 14 (byte 34): not JSON: trailing garbage"),
        (HEAD + b"]}{}", "scan.sarif: line 2, column 13 (byte 33): not JSON: trailing garbage"),
        (
            HEAD + b"1e99999999999999999999]}",
            "scan.sarif: line 2, column 33 (byte 53): not JSON: a number is out of range",
        ),
        (
            HEAD + b"9" * 5000 + b"]}",
            "scan.sarif: line 2, column 11 (byte 31): more than 2000 digits in a row",
        ),
        (
            HEAD + b'"caf\xc3\xa9" 7]}',
            "scan.sarif: line 2, column 19 (byte 40): not JSON: after array element, I expect ',' or ']'",
        ),
        (HEAD + b'"caf\xe9"]}', "scan.sarif: line 2, column 15 (byte 35): not UTF-8: invalid continuation byte"),
        (HEAD + b'"\xed\xa0\x80"]}', "scan.sarif: line 2, column 12 (byte 32): not UTF-8: invalid continuation byte"),
        (b"\xef\xbb\xbf{]", "scan.sarif: line 1, column 2 (byte 4): not JSON: invalid object key (must be a string)"),
        (HEAD + b"\x00]}", "scan.sarif: line 2, column 11 (byte 31): not JSON: invalid char in json text"),
        ('{"version": "2.1.0"}'.encode("utf-16"), "scan.sarif: not UTF-8: it looks like UTF-16 or UTF-32"),
        ('{"version": "2.1.0"}'.encode("utf-16-be"), "scan.sarif: not UTF-8: it looks like UTF-16 or UTF-32"),
        (b'{"version": "2.1.0", "version": "2.1.0", "runs": []}', "scan.sarif: top level: has 'version' twice"),
        (HEAD + b'], "runs": []}', "scan.sarif: top level: has 'runs' twice"),
        (HEAD + b'{"results": [], "results": []}]}', "scan.sarif: runs[0]: has 'results' twice"),
        (b"[" * 100_000, "scan.sarif: top level: is nested deeper than 256 levels"),
        (b'{"a":' * 100_000, "scan.sarif: top level: is nested deeper than 256 levels"),
        (
            HEAD + b'{"results": [{"a": ' + b"[" * 100_000,
            "scan.sarif: runs[0].results[0]: is nested deeper than 256 levels",
        ),
        (
            HEAD + b'{"results": [{"a": 1}, {"b',
            "scan.sarif: truncated: the file ends at byte 57 inside runs[0].results[1]",
        ),
        (
            HEAD + b'{"tool": {"driver": {"rules": [{',
            "scan.sarif: truncated: the file ends at byte 63 inside runs[0].tool.driver.rules[0]",
        ),
        (HEAD + b"]", "scan.sarif: truncated: the file ends at byte 32"),
        (HEAD + b"tru", "scan.sarif: truncated: the file ends at byte 34"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_bytes_that_are_not_json_are_refused(write: Write, content: bytes, message: str) -> None:
    assert refusal(write(content)).startswith(message)


def test_an_error_far_into_a_file_is_found(write: Write) -> None:
    lines = [b'{"version": "2.1.0", "runs": [], "pad": [', *[b'"\xc3\xa9t\xc3\xa9 \\n 0123456789",'] * 20_000]
    before = b"\n".join(lines)
    path = write(before + b"\n  }")
    expected = f"line 20002, column 3 (byte {len(before) + 3}): not JSON: "
    assert refusal(path).startswith(f"scan.sarif: {expected}")


def test_a_character_may_cross_two_chunks(write: Write) -> None:
    text = "é" * sarif.CHUNK_BYTES
    for padding in (b"", b" "):
        content = padding + json.dumps(sarif_document(run(result(ruleId=text))), ensure_ascii=False).encode()
        (finding,) = sarif.read(write(content))
        assert finding.external_ref == "é" * 500
        cut = content[: sarif.CHUNK_BYTES * 2 - 1] + b"\xff"
        assert "not UTF-8: " in refusal(write(cut))


def test_a_broken_character_across_two_chunks_is_found(write: Write) -> None:
    start = HEAD + b'"' + b"x" * (sarif.CHUNK_BYTES - len(HEAD) - 3)
    path = write(start + b"\xe2\x82x")
    assert f"(byte {len(start)}): not UTF-8: " in refusal(path)


def test_only_an_escape_that_is_open_is_held_back() -> None:
    for data, held in (
        (b"text", 0),
        (b"text\\n", 0),
        (b"text\\", 1),
        (b"text\\\\", 0),
        (b"text\\u12", 4),
        (b"text\\ud83d", 6),
        (b"text\\ud83d\\ude", 10),
        (b"text\\ud83d\\ude00", 0),
        (b"text\\ud83d.", 0),
        (b"text\\uZZZZ...", 0),
    ):
        assert len(data) - sarif._safe_length(data) == held, data


def test_a_number_may_not_cross_two_chunks_to_hide_its_length(write: Write) -> None:
    """The parser would end the process."""
    for shift in range(0, 5000, 250):
        start = HEAD + b" " * (sarif.CHUNK_BYTES - len(HEAD) - shift)
        assert "digits in a row" in refusal(write(start + b"9" * 4301 + b"]}"))


def test_one_value_has_a_limit(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "TOKEN_BYTES", 200_000)
    path = write(sarif_document(run(result(message={"text": "x" * 400_000}))))
    assert re.search(r"line 1, column \d+ \(byte \d+\): no value ends within 200000 bytes", refusal(path))
    monkeypatch.setattr(sarif, "TOKEN_BYTES", 500_000)
    assert len(list(sarif.read(path))) == 1


def test_one_result_has_a_limit(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "ITEM_CHARS", 20_000)
    path = write(broken(message={"text": "x", "arguments": ["y" * 100] * 200}))
    assert refusal(path) == f"{HERE}.message.arguments[97]: is larger than 20000 characters"


def test_the_rules_together_have_a_limit(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "TABLE_CHARS", 20_000)
    path = write(sarif_document(run(rules=[{"id": str(number)} for number in range(100)])))
    assert "too many rules or artifacts" in refusal(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.sarif", "missing.sarif: cannot be read: No such file or directory"),
        ("folder", "folder: is a folder"),
        ("pipe", "pipe: is not a regular file"),
        ("a\0b", "a\ufffdb: is not the name of a file"),
        ("a\nb", "a\ufffdb: cannot be read: No such file or directory"),
        ("n" * 300, "n" * 300 + ": cannot be read: File name too long"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / name) == message


def test_a_file_without_permission_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(sarif_document())
    monkeypatch.setattr(Path, "open", deny)
    assert refusal(path) == "scan.sarif: cannot be read: Permission denied"


# Size


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "large.sarif"
    noise = {"codeFlows": [{"threadFlows": [{"text": "x" * 1500}] * 2}]}
    one_result = json.dumps(result(**noise, message={"text": "NUMBER"})).encode()
    count = 41_000_000 // len(one_result) + 1
    with path.open("wb") as file:
        file.write(b'{"version": "2.1.0", "runs": [{"results": [')
        for number in range(count):
            file.write(one_result.replace(b"NUMBER", b"%d" % number) + (b"," if number < count - 1 else b""))
        file.write(b'], "tool": {"driver": {"name": "lint"}}}]}')
    assert path.stat().st_size > 40_000_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in sarif.read(path)) == count
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


# Anything at all


RICH = json.dumps(
    sarif_document(
        run(
            result(suppressions=[{"status": "rejected"}], fingerprints={"a": "é\ud800\0"}),
            result(ruleId=None, ruleIndex=0, message={"id": "m", "arguments": ["😀"]}, locations=[at(index=0)]),
            result(kind="pass", properties={"security-severity": "9.8", "n": [1.5e3, -7, True, None]}),
            rules=[{"id": "R1", "messageStrings": {"m": {"text": "{0}"}}, **score(7.5)}],
            artifacts=[{"location": {"uri": "a.py"}}],
        )
    ),
    indent=1,
).encode()


def survive(content: bytes) -> int | None:
    """How many findings these bytes hold, or None if they are refused in one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.sarif"
        path.write_bytes(content)
        try:
            return len(list(sarif.read(path)))
        except InvalidInput as refused:
            message = refused.message
    assert message.startswith("scan.sarif: ")
    assert len(message.splitlines()) == 1
    return None


def test_the_rich_sample_is_valid() -> None:
    assert survive(RICH) == 2


@given(length=st.integers(0, len(RICH) - 1), chunk=st.sampled_from([1, 7, 64, 65536]))
@settings(max_examples=300, deadline=None)
def test_a_truncated_file_is_refused(length: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sarif, "CHUNK_BYTES", chunk)
        assert survive(RICH[:length]) is None


@given(
    flips=st.lists(st.tuples(st.integers(0, len(RICH) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    chunk=st.sampled_from([1, 13, 65536]),
)
@settings(max_examples=500, deadline=None)
def test_a_damaged_file_is_read_or_refused(flips: list[tuple[int, int]], chunk: int) -> None:
    damaged = bytearray(RICH)
    for position, byte in flips:
        damaged[position] = byte
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sarif, "CHUNK_BYTES", chunk)
        survive(bytes(damaged))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document where another value could stand."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from places(value[key])


@given(
    seed=st.integers(0, 10_000),
    intruder=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    ),
)
@settings(max_examples=300, deadline=None)
def test_a_value_of_any_type_may_stand_anywhere(seed: int, intruder: Any) -> None:
    document = json.loads(RICH)
    holder, key = random.Random(seed).choice(list(places(document)))
    holder[key] = intruder
    survive(json.dumps(document).encode())


def test_findings_can_be_stored_as_json_text(write: Write) -> None:
    for finding in sarif.read(write(RICH)):
        stored = json.dumps(finding.evidence, ensure_ascii=False).encode()
        assert b"\\u0000" not in stored
