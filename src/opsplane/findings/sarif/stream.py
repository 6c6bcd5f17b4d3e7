"""The items of a SARIF file, one after the other, or the position where it stops being JSON."""

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson

from opsplane.findings.sarif.source import Source
from opsplane.findings.sarif.values import Refused
from opsplane.findings.sarif.walker import Item, Shape, Walker

TOKEN_BYTES = 8 * 2**20  # one string or number

_PARSE_ERRORS = (ijson.JSONError, ValueError, ArithmeticError)


def stream(path: Path, shape: Shape) -> Iterator[Item]:
    """The items of this shape, in the order of the file."""
    _check_regular(path)
    with path.open("rb") as file:
        yield from _walk(Source(file), Walker(shape))


def members(path: Path, shape: Shape) -> Iterator[Item]:
    """The items of a shape that `members_of_runs` made, without the runs."""
    return (item for item in stream(path, shape) if len(item.place) > 2)


def _check_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except ValueError:
        raise Refused("is not the name of a file") from None
    if not stat.S_ISREG(mode):
        raise Refused("is a folder" if stat.S_ISDIR(mode) else "is not a regular file")


def _walk(source: Source, walker: Walker) -> Iterator[Item]:
    events, parser = _parser()
    idle = 0
    for data in source:
        try:
            parser.send(data)
        except _PARSE_ERRORS as error:
            raise _syntax_error(source, error) from None
        idle = 0 if events else idle + len(data)
        if idle > TOKEN_BYTES:
            raise Refused(f"{source.position(source.offset)}: no value ends within {TOKEN_BYTES} bytes")
        yield from walker.feed(events)
        events.clear()
    if not source.offset:
        raise Refused("is empty")
    try:
        parser.close()
    except _PARSE_ERRORS:
        inside = f" inside {walker.where()}" if walker.where() else ""
        raise Refused(f"truncated: the file ends at byte {source.offset}{inside}") from None
    yield from walker.feed(events)


def _parser() -> tuple[list[tuple[str, Any]], Any]:
    """A list of events, and the coroutine that takes bytes and fills it.

    Not with `use_float`: it refuses integers of over 64 bits, which some tools write in properties that nobody reads.
    """
    events: list[tuple[str, Any]] = ijson.sendable_list()
    return events, ijson.basic_parse_coro(events)


def _syntax_error(source: Source, error: Exception) -> Refused:
    """Where the parser gives up: the C parser does not tell, so feed the chunk again, in ever smaller pieces."""
    good = source.offset
    for size in (256, 1):
        good, error = _replay(source, good, size) or (good, error)
    found = re.match(r"(?:b['\"])?(?:lexical|parse) error: ([^\n\\]*)", str(error))
    reason = found[1].strip().rstrip(".") if found else "a number is out of range"
    return Refused(f"{source.position(good)}: not JSON: {reason}")


def _replay(source: Source, good: int, size: int) -> tuple[int, Exception] | None:
    """Offset of the first piece of this size, from offset `good` on, that the parser refuses."""
    events, parser = _parser()
    for data in source:
        for at, piece in _pieces(data, good - source.offset, size):
            try:
                parser.send(piece)
            except _PARSE_ERRORS as error:
                return source.offset + at, error
            events.clear()
    return None


def _pieces(data: bytes, whole: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The first bytes as a whole and the others in pieces of this size, each with its offset."""
    whole = max(0, min(len(data), whole))
    if whole:
        yield 0, data[:whole]
    for at in range(whole, len(data), size):
        yield at, data[at : at + size]
