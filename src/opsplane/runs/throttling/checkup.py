"""What `opsplane doctor` says of the throttle: whether it is on, what it cannot see, and what it would do now."""

from sqlalchemy import func, select, text

from opsplane.config import Settings
from opsplane.db import Database
from opsplane.runs.models import OperationRun
from opsplane.runs.states import Status
from opsplane.runs.throttling import readings, signals

THROTTLED = select(func.count()).where(
    OperationRun.status == Status.RUNNING, OperationRun.throttled_reason.is_not(None)
)
SEES = text("SELECT pg_has_role('pg_read_all_stats', 'USAGE'), current_user::text")


async def examine(db: Database, settings: Settings) -> tuple[bool, str]:
    """Being blind is no fault: runs go on as they would without a throttle."""
    if not settings.throttle:
        return True, "off: runs go on at full speed whatever state the database is in"
    async with db.reading() as session:
        sees, role = (await session.execute(SEES)).one()
        reading = await readings.read(session, settings)
    found = [one.reason for one in signals.judge(reading, None, settings)]
    vacuumed = [f"{table} is being vacuumed" for table in reading.vacuums if "." not in table]
    now = f"on; now: {'; '.join([*found, *vacuumed]) or 'nothing to slow down for, by the limits set here'}"
    if sees:
        return True, now
    return True, f"{now}. It sees neither replicas nor vacuums nor other roles; GRANT pg_read_all_stats TO {role}"


async def slowed_down(db: Database) -> str:
    """What workers, whose settings may be others, do now; empty if they let every run go on."""
    async with db.reading() as session:
        runs = await session.scalar(THROTTLED)
    return f". Workers slow down or hold up {runs} of the runs: opsplane runs list --status running" if runs else ""
