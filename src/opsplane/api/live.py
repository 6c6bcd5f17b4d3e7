"""What a page shows of a run while it goes on."""

import uuid

from fastapi import APIRouter

from opsplane.api import problems
from opsplane.api.deps import ThePlane
from opsplane.api.rights import CanViewRuns
from opsplane.auth.tokens import InvalidToken
from opsplane.errors import MissingCapability, NotFound, ServiceUnavailable
from opsplane.runs import figures
from opsplane.runs.figures import FiguresOut

ALWAYS = (InvalidToken, MissingCapability, ServiceUnavailable)

live = APIRouter(prefix="/ops/runs/{run_id}")


@live.get("/figures", responses=problems.responses(*ALWAYS, NotFound))
async def show_figures(run_id: uuid.UUID, who: CanViewRuns, plane: ThePlane) -> FiguresOut:
    """The run as a grid of tenants and a line of its speed."""
    async with plane.db.reading() as session:
        return await figures.show(session, run_id)
