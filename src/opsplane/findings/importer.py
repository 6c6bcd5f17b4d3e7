"""Import SARIF files into findings: streamed, and all or nothing."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Result, case, func, literal_column, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.audit import log as audit
from opsplane.auth.actors import Actor
from opsplane.db import Database, new_id
from opsplane.findings.models import SLA_DAYS, Finding
from opsplane.findings.sarif import SarifFinding, SarifReader
from opsplane.tenants import universe
from opsplane.tenants.models import Tenant

BATCH = 500

ENDED = ("resolved", "closed")
IMPORTED = "platform.findings.imported"


@dataclass
class Imported:
    """What an import did; `results` = `inserted` + `seen_again` + all of `skipped`."""

    inserted: int = 0
    seen_again: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def results(self) -> int:
        """Results in the file."""
        return self.inserted + self.seen_again + self.skipped.total()


async def import_sarif(
    db: Database, path: Path, tenant: str, *, by: Actor, on_progress: Callable[[int], None] | None = None
) -> Imported:
    """Add a file's results to a tenant's findings; one seen before is counted again, and reopened if it had ended.

    `on_progress` hears how many results have been read. Whatever is wrong, no row of the file is kept.

    Raises:
        InvalidInput: the file is not good SARIF 2.1.0; names file and position.
        TenantNotAllowed: 422.
    """
    reader, done = SarifReader(path), Imported()
    async with db.transaction() as tx:
        await tx.session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '1h'"))  # a file may be long
        target = await universe.pick(tx.session, await universe.workspace_id(tx.session), tenant)
        for batch in _batches(reader):
            inserted = await _upsert(tx.session, target, batch)
            done.inserted += inserted
            done.seen_again += len(batch) - inserted
            if on_progress is not None:
                on_progress(done.inserted + done.seen_again)
        done.skipped = reader.skipped
        await _audit(tx.session, target, path, done, by=by)
    return done


async def _upsert(session: AsyncSession, tenant: Tenant, batch: list[SarifFinding]) -> int:
    """Write one batch; returns how many of it are new."""
    statement = insert(Finding).values([_row(tenant, found) for found in batch])
    reopened = Finding.status.in_(ENDED)
    written: Result[bool] = await session.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant_id", "fingerprint"],
            set_={
                "last_seen_at": func.now(),
                "times_seen": func.coalesce(Finding.times_seen, 0) + 1,
                "status": case((reopened, "reopened"), else_=Finding.status),
                "updated_at": func.now(),
            },
        ).returning(literal_column("(xmax = 0)"))
    )
    return sum(written.scalars().all())


def _row(tenant: Tenant, found: SarifFinding) -> dict[str, Any]:
    sla_days = SLA_DAYS[found.severity]
    now: Any = func.now()
    return {
        "id": new_id(),
        "workspace_id": tenant.workspace_id,
        "tenant_id": tenant.id,
        "external_ref": found.external_ref,
        "title": found.title,
        "severity": found.severity,
        "status": "new",
        "fingerprint": found.fingerprint,
        "evidence": found.evidence,
        "first_seen_at": now,
        "last_seen_at": now,
        "times_seen": 1,
        "sla_days": sla_days,
        "due_at": now + func.make_interval(0, 0, 0, sla_days),
        "created_at": now,
        "updated_at": now,
    }


async def _audit(session: AsyncSession, tenant: Tenant, path: Path, done: Imported, *, by: Actor) -> None:
    await audit.record(
        session,
        IMPORTED,
        by=by,
        subject_type="tenant",
        subject_id=tenant.id,
        workspace_id=tenant.workspace_id,
        tenant_id=tenant.id,
        details={
            "file": path.name,
            "inserted": done.inserted,
            "seen_again": done.seen_again,
            "skipped": dict(done.skipped),
        },
    )


def _batches(reader: Iterable[SarifFinding]) -> Iterator[list[SarifFinding]]:
    found = iter(reader)
    while batch := list(islice(found, BATCH)):
        yield batch
