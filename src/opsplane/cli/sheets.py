"""A run on paper: what it is, what became of it, and why tenants failed."""

from rich.text import Text

from opsplane.cli import looks, output
from opsplane.runs import words
from opsplane.runs.schemas import FailureOut, RunOut
from opsplane.runs.states import Status


def whole(shown: RunOut, *, json_: bool) -> None:
    """Print all that is known of a run."""
    if json_:
        output.as_json(shown)
        return
    output.facts(
        _about(shown)
        | {"Status": _status(shown)}
        | _throttled(shown)
        | _asked(shown)
        | _result(shown)
        | {"Next": shown.next_step or None}
    )
    for told in shown.failures:
        output.out.print(failure(told))
    if more := unseen(shown, len(shown.failures)):
        output.out.print(more)


def header(shown: RunOut) -> None:
    """Tell people what they are about to watch: what, where, who, why."""
    output.facts(_about(shown), to=output.err)


def result(shown: RunOut) -> None:
    """Print what became of a run, for whoever has seen its header."""
    output.facts({"Status": _status(shown)} | _result(shown))


def scope(shown: RunOut) -> str:
    """A run's scope in words."""
    name = f"Tenant {shown.scope.tenant_external_id}" if shown.scope.tenant_id else "All tenants"
    return f"{name} that failed in a run before" if shown.retry_of_run_id else name


def failure(told: FailureOut) -> Text:
    """Why a tenant, or the whole run, failed, in one line."""
    line = f"{told.tenant_external_id or 'The whole run'}: {told.code}: {told.message}"
    return output.data(" ".join(line.split()), "red")


def unseen(shown: RunOut, told: int) -> Text | None:
    """How many more tenants failed than were told of; nothing if all were."""
    more = shown.summary_counts.get("failed", 0) - told
    return Text(f"and {more:,} more failed", "red") if more > 0 else None


def _about(shown: RunOut) -> dict[str, object]:
    by = f"{shown.actor.display} ({shown.source.replace('_', ' ')})"
    return {
        "Run": shown.id,
        "Runbook": f"{shown.type_label} ({shown.type})",
        "Scope": scope(shown),
        "Started by": f"{by}, Break-glass" if shown.actor.break_glass else by,
        "Reason": _reason(shown),
        **({"Retry of": shown.retry_of_run_id} if shown.retry_of_run_id else {}),
        "View": shown.view_url,
    }


def _reason(shown: RunOut) -> str | None:
    if shown.reason is None:
        return None
    return f"{shown.reason.code.replace('_', ' ').capitalize()}: {shown.reason.text}"


def _status(shown: RunOut) -> Text:
    status = looks.label("status", shown.status)  # the fact; that it is throttled has a line of its own
    if shown.status is not Status.COMPLETED:
        return status
    return Text.assemble(status, ", ", looks.label("outcome", shown.outcome))


def _cancelled(counts: dict[str, int]) -> str:
    ended_otherwise = sum(counts.get(key, 0) for key in ("succeeded", "skipped", "failed"))
    cancelled = counts.get("processed", 0) - ended_otherwise
    return f", {cancelled:,} cancelled" if cancelled else ""


def _asked(shown: RunOut) -> dict[str, object]:
    asked = shown.asked
    return {} if asked is None else {"Asked": f"to {asked.what} by {asked.by}, {words.moment(asked.at)}"}


def _throttled(shown: RunOut) -> dict[str, object]:
    why = shown.throttled
    return {} if why is None else {"Throttled": f"{why.reason}, since {words.moment(why.since)}"}


def _result(shown: RunOut) -> dict[str, object]:
    counts, seen = shown.summary_counts, shown.context.preflight
    about = "about " if seen.estimated else ""
    return {
        "Tenants": f"{counts.get('processed', 0):,} of {counts.get('total', 0):,}: "
        f"{counts.get('succeeded', 0):,} repaired, {counts.get('skipped', 0):,} nothing to repair, "
        f"{counts.get('failed', 0):,} failed{_cancelled(counts)}",
        "Rows": f"{shown.context.updated_count:,} updated, {about}{seen.affected_count or 0:,} seen wrong",
        "Made": words.moment(shown.created_at),
        "Ended": None if shown.completed_at is None else words.moment(shown.completed_at),
        "Took": None if shown.context.duration_ms is None else words.duration(shown.context.duration_ms),
    }
