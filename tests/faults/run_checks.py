"""What must be true of runs and items at any moment, told from the tables alone."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opsplane.runs.states import TRANSITIONS, Status
from tests.faults.machines import World
from tests.faults.run_model import Run

WATCH = """
    CREATE TABLE machine_moves (before text, after text, PRIMARY KEY (before, after))
    ---
    CREATE FUNCTION machine_moved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO machine_moves VALUES (OLD.status, NEW.status) ON CONFLICT DO NOTHING; RETURN NEW; END $$
    ---
    CREATE TRIGGER machine_moved AFTER UPDATE OF status ON operation_runs
    FOR EACH ROW WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION machine_moved()
"""
UNWATCH = "DROP TRIGGER machine_moved ON operation_runs --- DROP FUNCTION machine_moved --- DROP TABLE machine_moves"
LOOK = """
    SELECT json_build_object(
        'runs', (SELECT json_agg(run) FROM (
            SELECT id, status, outcome, lock_group, tenant_id, summary_counts, preflight_id, completed_at,
                asks @> '[{"what": "cancel"}]' AS cancel_asked,
                (SELECT json_agg(action) FROM audit_events WHERE subject_id = operation_runs.id::text
                    AND action IN ('platform.ops.runbooks.completed', 'platform.ops.runbooks.failed')) AS ends,
                (SELECT count(*) FROM outbox WHERE payload ->> 'run_id' = operation_runs.id::text
                    AND kind = 'operations.run.failed') AS alerts
            FROM operation_runs
        ) run),
        'items', (SELECT json_agg(item) FROM (
            SELECT run_id, tenant_id, state, lease_token, updated_count, error_count, attempts, lost_count
            FROM operation_run_items
        ) item),
        'moves', (SELECT json_agg(json_build_array(before, after)) FROM machine_moves),
        'used_preflights', (SELECT json_agg(id) FROM preflights WHERE used_at IS NOT NULL)
    ) AS seen
"""


@contextmanager
def watching(world: World) -> Iterator[None]:
    """Have the database itself write down every move of a status."""
    for statement in WATCH.split("---"):
        world.sql(statement)
    try:
        yield
    finally:
        for statement in UNWATCH.split("---"):
            world.sql(statement)


@dataclass(frozen=True)
class Seen:
    """The tables of one moment; ids are text."""

    runs: list[Any]
    items: dict[str, list[Any]]
    moves: list[tuple[str, str]]
    used_preflights: set[str]

    def tokens(self) -> dict[Any, int]:
        """The lease token of every item."""
        return {(run, item["tenant_id"]): item["lease_token"] for run, items in self.items.items() for item in items}


def look(world: World) -> Seen:
    """Read them, in one statement."""
    seen = {name: rows or [] for name, rows in json.loads(world.sql(LOOK)[0]["seen"]).items()}
    items: dict[str, list[Any]] = {run["id"]: [] for run in seen["runs"]}
    for item in seen["items"]:
        items[item["run_id"]].append(item)
    return Seen(seen["runs"], items, seen["moves"], set(seen["used_preflights"]))


def hold(seen: Seen, tokens_before: dict[Any, int]) -> None:
    """What needs no model."""
    for before, after in seen.moves:
        assert after in TRANSITIONS[Status(before)], f"{before} became {after}"
    for key, token in seen.tokens().items():
        assert token >= tokens_before.get(key, 0), "a lease token went back"
    started_from = [run["preflight_id"] for run in seen.runs]
    assert len(set(started_from)) == len(started_from), "two runs from one preflight"
    assert set(started_from) <= seen.used_preflights
    _scopes_are_apart([run for run in seen.runs if run["status"] != "completed"])
    for run in seen.runs:
        _run_holds(run, seen.items[run["id"]])


def _scopes_are_apart(active: list[Any]) -> None:
    for index, one in enumerate(active):
        for other in active[:index]:
            apart = None not in {one["tenant_id"], other["tenant_id"]} and one["tenant_id"] != other["tenant_id"]
            assert apart or one["lock_group"] != other["lock_group"], "two active runs overlap"


def _run_holds(run: Any, items: list[Any]) -> None:
    states = Counter(item["state"] for item in items)
    ended = run["status"] == "completed"
    assert ended == (run["completed_at"] is not None) == (run["outcome"] != "pending")
    assert len(run["ends"] or []) == ended, "one event says how it ended"
    if run["status"] == "paused":
        assert not states["running"], "a paused run holds a lease"
    if ended:
        _end_holds(run, items, states)


def _end_holds(run: Any, items: list[Any], states: Counter[str]) -> None:
    assert not states["pending"] + states["running"], "a completed run has an open item"
    assert run["outcome"] == _outcome(run, states)
    bad = run["outcome"] in {"failed", "partially_succeeded"}
    assert run["ends"] == [f"platform.ops.runbooks.{'failed' if bad else 'completed'}"]
    assert run["alerts"] == bad
    assert run["summary_counts"] == {
        "tenants": len(items),
        "total": len(items),
        "processed": len(items),
        "succeeded": states["succeeded"],
        "failed": states["failed"],
        "skipped": states["skipped"],
        "updated": sum(item["updated_count"] for item in items),
        "errors": sum(item["error_count"] for item in items),
    }


def _outcome(run: Any, states: Counter[str]) -> str:
    """What the items add up to; a run that never had any was cancelled or given up."""
    if run["cancel_asked"] and (states["cancelled"] or not states):
        return "cancelled"
    assert not states["cancelled"], "nobody asked to cancel"
    if states["failed"] or not states:
        return "partially_succeeded" if states["succeeded"] else "failed"
    return "succeeded"


def agree(seen: Seen, runs: list[Run], world: World) -> None:
    """What only the model knows: where each run and item must be by now."""
    names = {str(tenant.id): name for name, tenant in world.tenants.items()}
    in_tables = {
        run["id"]: (run["status"], run["outcome"], {
            names[item["tenant_id"]]: (
                item["state"], item["lease_token"], item["updated_count"], item["attempts"], item["lost_count"],
            )
            for item in seen.items[run["id"]]
        })
        for run in seen.runs
    }  # fmt: skip
    in_model = {
        str(run.id): (run.status, run.outcome, {
            name: (item.state, item.token, item.updated, item.attempts, item.lost) for name, item in run.items.items()
        })
        for run in runs
    }  # fmt: skip
    assert in_tables == in_model
