"""A run as it is shown, put together from its row: the JSON of REST, the words of pages and of the terminal.

Plain dictionaries, because a page of a list has fifty of them; `RunOut` says what is in them.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from opsplane.runbooks import registry
from opsplane.runs import summary, words
from opsplane.runs.states import Outcome, Status, sources

MAX_ASKS = 50
STATUSES, OUTCOMES = {str(one): one for one in Status}, {str(one): one for one in Outcome}
CAN_PAUSE, CAN_CANCEL = sources(Status.PAUSING), sources(Status.CANCELLING)
CAN_RESUME = {Status.PAUSING, Status.PAUSED}

Document = dict[str, Any]
RunRow = Mapping[str, Any]  # as `views` reads it


@dataclass(frozen=True)
class Pulse:
    """Whether anybody could work on a run, and for how long nobody got anywhere."""

    workers: bool = True
    quiet_s: float | None = None


BEATING = Pulse()


def view_url(base_url: str, run_id: uuid.UUID | str) -> str:
    """Where an operator sees the run."""
    return f"{base_url}/system/ops/runs/{run_id}"


def of(
    run: RunRow,
    counts: Mapping[str, int],
    failures: Sequence[Document] = (),
    *,
    base_url: str,
    pulse: Pulse = BEATING,
    retry: Document | None = None,
) -> Document:
    """One run with its counts of this moment."""
    status, outcome = STATUSES[run["status"]], OUTCOMES[run["outcome"]]
    stalled = run["stalled_at"] is not None and status is not Status.COMPLETED
    retried = None if retry is None else retry["outcome"]
    throttled = run["throttled_reason"] if status is Status.RUNNING else None
    asks = run["asks"][-MAX_ASKS:] if run["asks"] else []
    kind, run_id, tenant_id = run["type"], str(run["id"]), run["tenant_id"]
    return {
        "id": run_id,
        "type": kind,
        "type_label": registry.find(kind).title if registry.known(kind) else kind,
        "status": status,
        "outcome": outcome,
        "scope": {
            "kind": run["scope_kind"],
            "tenant_id": tenant_id and str(tenant_id),
            "tenant_external_id": run["tenant_external_id"],
        },
        "actor": {
            "kind": run["initiator_kind"],
            "display": run["initiator_display"],
            "break_glass": run["break_glass_id"] is not None,
        },
        "source": run["source"],
        "reason": {"code": run["reason_code"], "text": run["reason_text"]} if run["reason_code"] else None,
        "release": run["release"],
        "retry_of_run_id": run["retry_of_run_id"],
        "retried_in": retry,
        "summary_counts": summary.checked(counts),
        "context": {
            "preflight": {"affected_count": run["preflight_affected_count"], "estimated": run["estimated"]},
            "updated_count": counts.get("updated", 0),
            "skipped_count": counts.get("skipped", 0),
            "error_count": counts.get("errors", 0),
            "duration_ms": run["duration_ms"],
        },
        "failures": failures,
        "progress": _progress(run, status, outcome, counts, pulse),
        "stalled": stalled,
        "throttled": {"reason": throttled, "since": run["throttled_at"]} if throttled else None,
        "next_step": words.next_step(
            status, outcome, stalled=stalled, workers=pulse.workers, retried=retried, throttled=throttled
        ),
        "can": _can(status, retried, failed=counts.get("failed", 0) > 0),
        "asked": asks[-1] if asks else None,
        "asks": asks,
        "created_at": run["created_at"],
        "started_at": run["started_at"],
        "paused_at": run["paused_at"],
        "completed_at": run["completed_at"],
        "view_url": view_url(base_url, run_id),
    }  # fmt: skip


@cache
def _can(status: Status, retried: Outcome | None, *, failed: bool) -> Document:
    return {
        "pause": status in CAN_PAUSE,
        "resume": status in CAN_RESUME,
        "cancel": status in CAN_CANCEL,
        "retry_failed": status is Status.COMPLETED and failed and retried not in {Outcome.PENDING, Outcome.SUCCEEDED},
    }


def _progress(run: RunRow, status: Status, outcome: Outcome, counts: Mapping[str, int], pulse: Pulse) -> Document:
    updated, affected = counts.get("updated", 0), run["preflight_affected_count"]
    rate = _rate(updated, run["elapsed_s"]) if run["started_at"] else None
    fraction, eta_s = 1.0, None
    if status is not Status.COMPLETED or outcome is Outcome.CANCELLED:
        fraction = updated / affected if affected else counts.get("processed", 0) / max(1, counts.get("total", 0))
        fraction = min(round(fraction, 4), 1.0)
    if status is not Status.COMPLETED:
        fraction = min(fraction, 0.999)  # it is over when its last tenant is, and not before
        eta_s = round(max(0, affected - updated) / rate, 1) if affected and rate else None
    return {
        "fraction": fraction,
        "rows_per_s": rate,
        "eta_s": eta_s,
        "said": words.said(status, counts, affected, fraction, estimated=run["estimated"]),
        "pace": words.pace(
            status, rate, eta_s, fraction, quiet_s=pulse.quiet_s, throttled=run["throttled_reason"] is not None
        ),
    }


def _rate(rows: int, elapsed_s: float) -> float | None:
    return round(rows / elapsed_s, 1) if elapsed_s > 0 else None
