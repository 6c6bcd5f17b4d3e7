"""The application over HTTP."""

from collections.abc import AsyncIterator

import pytest

from opsplane.runbooks.service import Plane
from tests import web
from tests.web import Doors


@pytest.fixture
async def doors(plane: Plane) -> AsyncIterator[Doors]:
    """The whole application over empty tables."""
    async with web.doors(plane) as found:
        yield found
