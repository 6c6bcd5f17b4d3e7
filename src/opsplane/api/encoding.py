"""Answers that are put together as plain documents: encoded at once, as pydantic would have encoded their models."""

import uuid
from typing import Any

import orjson
from starlette.responses import Response


class Encoded(Response):
    """A document as JSON; who makes it vouches that it is what the route's model says."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode, with times in UTC as pydantic writes them."""
        return orjson.dumps(content, default=_plain, option=orjson.OPT_UTC_Z)


def _plain(value: object) -> str:
    if isinstance(value, uuid.UUID):  # of the driver's own kind
        return str(value)
    raise TypeError
