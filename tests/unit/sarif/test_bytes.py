"""Bytes of any kind and number become findings or one line that says what is wrong and where."""

import json
import random
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsplane.errors import InvalidInput
from opsplane.findings import sarif
from opsplane.findings.sarif import source
from tests.unit.sarif.documents import Write, at, refusal, result, run, sarif_document, score

HEAD = b'{"version": "2.1.0",\n "runs": ['


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
    for padding in range(source.CHUNK_BYTES - content.index(b"MARK") - 20, source.CHUNK_BYTES):
        path = write(b"{" + b" " * padding + content[1:].replace(b"MARK", escaped.encode()))
        (finding,) = sarif.read(path)
        assert finding.evidence["message"] == text
        if padding > source.CHUNK_BYTES - content.index(b"MARK") + 20:
            break


def test_a_byte_order_mark_is_skipped(write: Write) -> None:
    content = json.dumps(sarif_document(run(result()))).encode()
    assert list(sarif.read(write(b"\xef\xbb\xbf" + content))) == list(sarif.read(write(content)))


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
    text = "é" * source.CHUNK_BYTES
    for padding in (b"", b" "):
        content = padding + json.dumps(sarif_document(run(result(ruleId=text))), ensure_ascii=False).encode()
        (finding,) = sarif.read(write(content))
        assert finding.external_ref == "é" * 500
        cut = content[: source.CHUNK_BYTES * 2 - 1] + b"\xff"
        assert "not UTF-8: " in refusal(write(cut))


def test_a_broken_character_across_two_chunks_is_found(write: Write) -> None:
    start = HEAD + b'"' + b"x" * (source.CHUNK_BYTES - len(HEAD) - 3)
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
        assert len(data) - source.safe_length(data) == held, data


def test_a_number_may_not_cross_two_chunks_to_hide_its_length(write: Write) -> None:
    """The parser would end the process."""
    for shift in range(0, 5000, 250):
        start = HEAD + b" " * (source.CHUNK_BYTES - len(HEAD) - shift)
        assert "digits in a row" in refusal(write(start + b"9" * 4301 + b"]}"))


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "large.sarif"
    noise = {"codeFlows": [{"threadFlows": [{"text": "x" * 6000}] * 2}]}
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
@settings(max_examples=80, deadline=None)
def test_a_truncated_file_is_refused(length: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "CHUNK_BYTES", chunk)
        assert survive(RICH[:length]) is None


@given(
    flips=st.lists(st.tuples(st.integers(0, len(RICH) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    chunk=st.sampled_from([1, 13, 65536]),
)
@settings(max_examples=80, deadline=None)
def test_a_damaged_file_is_read_or_refused(flips: list[tuple[int, int]], chunk: int) -> None:
    damaged = bytearray(RICH)
    for position, byte in flips:
        damaged[position] = byte
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "CHUNK_BYTES", chunk)
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
@settings(max_examples=80, deadline=None)
def test_a_value_of_any_type_may_stand_anywhere(seed: int, intruder: Any) -> None:
    document = json.loads(RICH)
    holder, key = random.Random(seed).choice(list(places(document)))
    holder[key] = intruder
    survive(json.dumps(document).encode())


def test_findings_can_be_stored_as_json_text(write: Write) -> None:
    for finding in sarif.read(write(RICH)):
        stored = json.dumps(finding.evidence, ensure_ascii=False).encode()
        assert b"\\u0000" not in stored
