"""Values of a SARIF file: taken out of their object, checked, and shown in refusals."""

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, TypeVar

TEXT_CHARS = 4000

Place = tuple[str | int, ...]
"""Where a value is in the document, e.g. `("runs", 0, "results", 57)`."""

T = TypeVar("T")

_KIND_NAMES: dict[type, str] = {str: "a string", dict: "an object", list: "an array"}


class Refused(Exception):
    """Why the file is refused, without its name."""


def get(holder: dict[str, Any], key: str, kind: type[T], at: str) -> T | None:
    """The property, if it is there and not null."""
    value = holder.get(key)
    if value is None or isinstance(value, kind):
        return value
    raise Refused(f"{at}: {_name(key)} is not {_KIND_NAMES[kind]} but {show(value)}")


def get_object(holder: dict[str, Any], key: str, at: str) -> dict[str, Any]:
    """The object, empty if it is not there."""
    return get(holder, key, dict, at) or {}


def get_objects(holder: dict[str, Any], key: str, at: str) -> list[dict[str, Any]]:
    """The array of objects, empty if it is not there."""
    items = get(holder, key, list, at) or []
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise Refused(f"{at}: {key}[{index}] is not an object but {show(item)}")
    return items


def get_strings(holder: dict[str, Any], key: str, at: str) -> list[str]:
    """The array of strings, empty if it is not there."""
    items = get(holder, key, list, at) or []
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise Refused(f"{at}: {key}[{index}] is not a string but {show(item)}")
    return items


def get_int(holder: dict[str, Any], key: str, at: str) -> int | None:
    """The whole number, which may be written as `7.0`."""
    value = holder.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not -1 <= value < 2**31 or value % 1:
        raise Refused(f"{at}: {key} is not a whole number from 0 to {2**31 - 1} but {show(value)}")
    return int(value) if value >= 0 else None  # -1 is how SARIF says "none"


def get_word(holder: dict[str, Any], key: str, words: Iterable[str], at: str) -> str | None:
    """The string, which must be one of these words."""
    word = get(holder, key, str, at)
    if word is not None and word not in words:
        raise Refused(f"{at}: {key} is {show(word)}, not one of {', '.join(words)}")
    return word


def expect_object(value: Any, at: str) -> dict[str, Any]:
    """The value itself, if it is an object."""
    if not isinstance(value, dict):
        raise Refused(f"{at}: is not an object but {show(value)}")
    return value


def clean(text: str) -> str:
    """The text as Postgres can store it, cut to the longest that is of use."""
    return text[:TEXT_CHARS].replace("\0", "\ufffd")


def dotted(place: Place) -> str:
    """The place for an error message, e.g. `runs[0].results[57]`."""
    return "".join([f"[{key}]" if isinstance(key, int) else f".{_name(key)}" for key in place]).lstrip(".")


def show(value: Any) -> str:
    """A value of the file for an error message: one short line."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    shown = ascii(value) if isinstance(value, str) else json.dumps(value, default=str)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _name(key: str) -> str:
    """A property for an error message: it may be the file's own, and no word."""
    return key if key.isidentifier() else show(key)[1:-1]
