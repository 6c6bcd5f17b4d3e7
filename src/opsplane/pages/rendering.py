"""Templates, and the words and numbers in them."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from pydantic_core import to_jsonable_python

from opsplane import data
from opsplane.pages import assets, badges
from opsplane.runs import words


def page(template: str, status: int = HTTPStatus.OK, **context: Any) -> HTMLResponse:
    """A page; `template` is its file below `templates`."""
    return HTMLResponse(_environment().get_template(template).render(**context), status_code=status)


def iso(at: datetime) -> str:
    """The time as machines read it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def as_json(value: Any) -> str:
    """What a page's script reads from an attribute."""
    return json.dumps(to_jsonable_python(value))


def query(given: Mapping[str, Any], **changed: Any) -> str:
    """The query of a link: what is given, with some of it changed, and without what is None."""
    kept = {name: value for name, value in {**given, **changed}.items() if value is not None}
    return f"?{urlencode(kept)}" if kept else "?"


@cache
def _environment() -> Environment:
    """The templates; made when the first page is, for drawing the icons takes longer than most commands."""
    environment = Environment(
        loader=FileSystemLoader(data.ROOT / "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=words.number, duration=words.duration, moment=words.moment, iso=iso, json=as_json)
    environment.globals.update(
        asset=assets.url, icons=assets.url(assets.SPRITE), badge_of=badges.find, badges=badges.CATALOGUE,
        query_of=query,
    )  # fmt: skip
    return environment
