"""A watched run and its watchers: what each of them has not sent yet, which is never more than the newest."""

import asyncio
import contextlib
import uuid
from dataclasses import dataclass, field

from fastapi.sse import format_sse_event


class Slot:
    """What one watcher has not sent yet: of each kind of event the newest, so that being slow builds no queue."""

    def __init__(self) -> None:
        self._events: dict[str, bytes] = {}
        self._woken = asyncio.Event()
        self.over = False

    def put(self, name: str, event: bytes) -> None:
        """Leave an event in place of an older one of its kind."""
        self._events[name] = event
        self._woken.set()

    def take(self) -> bytes:
        """What is new since the last time."""
        self._woken.clear()
        events, self._events = self._events, {}
        return b"".join(events.values())

    def wake(self) -> None:
        """Let the watcher look around, though there may be nothing."""
        self._woken.set()

    async def wait(self, seconds: float) -> None:
        """Sleep until there is something, at most so long."""
        await wait(self._woken, seconds)


@dataclass(eq=False)
class Watched:
    """A run that somebody watches: who, and what they were shown last."""

    run_id: uuid.UUID
    slots: set[Slot] = field(default_factory=set)
    newest: dict[str, bytes] = field(default_factory=dict)
    hinted: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    read: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: Exception | None = None
    figures_due_at: float | None = 0  # None while the newest ones are up to date
    figures_not_before: float = 0
    over: bool = False

    def publish(self, name: str, document: str) -> bool:
        """Hand a new state to everybody; False if they have it."""
        event = format_sse_event(event=name, data_str=document)
        if self.newest.get(name) == event:
            return False
        self.newest[name] = event
        for slot in self.slots:
            slot.put(name, event)
        return True

    def join(self, slot: Slot) -> None:
        """Begin to watch with what the others have."""
        self.slots.add(slot)
        self.left.clear()
        for name, event in self.newest.items():
            slot.put(name, event)
        self.hinted.set()  # it may be older than the request

    def leave(self, slot: Slot) -> None:
        """Watch no more."""
        self.slots.discard(slot)
        if not self.slots:
            self.left.set()
            self.hinted.set()

    def end(self) -> None:
        """Tell everybody that nothing will follow."""
        self.over = True
        for slot in self.slots:
            slot.over = True
            slot.wake()


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Sleep until it is set, at most so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(seconds, 0)):
            await event.wait()
