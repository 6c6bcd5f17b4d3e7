"""`python -m bench.bare DATABASE_URL PORT`: the list of runs by one query and one response model, without any check.

What a page of runs costs in Python at least, if it is the same document: nobody is asked who they are.
"""

import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson
import uvicorn
from fastapi import FastAPI, Request

from opsplane.api.schemas import RunPage

LAST = uuid.UUID(int=(1 << 128) - 1)
PAGE = """
    SELECT r.id, r.type, r.status, r.outcome, r.scope_kind, r.tenant_id, r.initiator_kind, r.initiator_display,
        r.break_glass_id, r.source, r.reason_code, r.reason_text, r.release, r.retry_of_run_id, r.summary_counts,
        r.preflight_affected_count, r.context, r.created_at, r.started_at, r.paused_at, r.completed_at, t.external_id
    FROM operation_runs r LEFT JOIN tenants t ON t.id = r.tenant_id
    WHERE r.id < $1 ORDER BY r.id DESC LIMIT $2"""


def build(url: str) -> FastAPI:
    """The whole application."""

    @asynccontextmanager
    async def pooled(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with asyncpg.create_pool(url, min_size=10, max_size=10, init=_decode_json) as pool:
            yield {"pool": pool}

    app = FastAPI(lifespan=pooled)

    @app.get("/readyz")
    async def ready() -> bool:
        return True

    @app.get("/runs", response_model=RunPage)
    async def runs(request: Request, before: uuid.UUID = LAST, limit: int = 50) -> Any:
        rows = await request.state.pool.fetch(PAGE, before, limit + 1)
        return {"items": [_present(row) for row in rows[:limit]], "next_cursor": str(rows[-1]["id"])}

    return app


def _encode(document: Any) -> str:
    return orjson.dumps(document).decode()


async def _decode_json(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec("jsonb", encoder=_encode, decoder=orjson.loads, schema="pg_catalog")


def _present(row: asyncpg.Record) -> dict[str, Any]:
    counts = row["summary_counts"]
    return {
        "id": row["id"],
        "type": row["type"],
        "type_label": row["type"],
        "status": row["status"],
        "outcome": row["outcome"],
        "scope": {
            "kind": row["scope_kind"],
            "tenant_id": row["tenant_id"],
            "tenant_external_id": row["external_id"],
        },
        "actor": {
            "kind": row["initiator_kind"],
            "display": row["initiator_display"],
            "break_glass": row["break_glass_id"] is not None,
        },
        "source": row["source"],
        "reason": {"code": row["reason_code"], "text": row["reason_text"]} if row["reason_code"] else None,
        "release": row["release"],
        "retry_of_run_id": row["retry_of_run_id"],
        "summary_counts": counts,
        "context": {
            "preflight": {"affected_count": row["preflight_affected_count"]},
            "updated_count": counts.get("updated", 0),
            "skipped_count": counts.get("skipped", 0),
            "error_count": counts.get("errors", 0),
            "duration_ms": row["context"].get("duration_ms"),
        },
        "failures": [],
        "progress": {"fraction": 1, "rows_per_s": None, "eta_s": None, "said": "All done", "pace": ""},
        "stalled": False,
        "next_step": "",
        "created_at": row["created_at"],
        "started_at": row["started_at"],
        "paused_at": row["paused_at"],
        "completed_at": row["completed_at"],
        "view_url": f"http://localhost/runs/{row['id']}",
    }


if __name__ == "__main__":
    uvicorn.run(build(sys.argv[1]), port=int(sys.argv[2]), log_config=None, access_log=False, server_header=False)
