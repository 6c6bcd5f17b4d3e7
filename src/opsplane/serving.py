"""Run the API and the workers as processes that end well."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from prometheus_client import disable_created_metrics, start_http_server
from uvicorn.loops.auto import auto_loop_factory

from opsplane import app, fleet, migrate, runtime
from opsplane.audit import metrics as audit_metrics
from opsplane.config import Settings
from opsplane.errors import ConfigurationError
from opsplane.runs import metrics as run_metrics
from opsplane.workers import supervisor

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, which nobody looks at
REQUESTS_GRACE_S = 5  # a stream whose reader sleeps takes no notice of the end
# Compared, not listened on.
HERE = ("127.0.0.1", "::1", "0.0.0.0", "::")  # noqa: S104 # nosec


def run_worker(settings: Settings, *, with_parent: bool = False) -> None:
    """A worker process on the quickest event loop there is; see `work`."""
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(work(settings, with_parent=with_parent))


async def work(settings: Settings, *, with_parent: bool = False) -> None:
    """A worker process until SIGTERM or, with `with_parent`, until standard input closes."""
    timeout_s = settings.chunk_timeout_s
    async with runtime.opened(settings, application="opsplane-worker", statement_timeout_s=timeout_s) as plane:
        await runtime.require_schema(plane)
        audit_metrics.watch(settings)
        run_metrics.begin()
        stop = supervisor.stop_on_signals()
        if with_parent:
            supervisor.stop_with_parent(stop)
        runtime.freeze()
        await supervisor.work(plane, stop)


@contextmanager
def exposed(host: str, port: int | None) -> Iterator[None]:
    """Show this process's numbers to whoever asks there, from a thread of its own; nowhere without a port.

    Raises:
        ConfigurationError: the port is taken.
    """
    if port is None:
        yield
        return
    try:
        server, thread = start_http_server(port, host)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {host}:{port} ({error.strerror}); pick another with --metrics-port."
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def serve(settings: Settings, *, host: str, port: int) -> None:
    """The API process until SIGTERM.

    Raises:
        ConfigurationError: the port is taken.
    """
    refuse_taken(host, port)
    settings = linked(settings, host, port)
    config = uvicorn.Config(
        app.build(settings), host=host, port=port, log_config=None, access_log=False, server_header=False,
        proxy_headers=False,  # the application does it, by OPSPLANE_TRUSTED_PROXIES
        timeout_graceful_shutdown=REQUESTS_GRACE_S,
    )  # fmt: skip
    runtime.freeze()
    uvicorn.Server(config).run()


def linked(settings: Settings, host: str, port: int) -> Settings:
    """The settings with links that lead to this host and port, unless `OPSPLANE_BASE_URL` says where they lead."""
    if "base_url" in settings.model_fields_set:
        return settings
    name = "localhost" if host in HERE else f"[{host}]" if ":" in host else host
    return settings.model_copy(update={"base_url": f"http://{name}:{port}"})


def up(settings: Settings, *, host: str, port: int, workers: int) -> None:
    """API and workers in one process tree; `settings` must name both servers."""
    settings = linked(settings, host, port)
    asyncio.run(migrate.upgrade(settings))
    with fleet.of_workers(settings, workers):
        serve(settings, host=host, port=port)


def refuse_taken(host: str, port: int) -> None:
    """Find out now whether somebody listens there.

    Raises:
        ConfigurationError: somebody does.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"Cannot listen on {host}:{port} ({error.strerror}); pick another with --port."
            ) from None
