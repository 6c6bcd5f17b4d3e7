"""Templates, and the words and numbers in them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from opsplane import data
from opsplane.pages import assets, badges

ENVIRONMENT = Environment(
    loader=FileSystemLoader(data.ROOT / "templates"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(template: str, status: int = HTTPStatus.OK, **context: Any) -> HTMLResponse:
    """A page; `template` is its file below `templates`."""
    return HTMLResponse(ENVIRONMENT.get_template(template).render(**context), status_code=status)


def number(value: float | None) -> str:
    """12,345, or a dash for what is not known."""
    return "–" if value is None else f"{value:,.0f}"


def duration(milliseconds: float | None) -> str:
    """The same words as the scripts': 0.4 s, 12 s, 3 min 5 s, 2 h 10 min."""
    if milliseconds is None:
        return "–"
    seconds = milliseconds / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def moment(at: datetime) -> str:
    """An absolute time in UTC; a script turns it to the reader's own zone, and adds how long ago it was."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(at: datetime) -> str:
    """The time as machines read it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def query(given: Mapping[str, Any], **changed: Any) -> str:
    """The query of a link: what is given, with some of it changed, and without what is None."""
    kept = {name: value for name, value in {**given, **changed}.items() if value is not None}
    return f"?{urlencode(kept)}" if kept else "?"


ENVIRONMENT.filters.update(number=number, duration=duration, moment=moment, iso=iso)
ENVIRONMENT.globals.update(
    asset=assets.url, icons=assets.url(assets.SPRITE), badge_of=badges.find, badges=badges.CATALOGUE, query=query
)
