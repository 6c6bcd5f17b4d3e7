"""What can go wrong with a tenant's repair, and how its failure reads."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from opsplane.db import TRANSIENT, first_line, is_unreachable, sqlstate
from opsplane.runbooks.base import Retry
from opsplane.runs import leases

MAX_PASSES = 3


class AuthorError(Exception):
    """The author's code failed outside of the database, which must not look as if the database had."""

    def __str__(self) -> str:
        return f"{type(self.__cause__).__name__}: {self.__cause__}"


class NotConverging(Exception):
    """The selector still finds rows after three passes: `right` does not make `wrong` false."""

    def __str__(self) -> str:
        return f"Rows are still wrong after {MAX_PASSES} passes: the runbook's right() does not satisfy its wrong()."


@contextmanager
def authored() -> Iterator[None]:
    """Around calls of an author's code."""
    try:
        yield
    except (OSError, TimeoutError) as error:
        raise AuthorError from error


def is_transient(error: Exception) -> bool:
    """Whether it may go well when tried again."""
    return isinstance(error, Retry) or sqlstate(error) in TRANSIENT


def describe_for_now(error: Exception) -> tuple[str, str]:
    """Code and message of what will be tried again."""
    return ("try_again", first_line(error)) if isinstance(error, Retry) else describe(error)


def describe(error: Exception) -> tuple[str, str]:
    """Code and message of a failure."""
    if isinstance(error, NotConverging):
        return "not_converging", str(error)
    if isinstance(error, Retry):
        return "gave_up", f"The runbook asked {leases.MAX_ATTEMPTS} times to try again: {first_line(error)}"
    if isinstance(error, DBAPIError) and not is_unreachable(error):
        hint = " An index that fits the selector, or a larger OPSPLANE_CHUNK_TIMEOUT_S, helps."
        return "database_error", f"{sqlstate(error)}: {first_line(error)}.{hint if sqlstate(error) == '57014' else ''}"
    if isinstance(error, AuthorError):
        return "runbook_error", first_line(error)
    return "runbook_error", f"{type(error).__name__}: {first_line(error)}"
