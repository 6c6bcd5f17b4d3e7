"""Errors as `application/problem+json` (RFC 9457), the same shape for every refusal and defect."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from opsplane.api.refusals import EVERYWHERE
from opsplane.errors import OpsplaneError

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
PASSING = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer", "minimum": 1}}
}


class FieldProblem(BaseModel):
    """One field that is wrong, as a JSON pointer into the request."""

    pointer: str
    detail: str


class Problem(BaseModel):
    """What went wrong and the next move; `code` is stable, `detail` is for people."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem] | None = None


class ProblemResponse(JSONResponse):
    """A problem on the wire."""

    media_type = MEDIA_TYPE


def problem(
    status: HTTPStatus, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **extra: Any
) -> ProblemResponse:
    """A problem document as a response."""
    body = {
        "type": f"urn:opsplane:problem:{code}",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "code": code,
        **extra,
    }
    return ProblemResponse(body, status_code=status, headers=dict(headers or {}))


def not_found() -> ProblemResponse:
    """The one 404 of a path that is not there, or that the caller may not know of."""
    return problem(HTTPStatus.NOT_FOUND, "not_found", "There is nothing here.")


def refused(error: OpsplaneError) -> ProblemResponse:
    """A refusal as a problem document."""
    headers = None if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return problem(error.status, error.code, error.message, headers=headers, **error.extra)


def defect() -> ProblemResponse:
    """The answer when something is wrong with opsplane itself."""
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "Something unexpected happened; the log has the details."
    )


def install(app: FastAPI) -> None:
    """Map refusals, HTTP errors, bad requests and defects; a mounted app ignores its parent's handlers."""

    async def answer(request: Request, error: Exception) -> ProblemResponse:
        return of(request, error)

    for kind in (OpsplaneError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, answer)


def of(request: Request, error: Exception) -> ProblemResponse:
    """The problem document for whatever a route raised; what nobody foresaw is logged."""
    match error:
        case OpsplaneError():
            return refused(error)
        case HTTPException():
            return _http_error(error)
        case RequestValidationError():
            return _bad_request(error)
        case _:
            log.error("unexpected_error", path=request.url.path, method=request.method, exc_info=error)
            return defect()


def responses(*refusals: type[OpsplaneError]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route: its refusals and those of the edge by status, each with its codes."""
    codes: dict[int, list[str]] = {HTTPStatus.UNPROCESSABLE_ENTITY: ["invalid_request"]}
    for refusal in dict.fromkeys((*refusals, *EVERYWHERE)):
        names = codes.setdefault(int(refusal.status), [])
        if refusal.code not in names:
            names.append(refusal.code)
    return {status: _documented(status, names) for status, names in sorted(codes.items())}


def _documented(status: int, codes: list[str]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": ", ".join(f"`{code}`" for code in codes),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    return answer | ({"headers": RETRY_AFTER} if status in PASSING else {})


def _http_error(error: HTTPException) -> ProblemResponse:
    if error.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return not_found()
    status = HTTPStatus(error.status_code)
    if status is HTTPStatus.BAD_REQUEST:  # what FastAPI says of a body that json cannot even try to read
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", "The body cannot be read as JSON.")
    return problem(status, status.phrase.lower().replace(" ", "_"), str(error.detail))


def _bad_request(error: RequestValidationError) -> ProblemResponse:
    errors = [_field(entry) for entry in error.errors()]
    detail = "; ".join(f"{entry['pointer']}: {entry['detail']}" for entry in errors[:3])
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail, errors=errors)


def _field(entry: Mapping[str, Any]) -> dict[str, str]:
    # The input itself is never echoed: it may be a secret, and it may be markup.
    pointer = "/" + "/".join(str(part) for part in entry["loc"])
    detail = str(entry["msg"]).removeprefix("Value error, ")
    if entry["type"] == "union_tag_invalid":  # pydantic's words quote what was sent
        detail = f"{entry['ctx']['discriminator']} must be one of {entry['ctx']['expected_tags']}"
    return {"pointer": pointer, "detail": detail}
