"""Celery: `celery -A bench.crew.by_celery worker`, and as a program the one who starts runs."""

import asyncio

from celery import Celery, group

from bench.crew import starter, work

app = Celery("bench", broker=work.queue().replace("unix://", "redis+socket://").split("?")[0])
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True


@app.task(name="repair")  # type: ignore[untyped-decorator]
def repair(run: int, tenant: str) -> None:
    """One tenant."""
    work.repair_now(run, tenant)


async def _enqueue(run: int, tenants: list[str]) -> None:
    group([repair.s(run, tenant) for tenant in tenants]).apply_async()


if __name__ == "__main__":
    asyncio.run(starter.start_all(_enqueue))
