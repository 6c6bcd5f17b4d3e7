"""What every command runs in: settings, servers, a plane, and one line for whatever goes wrong."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

import structlog
import typer

from opsplane import config, logs, migrate, runtime
from opsplane.audit import replay
from opsplane.auth import users
from opsplane.auth.actors import Actor
from opsplane.config import Settings
from opsplane.db import first_line
from opsplane.errors import ConfigurationError, InvalidInput, NotFound, OpsplaneError, ServiceUnavailable
from opsplane.runbooks.service import Plane

log = structlog.get_logger()

FAILED, USAGE, REFUSED, UNREACHABLE, TIMED_OUT, DEFECT, INTERRUPTED = 1, 2, 3, 4, 5, 70, 130

AsUser = Annotated[str | None, typer.Option("--as", metavar="EMAIL", help="Act as this platform user.")]
T = TypeVar("T")


def run(act: Callable[[Plane], Awaitable[T]]) -> T:
    """Run an act on a migrated plane; leaves with an exit code if it is refused or fails."""
    with errors():
        configured = load()
        if not configured.database_url and not configured.home.exists():
            typer.echo(f"There is no opsplane in {configured.home.resolve()}; making a new, empty one.", err=True)
        return _with_servers(configured, act)


def _with_servers(configured: Settings, act: Callable[[Plane], Awaitable[T]]) -> T:
    with runtime.servers(configured) as settings:
        return asyncio.run(_opened(settings, act))


async def actor(plane: Plane, email: str | None) -> Actor:
    """Who acts: the platform user named, else whoever is at the shell."""
    if email is None:
        return Actor.shell(runtime.os_user())
    async with plane.db.reading() as session:
        return await users.act_as(session, email)


def load() -> Settings:
    """The settings; log lines only from errors up unless asked for, so that they do not drown the answer."""
    settings = config.load()
    if "OPSPLANE_LOG_LEVEL" not in os.environ:
        settings = settings.model_copy(update={"log_level": "ERROR"})
    return settings


@contextmanager
def errors() -> Iterator[None]:
    """Turn every exception into one line on stderr and an exit code."""
    try:
        yield
    except OpsplaneError as error:
        cause = f" ({first_line(error.__cause__)})" if isinstance(error, ServiceUnavailable) and error.__cause__ else ""
        fail(error.message + cause, exit_code(error))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except typer.Abort:
        fail("aborted; nothing was done", INTERRUPTED)
    except typer.Exit:
        raise
    except Exception as error:
        log.exception("unexpected_error")
        fail(f"unexpected {type(error).__name__}; the log has the details", DEFECT)


@contextmanager
def prompting() -> Iterator[None]:
    """Let Ctrl-C end a prompt at once; under asyncio the first one would only be heeded after an answer."""
    theirs = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, theirs)


def exit_code(error: OpsplaneError) -> int:
    """The exit code of a refusal."""
    if isinstance(error, ServiceUnavailable):
        return UNREACHABLE
    return USAGE if isinstance(error, ConfigurationError | InvalidInput | NotFound) else REFUSED


def fail(message: str, code: int) -> None:
    """Say one line and leave."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


async def _opened(settings: Settings, act: Callable[[Plane], Awaitable[T]]) -> T:
    logs.configure(settings)
    if config.load().database_url is None:
        await migrate.upgrade(settings)  # nobody else looks after an embedded server
    async with runtime.opened(settings, application="opsplane-cli") as plane:
        await runtime.require_schema(plane)
        await replay.attempt(plane.db, plane.settings)  # no sweeper may ever run on this host
        return await act(plane)
