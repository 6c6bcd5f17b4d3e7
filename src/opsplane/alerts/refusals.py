"""What is refused of destinations and rules alike."""

from http import HTTPStatus

from opsplane.errors import Conflict, OpsplaneError


class NameTaken(Conflict):
    """Names tell destinations, and rules, apart."""

    code = "name_taken"

    def __init__(self, name: str) -> None:
        super().__init__(f"There is one named {name!r} already; pick another name.")


class TooMany(OpsplaneError):
    """Each event is compared with every rule and destination, so there is an end to them."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "too_many"

    def __init__(self, what: str, most: int) -> None:
        super().__init__(f"There are {most} {what} already, the most there can be; delete one first.")
