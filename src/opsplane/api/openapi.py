"""The contract of the system API as `openapi/system.json`: generated, committed, compared by a test."""

import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from opsplane.api import system
from opsplane.api.problems import Problem


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, with our problem shape and the bearer token."""
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
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    openapi["security"] = [{"token": []}]
    return openapi


def rendered() -> str:
    """The text of `openapi/system.json`."""
    return json.dumps(document(system.build()), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    Path("openapi/system.json").write_text(rendered())
