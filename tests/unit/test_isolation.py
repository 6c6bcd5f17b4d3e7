"""A tenant whose worker died is tried again when no other chunk of the process is under way."""

import asyncio

import pytest

from opsplane.runs.isolation import Isolation


async def test_ordinary_chunks_run_side_by_side() -> None:
    isolation, both = Isolation(), asyncio.Barrier(2)

    async def chunk() -> None:
        async with isolation.chunk(alone=False):
            await both.wait()

    async with asyncio.timeout(2):
        await asyncio.gather(chunk(), chunk())


async def test_a_suspect_waits_for_the_others_and_they_wait_for_it() -> None:
    isolation, events = Isolation(), list[str]()

    async def chunk(name: str, *, alone: bool) -> None:
        async with isolation.chunk(alone=alone):
            events.append(f"{name} in")
            await asyncio.sleep(0.02)
            events.append(f"{name} out")

    async with asyncio.timeout(2), asyncio.TaskGroup() as tasks:
        for name, alone in (("a", False), ("suspect", True), ("b", False), ("another suspect", True), ("c", False)):
            tasks.create_task(chunk(name, alone=alone))
    for suspect in ("suspect", "another suspect"):
        place = events.index(f"{suspect} in")
        assert events[place + 1] == f"{suspect} out"
        assert sum(event.endswith("in") for event in events[:place]) == sum(
            event.endswith("out") for event in events[:place]
        )
    assert len(events) == 10


async def test_a_chunk_that_fails_lets_the_next_one_in() -> None:
    isolation = Isolation()
    for alone in (False, True, False, True):
        with pytest.raises(ValueError, match="broken"):
            async with isolation.chunk(alone=alone):
                raise ValueError("broken")
    async with asyncio.timeout(1), isolation.chunk(alone=True):
        pass
