"""The parts of a JSON document that a shape names, built from the parser's events as they pass."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from opsplane.findings.sarif.values import Place, Refused, clean, dotted, show

ITEM_CHARS = 8 * 2**20  # what is kept of one result or rule
MAX_DEPTH = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """The part of a JSON value that is kept; a value that is neither `{}` nor `[]` is kept whole, if its shape is."""

    kind: type[dict[str, Any]] | type[list[Any]] | None = None
    fields: dict[str, "Shape"] = field(default_factory=dict)
    rest: "Shape | None" = None
    """Shape of every item of an array, and of every property of an object that `fields` does not name."""
    is_item: bool = False
    """Handed out by itself when it ends, and not kept in its parent."""


VALUE = Shape()


def object_of(fields: dict[str, Shape] | None = None, *, rest: Shape | None = None, is_item: bool = False) -> Shape:
    """The shape of an object with these properties."""
    return Shape(dict, fields or {}, rest, is_item)


def array_of(item: Shape | None) -> Shape:
    """The shape of an array; without a shape of its items they are not kept."""
    return Shape(list, {}, item)


def scalars(*names: str) -> dict[str, Shape]:
    """Properties that are kept whole."""
    return dict.fromkeys(names, VALUE)


def members_of_runs(name: str, member: Shape) -> Shape:
    """The members of this array of every run, each an item by itself."""
    return object_of({"runs": array_of(object_of({name: array_of(member)}, is_item=True))})


class Item(NamedTuple):
    """A part of the document that is handed out, and how many characters of it are kept."""

    place: Place
    value: Any
    chars: int


class _Frame:
    """An object or array that is being built."""

    __slots__ = ("key", "shape", "value", "want")

    def __init__(self, shape: Shape, value: dict[Any, Any] | list[Any]) -> None:
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


class Walker:
    """Builds the wanted parts of a document from ijson's events."""

    def __init__(self, shape: Shape) -> None:
        self._root = shape
        self._frames: list[_Frame] = []
        self._skipping = 0
        self._chars = 0

    def feed(self, events: Iterable[tuple[str, Any]]) -> Iterator[Item]:
        """The items that end in these events."""
        skipping = self._skipping
        for event, value in events:
            if skipping:
                skipping += _NESTING[event]
                if skipping > MAX_DEPTH:
                    raise Refused(f"{self.where() or 'top level'}: is nested deeper than {MAX_DEPTH} levels")
            elif event == "map_key":
                frame = self._frames[-1]
                frame.key = value
                frame.want = frame.shape.fields.get(value, frame.shape.rest)
            elif _NESTING[event] < 0:
                frame = self._frames.pop()
                if frame.shape.is_item:
                    yield self._item(frame.value)
            else:
                skipping, item = self._begin(event, value)
                if item:
                    yield item
        self._skipping = skipping

    def where(self) -> str:
        """The innermost array item that is not finished, e.g. `runs[0].results[57]`."""
        path = [key for key in _place(self._frames) if key != -1]
        while path and not isinstance(path[-1], int):
            path.pop()
        return dotted(tuple(path))

    def _begin(self, event: str, value: Any) -> tuple[int, Item | None]:
        """Take the next value, or begin to build it: how deep the skipping is, and the item if it is one."""
        step = _NESTING[event]
        frame = self._frames[-1] if self._frames else None
        if frame and isinstance(frame.key, int):
            frame.key += 1
        want = frame.want if frame else self._root
        if want is None:
            return step, None
        value = clean(value) if event == "string" else _EMPTY[event]() if step else value
        if frame and not want.is_item:
            self._keep(frame, value)
        if step and want.kind is type(value):
            self._frames.append(_Frame(want, value))
            return 0, None
        return step, self._item(value) if want.is_item else None

    def _keep(self, frame: _Frame, value: Any) -> None:
        self._chars += 100 + (len(value) if isinstance(value, str) else 0)
        if self._chars > ITEM_CHARS:
            raise Refused(f"{self.where() or 'the document'}: is larger than {ITEM_CHARS} characters")
        key, holder = frame.key, frame.value
        if isinstance(holder, list):
            holder.append(value)
            return
        if key in holder:
            raise Refused(f"{dotted(_place(self._frames[:-1])) or 'top level'}: has {show(key)} twice")
        if frame.shape.rest:  # the name is the file's own
            key = clean(str(key))
            self._chars += len(key)
        holder[key] = value

    def _item(self, value: Any) -> Item:
        chars, self._chars = self._chars, 0
        return Item(_place(self._frames), value, chars)


def _place(frames: list[_Frame]) -> Place:
    return tuple(frame.key for frame in frames if frame.key is not None)
