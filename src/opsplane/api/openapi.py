"""The contracts of both planes as `openapi/*.json`: generated, committed, compared by a test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from opsplane.api import admin, system
from opsplane.api.problems import Problem

Scheme = dict[str, str]
BLANK = {"const": "", "description": "As if it were not given."}

TOKEN: Scheme = {"type": "http", "scheme": "bearer"}
SYSTEM_SESSION: Scheme = {"type": "apiKey", "in": "cookie", "name": "__Host-opsplane_system"}
ADMIN_SESSION: Scheme = {"type": "apiKey", "in": "cookie", "name": "__Host-opsplane_admin"}
PLANES: dict[str, tuple[Callable[[], FastAPI], dict[str, Scheme]]] = {
    "system": (system.build, {"token": TOKEN, "session": SYSTEM_SESSION}),
    "admin": (admin.build, {"session": ADMIN_SESSION}),
}


def document(app: FastAPI, schemes: dict[str, Scheme]) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, with our problem shape and the ways in, each of which is enough."""
    openapi = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version=app.openapi_version,
        routes=app.routes,
        servers=app.servers,
    )
    components = openapi.setdefault("components", {})
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"] |= schema.pop("$defs", {}) | {"Problem": schema}
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    components["securitySchemes"] = schemes
    openapi["security"] = [{name: []} for name in schemes]
    _allow_blanks(openapi["paths"])
    return openapi


def _allow_blanks(paths: dict[str, Any]) -> None:
    """Say that lists take a blank for a filter that is not there, as forms send it; see `queries.Listed`."""
    for operations in paths.values():
        query = [one for one in operations.get("get", {}).get("parameters", []) if one["in"] == "query"]
        if any(one["name"] == "cursor" for one in query):
            for one in query:
                one["schema"] = {"anyOf": [*one["schema"].get("anyOf", [one["schema"]]), BLANK]}


def rendered(plane: str) -> str:
    """The text of `openapi/<plane>.json`."""
    build, schemes = PLANES[plane]
    return json.dumps(document(build(), schemes), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name in PLANES:
        Path(f"openapi/{name}.json").write_text(rendered(name))
