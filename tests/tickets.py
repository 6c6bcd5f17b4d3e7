"""A type of an application's own, over one of the database."""

from sqlalchemy import Dialect, Integer, TypeDecorator


class Ticket(TypeDecorator[str]):
    """A number in the database, `T-7` in the application."""

    impl = Integer
    cache_ok = True
    python_type = str

    def process_bind_param(self, value: str | None, dialect: Dialect) -> int | None:
        """Without the prefix."""
        return None if value is None else int(value.removeprefix("T-"))
