"""Refusals: what opsplane says when it will not, or cannot, do what was asked."""

from http import HTTPStatus
from typing import Any, ClassVar


class OpsplaneError(Exception):
    """A refusal with an HTTP status and a stable code; any other exception is a defect.

    `extra` becomes members of the problem document, so it must be JSON and free of secrets.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.BAD_REQUEST
    code: ClassVar[str] = "refused"
    retry_after_s: int | None = None

    def __init__(self, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.message = message
        self.extra = extra


class ServiceUnavailable(OpsplaneError):
    """The database, Redis or another needed service cannot be reached."""

    status, code = HTTPStatus.SERVICE_UNAVAILABLE, "service_unavailable"
    retry_after_s = 5


class ConfigurationError(OpsplaneError):
    """A setting, a runbook or a migration is wrong; start-up stops with this one line."""

    status, code = HTTPStatus.INTERNAL_SERVER_ERROR, "configuration_error"


class InvalidInput(OpsplaneError):
    """A file or an argument is wrong; the message names it and its position."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_input"


class NotFound(OpsplaneError):
    """Nothing has this id, or the caller may not know that something has."""

    status, code = HTTPStatus.NOT_FOUND, "not_found"


class Conflict(OpsplaneError):
    """Something with this name is there already."""

    status, code = HTTPStatus.CONFLICT, "conflict"


class MissingCapability(OpsplaneError):
    """The actor is known, and lacks a capability."""

    status, code = HTTPStatus.FORBIDDEN, "missing_capability"

    def __init__(self, capability: str) -> None:
        super().__init__(
            f"This needs the capability {capability!r}; ask somebody with platform.users.manage to grant it.",
            capability=capability,
        )
