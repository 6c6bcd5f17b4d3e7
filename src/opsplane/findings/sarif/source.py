"""The bytes of a SARIF file, in chunks that are safe to parse, and where in them something is."""

import codecs
import re
import sys
from collections.abc import Iterator
from typing import BinaryIO

from opsplane.findings.sarif.values import Refused

CHUNK_BYTES = 64 * 1024
MAX_DIGITS = min(2000, (sys.get_int_max_str_digits() or 4300) // 2 - 1)

_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{4}|[^u])", re.DOTALL)
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]")
_SURROGATES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_CONTINUATION = bytes(range(0x80, 0xC0))


class Source:
    """A file in chunks that are safe to parse: UTF-8, no lone surrogates, no number that is too long.

    No chunk ends inside an escape sequence or between two surrogates, and each is as long as it is in the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.offset = 0
        """Of the chunk that was handed out last; of the end of the file after all of them."""

    def __iter__(self) -> Iterator[bytes]:
        self.offset = self._start()
        self._file.seek(self.offset)
        decoder = codecs.getincrementaldecoder("utf-8")()
        held = b""
        while data := self._file.read(CHUNK_BYTES):
            self._check_utf8(decoder, data, self.offset + len(held))
            data = held + data
            cut = safe_length(data)
            data, held = data[:cut], data[cut:]
            if data:
                self._check_digits(data)
                yield _without_lone_surrogates(data)
                self.offset += cut
        if held:
            yield _without_lone_surrogates(held)
            self.offset += len(held)

    def _start(self) -> int:
        """Offset of the first byte after the byte order mark."""
        self._file.seek(0)
        head = self._file.read(4)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head:
            raise Refused("not UTF-8: it looks like UTF-16 or UTF-32")
        return len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0

    def _check_utf8(self, decoder: codecs.IncrementalDecoder, data: bytes, offset: int) -> None:
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(data)
        except UnicodeDecodeError as error:
            at = offset - pending + error.start
            raise Refused(f"{self.position(at)}: not UTF-8: {error.reason}") from None

    def _check_digits(self, data: bytes) -> None:
        """The parser dies, with the whole process, of an integer that Python refuses to convert (4,300 digits)."""
        for start in (*range(0, len(data), MAX_DIGITS), max(0, len(data) - MAX_DIGITS)):
            window = data[start : start + MAX_DIGITS]
            if len(window) == MAX_DIGITS and window.isdigit():
                first = self.offset + len(data[:start].rstrip(b"0123456789"))
                raise Refused(f"{self.position(first)}: more than {MAX_DIGITS} digits in a row")

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


def safe_length(data: bytes) -> int:
    """How many of these bytes end outside an escape sequence, and not after the first of two surrogates."""
    if data.rfind(b"\\", max(0, len(data) - 12)) < 0:
        return len(data)
    end, high = data.find(b"\\"), -1
    for escape in _ESCAPE.finditer(data, end):
        end = escape.end()
        high = escape.start() if _HIGH_SURROGATE.match(escape.group()) else -1
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
