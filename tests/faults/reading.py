"""Reads the history of one schedule back from the database."""

import json
import uuid
from typing import Any

from tests.faults.control import Control
from tests.faults.history import Audited, Effect, History, Item, Move, Run

RUNS = """
    SELECT * FROM operation_runs WHERE id IN (SELECT run_id FROM run_moves WHERE serial > $1 AND was IS NULL) ORDER BY id
"""
ITEMS = """
    SELECT items.*, (
        SELECT code FROM operation_run_failures failures
        WHERE failures.run_id = items.run_id AND failures.item_key = items.item_key ORDER BY created_at DESC LIMIT 1
    ) AS code
    FROM operation_run_items items WHERE run_id = ANY($1) ORDER BY run_id, ordinal
"""


async def watermark(control: Control) -> int:
    """Everything that happens from now on has a higher number."""
    return int(await control.value("SELECT nextval('happened')"))


async def read(control: Control, since: int, *, rows: int, tenants: int) -> History:
    """What happened since then, as it was at one moment: a run that still goes on must not look as if it had lost some."""
    connection = await control.connect()
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return await _read(connection, since, rows=rows, tenants=tenants)
    finally:
        await connection.close()


async def _read(connection: Any, since: int, *, rows: int, tenants: int) -> History:
    runs = await connection.fetch(RUNS, since)
    ids = [run["id"] for run in runs]
    moves = await connection.fetch("SELECT * FROM run_moves WHERE serial > $1 ORDER BY serial", since)
    item_moves = await connection.fetch("SELECT * FROM item_moves WHERE serial > $1 ORDER BY serial", since)
    effects = await connection.fetch("SELECT * FROM effects WHERE serial > $1 ORDER BY serial", since)
    audited = await connection.fetch(
        "SELECT subject_id, action FROM audit_events WHERE subject_type = 'operation_run' AND subject_id = ANY($1)",
        [str(each) for each in ids],
    )
    return History(
        rows=rows,
        tenants=tenants,
        runs=[_run(row) for row in runs],
        items=[_item(row) for row in await connection.fetch(ITEMS, ids)],
        effects=[_effect(row) for row in effects],
        moves=[_run_move(row) for row in moves] + [_item_move(row) for row in item_moves],
        audited=[Audited(row["subject_id"], row["action"]) for row in audited],
    )


def _run(row: Any) -> Run:
    counts, context = json.loads(row["summary_counts"]), json.loads(row["context"])
    return Run(
        id=str(row["id"]), group=row["lock_group"], tenant=_text(row["tenant_id"]), status=row["status"],
        outcome=row["outcome"], counts=counts, updated=context.get("updated_count"), created_at=row["created_at"],
        completed_at=row["completed_at"],
    )  # fmt: skip


def _item(row: Any) -> Item:
    return Item(
        run_id=str(row["run_id"]), key=row["item_key"], state=row["state"], updated=row["updated_count"],
        lost=row["lost_count"], leased=row["leased_by"] is not None, failure=row["code"],
    )  # fmt: skip


def _effect(row: Any) -> Effect:
    return Effect(
        serial=row["serial"], run_id=str(row["run_id"]), key=row["item_key"], token=row["lease_token"],
        leased_by=_text(row["leased_by"]), state=row["item_state"], n=row["n"], worker=row["worker_pid"],
    )  # fmt: skip


def _run_move(row: Any) -> Move:
    return Move(
        serial=row["serial"], run_id=str(row["run_id"]), was=row["was"], becomes=row["becomes"], at=row["at"]
    )  # fmt: skip


def _item_move(row: Any) -> Move:
    return Move(
        serial=row["serial"], run_id=str(row["run_id"]), was=row["was"], becomes=row["becomes"], at=row["at"],
        key=row["item_key"], token_was=row["token_was"], token=row["token"], lease_until_was=row["lease_until_was"],
    )  # fmt: skip


def _text(value: uuid.UUID | None) -> str | None:
    return None if value is None else str(value)
