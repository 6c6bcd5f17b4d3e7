"""TaskIQ: `taskiq worker bench.crew.by_taskiq:broker`, and as a program the one who starts runs."""

import asyncio

from taskiq_redis import ListQueueBroker

from bench.crew import starter, work

broker = ListQueueBroker(url=work.queue())


@broker.task(task_name="repair")  # type: ignore[untyped-decorator]
async def repair(run: int, tenant: str) -> None:
    """One tenant."""
    await work.repair(run, tenant)


async def _enqueue(run: int, tenants: list[str]) -> None:
    for tenant in tenants:
        await repair.kiq(run, tenant)


async def _main() -> None:
    await broker.startup()
    await starter.start_all(_enqueue)


if __name__ == "__main__":
    asyncio.run(_main())
