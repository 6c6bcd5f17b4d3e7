"""What is no SARIF, or too large, becomes one line that says what is wrong and where."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opsplane.errors import InvalidInput
from opsplane.findings import sarif
from opsplane.findings.sarif import SarifFinding, rules, stream, walker
from tests.unit.sarif.documents import HERE, Write, at, broken, refusal, result, run, sarif_document, score


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


def test_one_value_has_a_limit(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TOKEN_BYTES", 200_000)
    path = write(sarif_document(run(result(message={"text": "x" * 400_000}))))
    assert re.search(r"line 1, column \d+ \(byte \d+\): no value ends within 200000 bytes", refusal(path))
    monkeypatch.setattr(stream, "TOKEN_BYTES", 500_000)
    assert len(list(sarif.read(path))) == 1


def test_one_result_has_a_limit(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walker, "ITEM_CHARS", 20_000)
    path = write(broken(message={"text": "x", "arguments": ["y" * 100] * 200}))
    assert refusal(path) == f"{HERE}.message.arguments[97]: is larger than 20000 characters"


def test_the_rules_together_have_a_limit(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "TABLE_CHARS", 20_000)
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
