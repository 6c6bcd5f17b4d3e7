"""The demo's data: tenants of very different size, findings from before the lifecycle, a real scanner's report."""

import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from sqlalchemy import text

from opsplane.auth import passwords, tokens, totp, users
from opsplane.auth.actors import Actor
from opsplane.auth.models import PlatformUser
from opsplane.auth.passwords import Passwords
from opsplane.errors import Conflict, NotFound
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane

OPERATOR = "demo@opsplane.example"
SCANNED = ("alembic", "arq", "fastapi", "jinja2", "redis", "starlette", "typer", "uvicorn")

# Sizes follow Zipf's law through the inverse distribution of 1/x; setseed makes two demos equal.
TENANTS = """
    INSERT INTO tenants (id, workspace_id, external_id, name)
    SELECT md5('tenant' || n)::uuid, (SELECT id FROM workspaces WHERE slug = 'default'),
           'demo-' || lpad(n::text, 4, '0'), 'Demo customer ' || n
    FROM generate_series(1, CAST(:tenants AS int)) n ON CONFLICT DO NOTHING
"""
FINDINGS = """
    INSERT INTO findings (id, workspace_id, tenant_id, external_ref, title, severity, status, fingerprint, evidence,
                          first_seen_at, last_seen_at, times_seen, sla_days, due_at, created_at, updated_at)
    SELECT md5('finding' || n)::uuid, tenants.workspace_id, tenants.id, 'LEGACY-' || n % 400,
           'Finding of rule LEGACY-' || n % 400, severity, status, md5('finding' || n),
           jsonb_build_object('scanner', 'legacy', 'path', '/srv/app/module-' || n % 997 || '.py'),
           CASE WHEN complete THEN made_at END, CASE WHEN complete THEN made_at + interval '3 hours' END,
           CASE WHEN complete THEN 1 + n % 9 END, CASE WHEN complete THEN 30 END,
           CASE WHEN complete THEN made_at + interval '30 days' END,
           made_at, made_at + interval '1 day'
    FROM (
        SELECT n, least(CAST(:tenants AS int), floor(exp(random() * ln(CAST(:tenants AS int) + 1)))::int) AS tenant,
               (ARRAY['new', 'acknowledged', 'in_progress', 'resolved', 'closed'])[1 + floor(random() * 5)]
                   AS status,
               (ARRAY['critical', 'high', 'medium', 'low'])[1 + floor(random() * 4)] AS severity,
               random() < 0.4 AS complete,
               timestamptz '2025-01-01 00:00+00' + n * interval '3 minutes' AS made_at
        FROM generate_series(1, CAST(:findings AS int)) n OFFSET 0
    ) made JOIN tenants ON tenants.id = md5('tenant' || tenant)::uuid
"""
AGAIN = """
    UPDATE findings SET times_seen = NULL, due_at = NULL
    WHERE tenant_id IN (SELECT id FROM tenants WHERE external_id LIKE 'demo-%' ORDER BY external_id LIMIT 25)
"""
WRONG = """
    SELECT count(*) FROM findings JOIN tenants ON tenants.id = findings.tenant_id
    WHERE tenants.external_id <> 'platform' AND (
        status = 'acknowledged' OR first_seen_at IS NULL OR last_seen_at IS NULL
        OR times_seen IS NULL OR times_seen < 1
        OR (status IN ('new', 'triaged', 'in_progress', 'reopened') AND (sla_days IS NULL OR due_at IS NULL))
        OR (status IN ('triaged', 'in_progress') AND triaged_at IS NULL)
        OR (status = 'resolved' AND resolved_at IS NULL) OR (status = 'closed' AND closed_at IS NULL))
"""


@dataclass(frozen=True)
class Made:
    """What the demo has to show."""

    tenants: int
    findings: int


async def refuse_foreign(plane: Plane) -> None:
    """Refuse a database that holds anybody else's tenants: the demo repairs all tenants.

    Raises:
        Conflict: it does.
    """
    foreign = (
        "SELECT external_id FROM tenants WHERE external_id <> 'platform' AND external_id NOT LIKE 'demo-%' LIMIT 1"
    )
    async with plane.db.reading() as session:
        found = await session.scalar(text(foreign))
    if found is not None:
        raise Conflict(
            f"This database holds the tenant {found!r}, which is not the demo's; use an empty OPSPLANE_HOME."
        )


async def make(plane: Plane, *, tenants: int, findings: int) -> Made:
    """Make the demo's tenants and findings anew; what an earlier demo repaired is wrong again."""
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("TRUNCATE findings"))
        await tx.session.execute(text("SELECT setseed(0.42)"))
        await tx.session.execute(text("SET LOCAL max_parallel_workers_per_gather = 0"))
        await tx.session.execute(text(TENANTS), {"tenants": tenants})
        await tx.session.execute(text(FINDINGS), {"tenants": tenants, "findings": findings})
        await tx.session.execute(text("ANALYZE findings"))
        made = await tx.session.execute(
            text(
                "SELECT (SELECT count(*) FROM tenants WHERE external_id LIKE 'demo-%'), (SELECT count(*) FROM findings)"
            )
        )
        return Made(*made.one())


async def leave_something(plane: Plane) -> None:
    """Make findings of some tenants wrong again, so that whoever signs in has something to repair."""
    async with plane.db.transaction() as tx:
        await tx.session.execute(text(AGAIN))


def scan(target: Path) -> bool:
    """Have ruff write a SARIF report over installed packages; False where ruff is not installed."""
    ruff = shutil.which("ruff", path=sysconfig.get_path("scripts")) or shutil.which("ruff")
    if ruff is None:
        return False
    packages = [Path(sysconfig.get_path("purelib")) / name for name in SCANNED]
    command = [ruff, "check", "--isolated", "--no-cache", "--exit-zero", "--select=B,E,F,N,PL,RET,S,SIM,UP"]
    present = [str(package) for package in packages if package.is_dir()]
    with target.open("wb") as report, target.with_suffix(".log").open("wb") as complaints:
        subprocess.run([*command, "--output-format=sarif", *present], stdout=report, stderr=complaints, check=True)  # noqa: S603
    return True


async def count_wrong(database_url: str) -> int:
    """Wrong findings by plain SQL on a connection of its own: nothing of opsplane is asked."""
    connection = await asyncpg.connect(database_url)
    try:
        return int(await connection.fetchval(WRONG))
    finally:
        await connection.close()


@dataclass(frozen=True)
class Access:
    """What the demo operator signs in with, for pages and for the API."""

    password: str
    token: str


async def operator_access(plane: Plane) -> Access:
    """A new password and token of the demo operator, who may do everything; those of earlier demos are over."""
    password = passwords.generated()
    hashed = await Passwords().hash(password)
    async with plane.db.transaction() as tx:
        try:
            user: PlatformUser = await users.find(tx.session, OPERATOR)
        except NotFound:
            user = await users.create(tx.session, OPERATOR, name="Demo operator")
        await users.set_password(tx.session, user, hashed)
        await totp.reset(tx.session, user)
        await users.grant(tx.session, user, registry.capabilities())
        await tx.session.execute(
            text("UPDATE api_tokens SET revoked_at = now() WHERE owner_id = :id AND revoked_at IS NULL"),
            {"id": user.id},
        )
        owned = await tokens.capabilities_of(tx.session, user.id)
        by = Actor.system("demo")
        minted = await tokens.mint(tx.session, user, name="demo", capabilities=owned, days=1, by=by)
    return Access(password, minted.secret)
