"""SARIF 2.1.0 files of any size, read as a stream of plain findings.

A file is read twice: once to check the JSON and to learn the rules, once to stream the results,
so the order of its properties does not matter. Only the properties named in the shapes below are ever built;
everything else is skipped as it passes, and each thing that is kept has a limit.
"""

import codecs
import contextlib
import hashlib
import json
import math
import re
import sqlite3
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import ijson

from opsplane.errors import InvalidInput, ServiceUnavailable

CHUNK_BYTES = 64 * 1024
TOKEN_BYTES = 8 * 2**20  # one string or number
ITEM_CHARS = 8 * 2**20  # what is kept of one result or rule
TABLE_CHARS = 64 * 2**20  # what is kept of all rules, or of all artifact addresses
SEEN_KIB = 32 * 1024  # cache for telling repeats apart
MAX_DEPTH = 256
MAX_DIGITS = min(2000, (sys.get_int_max_str_digits() or 4300) // 2 - 1)
TEXT_CHARS = 4000
TITLE_CHARS = 500
RULE_ID_CHARS = 500

SEVERITY_OF_LEVEL = {"error": "high", "warning": "medium", "note": "low", "none": "informational"}
SEVERITY_OF_WORD = {"high": "high", "medium": "medium", "low": "low"}
KINDS = ("notApplicable", "pass", "fail", "review", "open", "informational")
NOT_FINDINGS = ("pass", "notApplicable")
NOT_A_FINGERPRINT = "requires login"  # what semgrep writes for everybody who is not logged in

T = TypeVar("T")


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


class _Refused(Exception):
    """Why the file is refused, without its name."""


# What is kept of a document


@dataclass(frozen=True, slots=True)
class _Shape:
    """The part of a JSON value that is kept; a value that is neither `{}` nor `[]` is kept whole, if its shape is."""

    kind: type[dict[str, Any]] | type[list[Any]] | None = None
    fields: dict[str, "_Shape"] = field(default_factory=dict)
    rest: "_Shape | None" = None
    """Shape of every item of an array, and of every property of an object that `fields` does not name."""
    is_item: bool = False
    """Handed out by itself when it ends, and not kept in its parent."""


_VALUE = _Shape()


def _object(fields: dict[str, _Shape] | None = None, *, rest: _Shape | None = None, is_item: bool = False) -> _Shape:
    return _Shape(dict, fields or {}, rest, is_item)


def _array(of: _Shape | None) -> _Shape:
    return _Shape(list, {}, of)


def _values(*names: str) -> dict[str, _Shape]:
    return dict.fromkeys(names, _VALUE)


def _of_runs(name: str, member: _Shape) -> _Shape:
    """The members of this array of every run, each an item by itself."""
    return _object({"runs": _array(_object({name: _array(member)}, is_item=True))})


_RULE = _object(
    {
        **_values("id", "helpUri"),
        "defaultConfiguration": _object(_values("level")),
        "properties": _object(_values("security-severity")),
        "messageStrings": _object(rest=_object(_values("text", "markdown"))),
    },
    is_item=True,
)
_COMPONENT = {**_values("name", "version", "semanticVersion"), "rules": _array(_RULE)}
_RUN = _object(
    {
        "tool": _object({"driver": _object(_COMPONENT), "extensions": _array(_object(_COMPONENT, is_item=True))}),
        "results": _array(None),
        "externalPropertyFileReferences": _object({"results": _array(_VALUE)}),
    },
    is_item=True,
)
_HEAD = _object({"version": _VALUE, "runs": _array(_RUN)}, is_item=True)

_RESULT = _object(
    {
        **_values("ruleId", "ruleIndex", "kind", "level", "baselineState"),
        "rule": _object({**_values("id", "index"), "toolComponent": _object(_values("index", "name"))}),
        "message": _object({**_values("text", "markdown", "id"), "arguments": _array(_VALUE)}),
        "suppressions": _array(_object(_values("status"))),
        "locations": _array(
            _object(
                {
                    "physicalLocation": _object(
                        {
                            "artifactLocation": _object(_values("uri", "index")),
                            "region": _object(_values("startLine", "startColumn", "endLine", "endColumn")),
                        }
                    ),
                    "logicalLocations": _array(_object(_values("fullyQualifiedName", "name"))),
                }
            )
        ),
        "partialFingerprints": _object(rest=_VALUE),
        "fingerprints": _object(rest=_VALUE),
        "properties": _object(_values("security-severity", "issue_severity")),
    },
    is_item=True,
)
_RESULTS = _of_runs("results", _RESULT)
_ARTIFACTS = _of_runs("artifacts", _object({"location": _object(_values("uri"))}, is_item=True))

_Path = tuple[str | int, ...]


class _Item(NamedTuple):
    path: _Path
    value: Any
    chars: int


class _Frame:
    """An object or array that is being built."""

    __slots__ = ("key", "shape", "value", "want")

    def __init__(self, shape: _Shape, value: dict[Any, Any] | list[Any]) -> None:
        self.shape = shape
        self.value = value
        self.key: str | int | None = -1 if isinstance(value, list) else None
        self.want = shape.rest


_NESTING = {
    **dict.fromkeys(("start_map", "start_array"), 1),
    **dict.fromkeys(("end_map", "end_array"), -1),
    **dict.fromkeys(("map_key", "null", "boolean", "number", "string"), 0),
}


_EMPTY: dict[str, type[dict[str, Any]] | type[list[Any]]] = {"start_map": dict, "start_array": list}


class _Walker:
    """Builds the wanted parts of a document from ijson's events."""

    def __init__(self, shape: _Shape) -> None:
        self._root = shape
        self._frames: list[_Frame] = []
        self._skipping = 0
        self._chars = 0

    def feed(self, events: Iterable[tuple[str, Any]]) -> Iterator[_Item]:
        """The items that end in these events."""
        frames = self._frames
        skipping = self._skipping
        for event, value in events:
            if skipping:
                skipping += _NESTING[event]
                if skipping > MAX_DEPTH:
                    raise self._too_deep()
            elif event == "map_key":
                frame = frames[-1]
                frame.key = value
                frame.want = frame.shape.fields.get(value, frame.shape.rest)
            elif _NESTING[event] < 0:
                frame = frames.pop()
                if frame.shape.is_item:
                    yield self._item(frame.value)
            else:
                skipping, item = self._begin(event, value)
                if item:
                    yield item
        self._skipping = skipping

    def where(self) -> str:
        """The innermost array item that is not finished, e.g. `runs[0].results[57]`."""
        path = [frame.key for frame in self._frames if frame.key not in (None, -1)]
        while path and not isinstance(path[-1], int):
            path.pop()
        return _dotted(tuple(key for key in path if key is not None))

    def _begin(self, event: str, value: Any) -> tuple[int, _Item | None]:
        """Take the next value, or begin to build it: how deep the skipping is, and the item if it is one."""
        step = _NESTING[event]
        frame = self._frames[-1] if self._frames else None
        if frame and isinstance(frame.key, int):
            frame.key += 1
        want = frame.want if frame else self._root
        if want is None:
            return step, None
        value = _clean(value) if event == "string" else _EMPTY[event]() if step else value
        if frame and not want.is_item:
            self._keep(frame, value)
        if step and want.kind is type(value):
            self._frames.append(_Frame(want, value))
            return 0, None
        return step, self._item(value) if want.is_item else None

    def _keep(self, frame: _Frame, value: Any) -> None:
        self._chars += 100 + len(value) if isinstance(value, str) else 100
        if self._chars > ITEM_CHARS:
            raise _Refused(f"{self.where() or 'the document'}: is larger than {ITEM_CHARS} characters")
        key, holder = frame.key, frame.value
        if isinstance(holder, list):
            holder.append(value)
            return
        if key in holder:
            at = _dotted(tuple(above.key for above in self._frames[:-1] if above.key is not None))
            raise _Refused(f"{at or 'top level'}: has {_show(key)} twice")
        if frame.shape.rest:  # the name is the file's own
            key = _clean(str(key))
            self._chars += len(key)
        holder[key] = value

    def _item(self, value: Any) -> _Item:
        chars, self._chars = self._chars, 0
        return _Item(tuple(frame.key for frame in self._frames if frame.key is not None), value, chars)

    def _too_deep(self) -> _Refused:
        return _Refused(f"{self.where() or 'top level'}: is nested deeper than {MAX_DEPTH} levels")


def _clean(text: str) -> str:
    """The text as Postgres can store it, cut to the longest that is of use."""
    return text[:TEXT_CHARS].replace("\0", "\ufffd")


def _dotted(path: _Path) -> str:
    return "".join([f"[{key}]" if isinstance(key, int) else f".{_name(key)}" for key in path]).lstrip(".")


def _name(key: str) -> str:
    """A property for an error message: it may be the file's own, and no word."""
    return key if key.isidentifier() else _show(key)[1:-1]


def _show(value: Any) -> str:
    """A value of the file for an error message: one short line."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    shown = ascii(value) if isinstance(value, str) else json.dumps(value, default=str)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


# From bytes to events

_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{4}|[^u])", re.DOTALL)
_SURROGATES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_CONTINUATION = bytes(range(0x80, 0xC0))
_PARSE_ERRORS = (ijson.JSONError, ValueError, ArithmeticError)


class _Bytes:
    """A file in chunks that are safe to parse: UTF-8, no lone surrogates, no number that is too long.

    No chunk ends inside an escape sequence or between two surrogates, and each is as long as it is in the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.offset = 0

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        head = self._file.read(4)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head:
            raise _Refused("not UTF-8: it looks like UTF-16 or UTF-32")
        self.offset = start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
        self._file.seek(start)
        decoder = codecs.getincrementaldecoder("utf-8")()
        held = b""
        while data := self._file.read(CHUNK_BYTES):
            self._check_utf8(decoder, data, self.offset + len(held))
            data = held + data
            cut = _safe_length(data)
            held = data[cut:]
            if cut:
                self._check_digits(data[:cut])
                yield _without_lone_surrogates(data[:cut])
                self.offset += cut
        if held:
            yield _without_lone_surrogates(held)
            self.offset += len(held)

    def _check_utf8(self, decoder: codecs.IncrementalDecoder, data: bytes, offset: int) -> None:
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(data)
        except UnicodeDecodeError as error:
            at = offset - pending + error.start
            raise _Refused(f"{self.position(at)}: not UTF-8: {error.reason}") from None

    def _check_digits(self, data: bytes) -> None:
        """The parser dies, with the whole process, of an integer that Python refuses to convert (4,300 digits)."""
        for start in (*range(0, len(data), MAX_DIGITS), max(0, len(data) - MAX_DIGITS)):
            window = data[start : start + MAX_DIGITS]
            if len(window) == MAX_DIGITS and window.isdigit():
                first = self.offset + len(data[:start].rstrip(b"0123456789"))
                raise _Refused(f"{self.position(first)}: more than {MAX_DIGITS} digits in a row")

    def position(self, offset: int) -> str:
        """Line and column (in characters, both from 1) of the byte at this offset (from 0)."""
        lines, column, left = 1, 1, offset
        self._file.seek(0)
        while left and (data := self._file.read(min(left, CHUNK_BYTES))):
            left -= len(data)
            if newlines := data.count(b"\n"):
                lines, column = lines + newlines, 1
            column += len(data[data.rfind(b"\n") + 1 :].translate(None, _CONTINUATION))
        if lines == 1 and offset:
            self._file.seek(0)
            column -= self._file.read(3) == codecs.BOM_UTF8
        return f"line {lines}, column {column} (byte {offset})"


def _safe_length(data: bytes) -> int:
    """How many of these bytes end outside an escape sequence, and not after the first of two surrogates."""
    if data.rfind(b"\\", max(0, len(data) - 12)) < 0:
        return len(data)
    first = data.find(b"\\")
    end, high = first, -1
    for escape in _ESCAPE.finditer(data, first):
        end = escape.end()
        high = escape.start() if re.match(rb"\\u[dD][89abAB]", escape.group()) else -1
    opened = data.find(b"\\", end)
    if 0 <= opened < len(data) - 6:  # no escape sequence at all: let the parser refuse it
        return len(data)
    if high >= 0 and (end == len(data) or opened == end):
        return high
    return opened if opened >= 0 else len(data)


def _without_lone_surrogates(data: bytes) -> bytes:
    """The parser garbles a lone high surrogate and refuses a lone low one: both become U+FFFD."""
    if b"\\ud" not in data and b"\\uD" not in data:
        return data
    return _SURROGATES.sub(lambda match: b"\\ufffd" if match[1] else match[0], data)


def _parser() -> tuple[list[tuple[str, Any]], Any]:
    """A list of events, and the coroutine that takes bytes and fills it.

    Not with `use_float`: it refuses integers of over 64 bits, which some tools write in properties that nobody reads.
    """
    events: list[tuple[str, Any]] = ijson.sendable_list()
    return events, ijson.basic_parse_coro(events)


def _stream(path: Path, shape: _Shape) -> Iterator[_Item]:
    """The items of this shape, in the order of the file."""
    try:
        mode = path.stat().st_mode
    except ValueError:
        raise _Refused("is not the name of a file") from None
    if not stat.S_ISREG(mode):
        raise _Refused("is a folder" if stat.S_ISDIR(mode) else "is not a regular file")
    with path.open("rb") as file:
        walker = _Walker(shape)
        events, parser = _parser()
        source = _Bytes(file)
        idle = 0
        for data in source:
            try:
                parser.send(data)
            except _PARSE_ERRORS as error:
                raise _syntax_error(source, error) from None
            idle = 0 if events else idle + len(data)
            if idle > TOKEN_BYTES:
                raise _Refused(f"{source.position(source.offset)}: no value ends within {TOKEN_BYTES} bytes")
            yield from walker.feed(events)
            events.clear()
        if not source.offset:
            raise _Refused("is empty")
        try:
            parser.close()
        except _PARSE_ERRORS:
            inside = f" inside {walker.where()}" if walker.where() else ""
            raise _Refused(f"truncated: the file ends at byte {source.offset}{inside}") from None
        yield from walker.feed(events)


def _members(path: Path, shape: _Shape) -> Iterator[_Item]:
    """The items of a shape that `_of_runs` made, without the runs."""
    return (item for item in _stream(path, shape) if len(item.path) > 2)


def _syntax_error(source: _Bytes, error: Exception) -> _Refused:
    """Where the parser gives up: the C parser does not tell, so feed the chunk again, in ever smaller pieces."""
    good = source.offset
    for size in (256, 1):
        good, error = _replay(source, good, size) or (good, error)
    found = re.match(r"(?:b['\"])?(?:lexical|parse) error: ([^\n\\]*)", str(error))
    reason = found[1].strip().rstrip(".") if found else "a number is out of range"
    return _Refused(f"{source.position(good)}: not JSON: {reason}")


def _replay(source: _Bytes, good: int, size: int) -> tuple[int, Exception] | None:
    """Offset of the first piece of this size, from offset `good` on, that the parser refuses."""
    events, parser = _parser()
    for data in source:
        whole = max(0, min(len(data), good - source.offset))
        pieces = [(0, data[:whole])] if whole else []
        pieces += [(at, data[at : at + size]) for at in range(whole, len(data), size)]
        for at, piece in pieces:
            try:
                parser.send(piece)
            except _PARSE_ERRORS as error:
                return source.offset + at, error
            events.clear()
    return None


# From JSON to findings


@dataclass(frozen=True, slots=True)
class _Rule:
    id: str | None
    level: str | None
    score: float | None
    messages: dict[str, str]
    help_uri: str | None


class _Component:
    """The driver or an extension of a tool, with its rules."""

    def __init__(self) -> None:
        self.name = ""
        self.rules: list[_Rule] = []
        self.by_id: dict[str, _Rule] = {}

    def add(self, rule: _Rule) -> None:
        self.rules.append(rule)
        if rule.id:
            self.by_id.setdefault(rule.id, rule)


@dataclass(slots=True)
class _Run:
    tool: str = ""
    version: str | None = None
    driver: _Component = field(default_factory=_Component)
    extensions: dict[int, _Component] = field(default_factory=dict)

    def component(self, path: _Path) -> _Component:
        """The component that this path, `runs[0].tool.driver...` or `runs[0].tool.extensions[0]...`, is in."""
        if path[3] == "driver":
            return self.driver
        return self.extensions.setdefault(int(path[4]), _Component())

    def find(self, rule_id: str) -> _Rule | None:
        """The rule of this id, or the one that a hierarchical id such as `CA1000/1` belongs to."""
        while rule_id:
            for component in (self.driver, *self.extensions.values()):
                if rule := component.by_id.get(rule_id):
                    return rule
            rule_id = rule_id.rpartition("/")[0]
        return None


class _Location(NamedTuple):
    uri: str
    region: tuple[int | None, int | None, int | None, int | None]


_NOWHERE = (None, None, None, None)
_KIND_NAMES: dict[type, str] = {str: "a string", dict: "an object", list: "an array"}


def _get(holder: dict[str, Any], key: str, kind: type[T], at: str) -> T | None:
    """The property, if it is there and not null."""
    value = holder.get(key)
    if value is None or isinstance(value, kind):
        return value
    raise _Refused(f"{at}: {_name(key)} is not {_KIND_NAMES[kind]} but {_show(value)}")


def _get_object(holder: dict[str, Any], key: str, at: str) -> dict[str, Any]:
    return _get(holder, key, dict, at) or {}


def _get_objects(holder: dict[str, Any], key: str, at: str) -> list[dict[str, Any]]:
    items = _get(holder, key, list, at) or []
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise _Refused(f"{at}: {key}[{index}] is not an object but {_show(item)}")
    return items


def _get_int(holder: dict[str, Any], key: str, at: str) -> int | None:
    value = holder.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not -1 <= value < 2**31 or value % 1:
        raise _Refused(f"{at}: {key} is not a whole number from 0 to {2**31 - 1} but {_show(value)}")
    return int(value) if value >= 0 else None  # -1 is how SARIF says "none"


def _get_word(holder: dict[str, Any], key: str, words: Iterable[str], at: str) -> str | None:
    word = _get(holder, key, str, at)
    if word is not None and word not in words:
        raise _Refused(f"{at}: {key} is {_show(word)}, not one of {', '.join(words)}")
    return word


def _get_score(holder: dict[str, Any], at: str) -> float | None:
    """`properties.security-severity`, the CVSS score of a result or a rule."""
    value = _get_object(holder, "properties", at).get("security-severity")
    if value is None:
        return None
    try:
        score = math.nan if isinstance(value, bool | dict | list) else float(value)
    except (ValueError, OverflowError):
        score = math.nan
    if not 0 <= score < math.inf:
        raise _Refused(f"{at}: security-severity is not a number from 0 up but {_show(value)}")
    return score


def _expect_object(value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Refused(f"{at}: is not an object but {_show(value)}")
    return value


def _rule(value: Any, at: str) -> _Rule:
    rule = _expect_object(value, at)
    messages = _get_object(rule, "messageStrings", at)
    help_uri = _get(rule, "helpUri", str, at)
    return _Rule(
        id=_get(rule, "id", str, at),
        level=_get_word(_get_object(rule, "defaultConfiguration", at), "level", SEVERITY_OF_LEVEL, at),
        score=_get_score(rule, at),
        messages={key: _text(_get_object(messages, key, at), at) or "" for key in messages},
        help_uri=help_uri if help_uri and help_uri.startswith(("https://", "http://")) else None,
    )


def _text(message: dict[str, Any], at: str) -> str | None:
    text, markdown = _get(message, "text", str, at), _get(message, "markdown", str, at)
    return text if text is not None else markdown


def _fill(text: str, arguments: list[Any]) -> str:
    """The text with `{0}` replaced by the first argument, and so on."""
    if not arguments:
        return text

    def replace(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        return str(arguments[int(match[1])]) if int(match[1]) < len(arguments) else match[0]

    return re.sub(r"\{([0-9]{1,3})\}|\{\{|\}\}", replace, text)


def _severity_of_score(score: float) -> str:
    for least, severity in ((9, "critical"), (7, "high"), (4, "medium")):
        if score >= least:
            return severity
    return "low" if score > 0 else "informational"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class _Occurrences:
    """How often each digest was seen, in a private database that SQLite moves to disk when it outgrows its cache.

    It goes by 8 bytes of the digest: two that share them only get a higher number than they need.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute(f"PRAGMA cache_size = -{SEEN_KIB}")
        self._db.execute("PRAGMA journal_mode = off")
        self._db.execute("CREATE TABLE seen (digest INTEGER PRIMARY KEY, times INTEGER NOT NULL)")
        self._db.execute("BEGIN")

    def add(self, digest: str) -> int:
        """Count it; 1 is the first time."""
        key = (int.from_bytes(bytes.fromhex(digest[:16]), signed=True),)
        if self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, 1)", key).rowcount:
            return 1
        self._db.execute("UPDATE seen SET times = times + 1 WHERE digest = ?", key)
        return int(self._db.execute("SELECT times FROM seen WHERE digest = ?", key).fetchone()[0])

    def close(self) -> None:
        self._db.close()


class SarifReader:
    """The findings of one SARIF file; iterate to read it, then ask what was left out.

    Raises:
        InvalidInput: the file cannot be read or is not SARIF 2.1.0; findings before the fault may have been yielded.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results = 0
        """Results read so far, the skipped ones included."""
        self.skipped: Counter[str] = Counter()
        """Results that are no findings, by reason."""
        self._runs: dict[int, _Run] = {}
        self._artifacts: dict[tuple[int, int], str] | None = None
        self._table_chars = 0

    def __iter__(self) -> Iterator[SarifFinding]:
        name = "".join(char if char.isprintable() else "\ufffd" for char in self.path.name) or "."
        self.results, self._artifacts, self._table_chars = 0, None, 0
        self.skipped.clear()
        self._runs.clear()
        try:
            self._read_head()
            with contextlib.closing(_Occurrences()) as occurrences:
                for path, value, _ in _members(self.path, _RESULTS):
                    self.results += 1
                    if finding := self._finding(path, value, occurrences):
                        yield finding
        except _Refused as refusal:
            raise InvalidInput(f"{name}: {refusal}") from None
        except OSError as error:
            raise InvalidInput(f"{name}: cannot be read: {error.strerror or error}") from error
        except sqlite3.Error as error:
            raise ServiceUnavailable(f"{name}: no room for a temporary file: {error}") from error

    def _read_head(self) -> None:
        """Check the whole document, and learn its tools and rules."""
        document: Any = None
        for path, value, chars in _stream(self.path, _HEAD):
            at = _dotted(path)
            self._charge(chars, at)
            if not path:
                document = value
            elif len(path) == 2:
                self._add_run(_expect_object(value, at), path, at)
            elif path[-2] == "rules":
                self._run(path).component(path).add(_rule(value, at))
            else:
                extension = _expect_object(value, at)
                _get(extension, "rules", list, at)
                self._run(path).component(path).name = _get(extension, "name", str, at) or ""
        if not isinstance(document, dict):
            raise _Refused(f"top level is not an object but {_show(document)}")
        if "version" not in document:
            raise _Refused('no "version"; is this SARIF?')
        if document["version"] != "2.1.0":
            raise _Refused(f"version is {_show(document['version'])}, only 2.1.0 is read")
        if "runs" not in document:
            raise _Refused('no "runs"; is this SARIF?')
        if not isinstance(document["runs"], list):
            raise _Refused(f"runs is not an array but {_show(document['runs'])}")

    def _add_run(self, value: dict[str, Any], path: _Path, at: str) -> None:
        tool = _get_object(value, "tool", at)
        driver = _get_object(tool, "driver", f"{at}.tool")
        for holder, key, where in (
            (value, "results", at),
            (driver, "rules", f"{at}.tool.driver"),
            (tool, "extensions", f"{at}.tool"),
        ):
            _get(holder, key, list, where)
        elsewhere = _get_object(value, "externalPropertyFileReferences", at)
        if _get(elsewhere, "results", list, at):
            raise _Refused(f"{at}: has its results in another file")
        at = f"{at}.tool.driver"
        run = self._run(path)
        run.tool = run.driver.name = _get(driver, "name", str, at) or ""
        if not run.tool:
            raise _Refused(f"{at}: has no name")
        run.version = _get(driver, "semanticVersion", str, at) or _get(driver, "version", str, at)

    def _run(self, path: _Path) -> _Run:
        return self._runs.setdefault(int(path[1]), _Run())

    def _charge(self, chars: int, at: str) -> None:
        self._table_chars += chars + 500
        if self._table_chars > TABLE_CHARS:
            raise _Refused(f"{at}: too many rules or artifacts before it: more than {TABLE_CHARS} characters")

    def _finding(self, path: _Path, value: Any, occurrences: _Occurrences) -> SarifFinding | None:
        at = _dotted(path)
        result = _expect_object(value, at)
        if reason := _reason_to_skip(result, at):
            self.skipped[reason] += 1
            return None
        run = self._runs.get(int(path[1]))
        if run is None:
            raise _Refused(f"{at}: the file changed while it was read")
        rule_id, rule = _rule_of(result, run, at)
        level = _level(result, rule, at)
        message = _message(result, rule, at)
        uri, region = self._location(result, int(path[1]), at)
        given = _fingerprints(result, at)
        digest = _digest(run.tool, rule_id, uri, given or [region, message])
        if (nth := occurrences.add(digest)) > 1:
            digest = _digest(digest, nth)
        evidence = {
            "tool": run.tool,
            "tool_version": run.version,
            "rule": rule_id,
            "uri": uri,
            "start_line": region[0],
            "start_column": region[1],
            "end_line": region[2],
            "message": message,
            "level": level,
        }
        if rule and rule.help_uri:
            evidence["help_uri"] = rule.help_uri
        lines = message.strip().splitlines()
        return SarifFinding(
            external_ref=rule_id,
            title=lines[0].strip()[:TITLE_CHARS] if lines else rule_id,
            severity=_severity(result, rule, level, at),
            fingerprint=digest,
            evidence=evidence,
        )

    def _location(self, result: dict[str, Any], run: int, at: str) -> _Location:
        locations = _get_objects(result, "locations", at)
        for index, location in enumerate(locations):
            physical = _get_object(location, "physicalLocation", f"{at}.locations[{index}]")
            here = f"{at}.locations[{index}].physicalLocation"
            artifact = _get_object(physical, "artifactLocation", here)
            if uri := _get(artifact, "uri", str, here) or self._artifact(run, _get_int(artifact, "index", here), here):
                return _Location(uri, _region(physical, here))
        for index, location in enumerate(locations):
            here = f"{at}.locations[{index}]"
            for logical in _get_objects(location, "logicalLocations", here):
                if uri := _get(logical, "fullyQualifiedName", str, here) or _get(logical, "name", str, here):
                    return _Location(uri, _NOWHERE)
        raise _Refused(f"{at}: has no location")

    def _artifact(self, run: int, index: int | None, at: str) -> str | None:
        """The address of an artifact that is named by number only; few tools do, so the table is read on demand."""
        if index is None:
            return None
        if self._artifacts is None:
            self._artifacts = {}
            for path, value, chars in _members(self.path, _ARTIFACTS):
                here = _dotted(path)
                self._charge(chars, here)
                location = _get_object(_expect_object(value, here), "location", here)
                self._artifacts[int(path[1]), int(path[3])] = _get(location, "uri", str, here) or ""
        uri = self._artifacts.get((run, index))
        if uri is None:
            raise _Refused(f"{at}: artifact {index} is not in runs[{run}].artifacts")
        return uri


def read(path: Path) -> Iterator[SarifFinding]:
    """The findings of a SARIF 2.1.0 file.

    Raises:
        InvalidInput: the file cannot be read or is not SARIF 2.1.0; the message names it and the position.

    """
    yield from SarifReader(path)


def _reason_to_skip(result: dict[str, Any], at: str) -> str | None:
    kind = _get_word(result, "kind", KINDS, at)
    if kind in NOT_FINDINGS:
        return f"kind {kind}"
    for suppression in _get_objects(result, "suppressions", at):
        if _get(suppression, "status", str, at) in (None, "accepted"):
            return "suppressed"
    return "baselineState absent" if _get(result, "baselineState", str, at) == "absent" else None


def _rule_of(result: dict[str, Any], run: _Run, at: str) -> tuple[str, _Rule | None]:
    """The id of the result's rule, and the rule itself if the tool describes it."""
    reference = _get_object(result, "rule", at)
    rule_id = _get(result, "ruleId", str, at) or _get(reference, "id", str, f"{at}.rule")
    index = _get_int(reference, "index", f"{at}.rule")
    if index is None:
        index = _get_int(result, "ruleIndex", at)
    rule = None
    if index is not None:
        rules = _component_of(reference, run, at).rules
        rule = rules[index] if index < len(rules) else None
        if rule is None and not rule_id:
            raise _Refused(f"{at}: rule {index} is not among the {len(rules)} rules of its tool component")
    if rule and rule.id and rule_id and rule_id != rule.id and not rule_id.startswith(f"{rule.id}/"):
        rule = None  # the number and the id disagree: the id is what people see
    rule_id = rule_id or (rule.id if rule else None)
    if not rule_id:
        raise _Refused(f"{at}: names no rule")
    return rule_id[:RULE_ID_CHARS], rule or run.find(rule_id)


def _component_of(reference: dict[str, Any], run: _Run, at: str) -> _Component:
    at = f"{at}.rule"
    component = _get_object(reference, "toolComponent", at)
    index = _get_int(component, "index", at)
    if index is not None:
        return run.extensions.get(index) or _Component()
    if name := _get(component, "name", str, at):
        for candidate in (run.driver, *run.extensions.values()):
            if candidate.name == name:
                return candidate
    return run.driver


def _level(result: dict[str, Any], rule: _Rule | None, at: str) -> str:
    if level := _get_word(result, "level", SEVERITY_OF_LEVEL, at):
        return level
    if (_get(result, "kind", str, at) or "fail") != "fail":
        return "none"
    return (rule and rule.level) or "warning"


def _severity(result: dict[str, Any], rule: _Rule | None, level: str, at: str) -> str:
    score = _get_score(result, at)
    if score is None and rule:
        score = rule.score
    if score is not None:
        return _severity_of_score(score)
    word = _get(_get_object(result, "properties", at), "issue_severity", str, at) or ""
    return SEVERITY_OF_WORD.get(word.lower()) or SEVERITY_OF_LEVEL[level]


def _message(result: dict[str, Any], rule: _Rule | None, at: str) -> str:
    message = _get(result, "message", dict, at)
    if message is None:
        raise _Refused(f"{at}: has no message")
    at = f"{at}.message"
    text = _text(message, at)
    if text is None:
        message_id = _get(message, "id", str, at)
        if message_id is None:
            raise _Refused(f"{at}: has no text")
        text = rule.messages.get(message_id) if rule else None
        if text is None:
            raise _Refused(f"{at}: id {_show(message_id)} is not in the messageStrings of its rule")
    arguments = _get(message, "arguments", list, at) or []
    for index, argument in enumerate(arguments):
        if not isinstance(argument, str):
            raise _Refused(f"{at}: arguments[{index}] is not a string but {_show(argument)}")
    return _fill(text, arguments)[:TEXT_CHARS]


def _region(physical: dict[str, Any], at: str) -> tuple[int | None, int | None, int | None, int | None]:
    region = _get_object(physical, "region", at)
    at = f"{at}.region"
    start_line = _get_int(region, "startLine", at)
    end_line = _get_int(region, "endLine", at)
    return (
        start_line,
        _get_int(region, "startColumn", at),
        start_line if end_line is None else end_line,
        _get_int(region, "endColumn", at),
    )


def _fingerprints(result: dict[str, Any], at: str) -> dict[str, str]:
    """What the tool says identifies the result."""
    found: dict[str, str] = {}
    for key in ("partialFingerprints", "fingerprints"):
        given = _get_object(result, key, at)
        for name in given:
            value = _get(given, name, str, f"{at}.{key}")
            if value and value != NOT_A_FINGERPRINT:
                found[f"{key}.{name}"] = value
    return found
