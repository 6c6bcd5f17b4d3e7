"""Static files under an address that changes with their content, so that browsers may keep them for ever."""

import hashlib
import json
from functools import cache
from typing import Literal
from xml.etree import ElementTree as ET  # nosec B405

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from heroicons.jinja import heroicon_outline

from opsplane import data

FOLDER = data.ROOT / "static"
SPRITE = "icons.svg"
FOREVER = "public, max-age=31536000, immutable"
BRIEFLY = "public, max-age=60"  # another release's pages, while both are being served
# Pages that nobody's looking changes are fetched while the pointer still rests on their link.
FETCHED_AHEAD = {
    "system": ["/system/ops/*", "/system/audit*", "/system/alerts*"],
    "admin": ["/admin/findings*", "/admin/operations*"],
}
Plane = Literal["system", "admin"]
SVG = "http://www.w3.org/2000/svg"
# The mark is drawn for itself, as the browser tab's icon, and again as a symbol, for pages.
MARK = (
    '<g id="mark"><rect width="24" height="24" rx="6" fill="#f59e0b"/>'
    '<path d="M6.5 8.5 10 12l-3.5 3.5M12.5 15.5h5" fill="none" stroke="#18181b" stroke-width="2.2" '
    'stroke-linecap="round" stroke-linejoin="round"/></g>'
)
ICONS = (
    "adjustments-horizontal", "arrow-path", "arrow-right-start-on-rectangle", "bell", "bell-alert",
    "bell-slash", "book-open",
    "bug-ant", "building-office-2", "check", "check-circle", "chevron-right",
    "clipboard", "clock", "computer-desktop", "exclamation-circle", "exclamation-triangle", "fire", "flag",
    "envelope", "forward", "globe-alt", "hand-raised", "inbox", "information-circle", "magnifying-glass", "moon",
    "no-symbol",
    "paper-airplane", "pause-circle", "play", "play-circle", "question-mark-circle", "queue-list", "rocket-launch",
    "shield-check", "stop-circle", "user-circle", "user-group", "x-circle", "x-mark",
)  # fmt: skip


@cache
def sprite() -> str:
    """Every icon as one picture; pages refer to a symbol of it by name."""
    symbols = "".join(_symbol(name) for name in ICONS)
    return f'<svg xmlns="{SVG}" viewBox="0 0 24 24">{MARK}{symbols}</svg>'


@cache
def version() -> str:
    """A name for what all static files hold now."""
    digest = hashlib.sha256((sprite() + json.dumps(FETCHED_AHEAD)).encode())
    for file in sorted(FOLDER.rglob("*")):
        if file.is_file():
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def url(name: str) -> str:
    """Where a browser finds a static file."""
    return f"/static/{version()}/{name}"


def speculation(plane: str) -> str:
    """The name of the file that says what to fetch ahead in a plane."""
    return f"ahead-{plane}.json"


def mount(app: FastAPI) -> None:
    """Serve the files below any version's address: during a deploy, pages of two releases ask for theirs."""

    async def icons(release: str) -> Response:
        return Response(sprite(), media_type="image/svg+xml", headers={"Cache-Control": _keep(release)})

    async def rules(release: str, plane: Plane) -> Response:
        ahead = {"prefetch": [{"where": {"href_matches": FETCHED_AHEAD[plane]}, "eagerness": "moderate"}]}
        kind = "application/speculationrules+json"
        return Response(json.dumps(ahead), media_type=kind, headers={"Cache-Control": _keep(release)})

    app.add_api_route(f"/static/{{release}}/{SPRITE}", icons, methods=["GET"])
    app.add_api_route(f"/static/{{release}}/{speculation('{plane}')}", rules, methods=["GET"])
    app.mount("/static/{release}", _Kept(directory=FOLDER))


class _Kept(StaticFiles):
    def file_response(self, *args: object, **kwargs: object) -> Response:
        response: Response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        scope = args[2] if len(args) > 2 else kwargs["scope"]
        response.headers["Cache-Control"] = _keep(Request(scope).path_params["release"])  # type: ignore[arg-type]
        return response


def _keep(release: str) -> str:
    return FOREVER if release == version() else BRIEFLY


def _symbol(name: str) -> str:
    # What is parsed comes from a package pinned by its hash, never from outside.
    drawn = ET.fromstring(heroicon_outline(name, size=None))  # noqa: S314 # nosec B314
    shapes = "".join(ET.tostring(shape, encoding="unicode") for shape in drawn)
    kept = {key: value for key, value in drawn.attrib.items() if key.startswith(("stroke", "fill", "viewBox"))}
    attributes = " ".join(f'{key}="{value}"' for key, value in kept.items())
    return f'<symbol id="{name}" {attributes}>{shapes}</symbol>'
