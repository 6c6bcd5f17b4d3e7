"""Prefect: a flow that maps a task over the tenants on two threads, against a Prefect server on this machine."""

import asyncio

from prefect import flow, task
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner

from bench.crew import starter, work


@task(log_prints=False)  # type: ignore[untyped-decorator]
def repair(run: int, tenant: str) -> None:
    """One tenant."""
    work.repair_now(run, tenant)


@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[untyped-decorator]
def backfill(run: int, tenants: list[str]) -> None:
    """All of them."""
    wait([repair.submit(run, tenant) for tenant in tenants])


async def _enqueue(run: int, tenants: list[str]) -> None:
    await asyncio.to_thread(backfill, run, tenants)


if __name__ == "__main__":
    asyncio.run(starter.start_all(_enqueue))
