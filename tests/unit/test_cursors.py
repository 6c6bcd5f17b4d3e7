"""Keys of rows in a run's cursor: they go through JSON, and come back as the driver takes them."""

import json
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import BigInteger, Date, DateTime, Numeric, Text, Uuid
from sqlalchemy.orm import DeclarativeBase, mapped_column
from sqlalchemy.types import TypeEngine

from opsplane.runbooks.base import RepairRunbook
from tests.tickets import Ticket


def runbook_of(key: TypeEngine[Any]) -> RepairRunbook:
    class Base(DeclarativeBase):
        pass

    class Row(Base):
        __tablename__ = "rows"
        id = mapped_column(key, primary_key=True)
        tenant_id = mapped_column(Uuid())
        state = mapped_column(Text())

    class Repair(RepairRunbook):
        key = "test.cursors"
        table = Row

        def wrong(self) -> Any:
            return Row.state.is_(None)

        def right(self) -> Any:
            return {Row.state: "new"}

    return Repair()


KEYS = [
    (BigInteger(), 2**40), (Uuid(), uuid.UUID(int=7)), (Text(), "a:7"), (Numeric(), Decimal("12345678901234567890.123456789")),
    (Date(), date(2026, 11, 22)), (DateTime(timezone=True), datetime(2026, 11, 22, 7, 30, 1, 5, tzinfo=UTC)),
    (Ticket(), 7),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "stored"), KEYS, ids=lambda given: type(given).__name__)
def test_a_key_comes_back_from_a_cursor_as_the_driver_gave_it(type_: TypeEngine[Any], stored: object) -> None:
    keys = runbook_of(type_).statements
    assert keys.decode(json.loads(json.dumps(keys.encode(stored)))) == stored
