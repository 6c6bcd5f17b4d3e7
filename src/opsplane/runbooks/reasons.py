"""Reasons: why somebody changes customer data."""

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Self

from opsplane.errors import OpsplaneError

MAX_TEXT = 500


class ReasonCode(StrEnum):
    """The four kinds of reason (FR-007)."""

    DATA_REPAIR = "DATA_REPAIR"
    INCIDENT = "INCIDENT"
    SUPPORT = "SUPPORT"
    SECURITY = "SECURITY"


class ReasonRequired(OpsplaneError):
    """A reason is missing, empty, too long, or of an unknown code."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "reason_required"


@dataclass(frozen=True)
class Reason:
    """A code and 1 to 500 characters of text."""

    code: ReasonCode
    text: str

    @classmethod
    def parse(cls, code: str, text: str) -> Self:
        """Check what somebody typed.

        Raises:
            ReasonRequired: 422, saying which part is wrong.
        """
        if code not in ReasonCode.__members__:
            raise ReasonRequired(f"{code!r} is no reason code; use one of {', '.join(ReasonCode)}.")
        text = text.strip().replace("\x00", "")
        if not text:
            raise ReasonRequired("The reason's text is empty; say in a sentence why this run is needed.")
        if len(text) > MAX_TEXT:
            raise ReasonRequired(f"The reason's text has {len(text)} characters; at most {MAX_TEXT} are kept.")
        return cls(ReasonCode(code), text)
