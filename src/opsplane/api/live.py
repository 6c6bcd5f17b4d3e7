"""What a page shows of a run while it goes on: its figures, and a stream of every change."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Send

from opsplane.access.operators import Operator
from opsplane.alerts import notifications
from opsplane.api import problems, rights
from opsplane.api.deps import ThePlane
from opsplane.api.hub import Hub, TooManyStreams
from opsplane.api.rights import CanViewRuns
from opsplane.api.watched import Slot
from opsplane.auth.tokens import InvalidToken
from opsplane.errors import MissingCapability, NotFound, OpsplaneError, ServiceUnavailable
from opsplane.runbooks.service import Plane
from opsplane.runs import figures
from opsplane.runs.figures import FiguresOut

ALWAYS = (InvalidToken, MissingCapability, ServiceUnavailable)

SEND_S = 20.0  # two ticks

live = APIRouter(prefix="/ops/runs/{run_id}")


class EventStream(StreamingResponse):
    """Server-sent events; FastAPI's own response would take each of them through two queues and three tasks."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        """Send event after event; whoever takes none of it for a while is let go, and comes back by itself."""

        async def bounded(message: Message) -> None:
            async with asyncio.timeout(SEND_S):
                await send(message)

        with contextlib.suppress(TimeoutError):
            await super().stream_response(bounded)


async def the_hub(request: Request) -> Hub:
    """Hand over what the lifespan opened for every stream of this process."""
    found: Hub = request.state.hub
    return found


TheHub = Annotated[Hub, Depends(the_hub)]


async def watching(run_id: uuid.UUID, hub: TheHub) -> AsyncIterator[Slot]:
    """Watch the run for as long as the response takes; what is refused is refused before it begins."""
    async with hub.watch(run_id) as slot:
        yield slot


Watching = Annotated[Slot, Depends(watching)]


@live.get("/figures", responses=problems.responses(*ALWAYS, NotFound))
async def show_figures(run_id: uuid.UUID, who: CanViewRuns, plane: ThePlane) -> FiguresOut:
    """The run as a grid of tenants and a line of its speed."""
    async with plane.db.reading() as session:
        return await figures.show(session, run_id)


@live.get(
    "/events",
    response_class=EventStream,
    responses=problems.responses(*ALWAYS, NotFound, TooManyStreams),
)
async def follow_run(
    run_id: uuid.UUID, who: CanViewRuns, plane: ThePlane, slot: Watching, hub: TheHub, request: Request
) -> EventStream:
    """The run as it goes, in server-sent events.

    `run` and `figures` come at once and after every change, as `GET` shows them; `tick` comes every ten
    seconds, and tells a person how many notifications are `unread`; `end` says why nothing more will come,
    and then there is no use in connecting again.
    """

    async def look_again() -> dict[str, int] | None:
        return await _look_again(request, plane)

    return EventStream(hub.events(slot, look_again), headers={"X-Accel-Buffering": "no"})


async def _look_again(request: Request, plane: Plane) -> dict[str, int] | None:
    """What a tick tells; None once the request's credential or right is gone. Without a database nothing is shown."""
    try:
        request.state.operator = await request.state.look_again()
        if request.state.operator is None:
            return None
        return await _unread(rights.VIEW_RUNS.operator(request), plane)
    except ServiceUnavailable:
        return {}
    except OpsplaneError:
        return None


async def _unread(operator: Operator, plane: Plane) -> dict[str, int]:
    if operator.session is None:
        return {}
    async with plane.db.reading() as session:
        return {"unread": await notifications.unread(session, operator.session.user_id)}
