"""The console script `opsplane-deploy`: migrate, then run what the release needs."""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated

import typer

from opsplane import __version__, connections, logs, migrate, runtime
from opsplane.cli import context, output
from opsplane.config import Settings
from opsplane.runbooks import deploy
from opsplane.runbooks.deploy import Deployed
from opsplane.runbooks.locks import ScopeLocked
from opsplane.runbooks.preflights import PreflightTooSlow
from opsplane.runs import processes

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help="Migrate, then run every runbook marked for deploy over all tenants; safe in N pods at once.")
def main(
    migrate_: Annotated[bool, typer.Option("--migrate/--no-migrate", help="Bring the schema up to date.")] = True,
    release: Annotated[str, typer.Option(help="One run per release and runbook.")] = __version__,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="End with the runs' result.")] = True,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait.")] = None,
    runbook: Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")] = None,
    json_: output.AsJson = False,
) -> None:
    """Translate arguments, print results, leave with an exit code."""
    ends = None if timeout is None else time.monotonic() + timeout
    with context.errors(), runtime.servers(context.load()) as settings:
        logs.configure(settings)
        done = asyncio.run(_deploy(settings, migrate_, release, wait, ends, runbook or [], quiet=json_))
    if json_:
        output.as_json([_in_json(result) for result in done])
    raise typer.Exit(_exit_code(done, wait=wait))


async def _deploy(
    settings: Settings, migrate_: bool, release: str, wait: bool, ends: float | None, keys: list[str], *, quiet: bool
) -> list[Deployed]:
    say: Callable[[str], object] = str if quiet else typer.echo
    done = []
    limit_s = connections.STATEMENT_S
    async with runtime.opened(settings, application="opsplane-deploy", statement_timeout_s=limit_s) as plane:
        chosen = deploy.chosen(keys)  # a misspelt key stops the deploy before anything is changed
        if migrate_:
            say("migrate: done" if await migrate.upgrade(settings) else "migrate: up to date")
        await runtime.require_schema(plane)
        async with plane.db.reading() as session:
            if wait and chosen and not await processes.live_workers(session):
                output.note("No worker is alive yet; runs wait for the first one.")
        for runbook in chosen:
            result = await deploy.attempt(plane, runbook, release=release, wait=wait, ends=ends)
            say(f"{runbook.key}: {_in_words(result)}")
            if result.ended_well is False:
                output.note(
                    f"Release {release} has had its one run of it; start one by hand (opsplane runbooks start), "
                    "or name another release (--release)."
                )
            done.append(result)
    return done


def _in_words(result: Deployed) -> str:
    run = result.run
    if result.refusal is not None:
        return f"not started: {result.refusal.message}"
    if run is None:
        return "nothing to do"
    updated = f"{run.context.updated_count:,} rows updated at {run.created_at:%Y-%m-%d %H:%M:%S} UTC"
    return f"{run.status}, {run.outcome}, {updated}, {run.view_url}"


def _in_json(result: Deployed) -> dict[str, object]:
    refusal = result.refusal
    return {
        "runbook": result.runbook,
        "run": result.run and result.run.model_dump(mode="json"),
        "refusal": refusal and {"code": refusal.code, "message": refusal.message},
    }


def _exit_code(done: list[Deployed], *, wait: bool) -> int:
    """The worst there is: failed (a preflight that cannot be counted included), refused, still going on."""
    codes = {_code(result, wait=wait) for result in done}
    worst = (context.FAILED, context.REFUSED, context.TIMED_OUT) if wait else (context.FAILED, context.REFUSED)
    return next((code for code in worst if code in codes), 0)


def _code(result: Deployed, *, wait: bool) -> int:
    if isinstance(result.refusal, ScopeLocked) and wait:
        return context.TIMED_OUT  # the other run goes on; the next try of this deploy waits for it again
    if result.refusal is not None:
        return context.FAILED if isinstance(result.refusal, PreflightTooSlow) else context.REFUSED
    return {True: 0, False: context.FAILED, None: context.TIMED_OUT}[result.ended_well]


def run() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    run()
