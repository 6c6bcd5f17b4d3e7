"""A new runbook: its file and its test, ready to be edited."""

from pathlib import Path

from opsplane.errors import Conflict, InvalidInput
from opsplane.runbooks.registry import KEY

RUNBOOK = '''"""{title}: say in one line what it repairs."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.orm import InstrumentedAttribute

from opsplane import RepairRunbook, register
from opsplane.findings.models import Finding


@register
class {name}(RepairRunbook):
    """What is wrong, and what it becomes; preflight, chunks, locks, audit and progress come by themselves."""

    key, version, title = "{key}", 1, "{title}"
    description = "What an operator should know before running it."
    capability = "{capability}"
    confirmation_phrase = "{phrase}"
    table = Finding  # your own mapped class; it needs a tenant_id column

    def wrong(self) -> ColumnElement[bool]:
        """Which rows must change; the tenant is added for you."""
        return Finding.times_seen < 0

    def right(self) -> Mapping[InstrumentedAttribute[Any], Any]:
        """What they become; afterwards wrong() must be false for them."""
        return {{Finding.times_seen: 1}}
'''

TEST = '''"""{title} keeps the promises of every runbook."""

from pathlib import Path

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import testing
from opsplane.db import new_id
from opsplane.findings.models import Finding
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant

pytest_plugins = ["opsplane.testing"]
registry.load(Path(__file__).parents[1])


async def seed(session: AsyncSession, tenant: Tenant) -> int:
    """Make rows wrong; returns how many."""
    await session.execute(
        insert(Finding),
        [
            {{
                "id": new_id(),
                "workspace_id": tenant.workspace_id,
                "tenant_id": tenant.id,
                "external_ref": "EXAMPLE",
                "title": "an example",
                "severity": "low",
                "status": "closed",
                "fingerprint": str(number),
                "times_seen": -1,
            }}
            for number in range(25)
        ],
    )
    return 25


@pytest.mark.asyncio
async def test_{slug}_repairs_exactly_what_is_wrong(opsplane_plane: Plane) -> None:
    await testing.assert_repairs(opsplane_plane, type(registry.find("{key}")), seed=seed)
'''


def write(key: str, folder: Path) -> tuple[Path, Path]:
    """Write the runbook into `folder` and its test beside it; returns both paths.

    Raises:
        InvalidInput: the key is not of the form area.name, or the folder cannot be written to.
        Conflict: one of the files is there already.
    """
    if not KEY.fullmatch(key) or not key[-1].isalnum():
        raise InvalidInput(f"{key!r} is not a runbook key; use the form area.name in lower case.")
    slug = key.replace(".", "_").replace("-", "_")
    words = slug.split("_")
    values = {
        "key": key,
        "slug": slug,
        "title": " ".join(words).capitalize(),
        "name": "".join(word.capitalize() for word in words),
        "capability": f"platform.runbooks.{slug}",
        "phrase": words[-1].upper(),
    }
    files = {folder / f"{slug}.py": RUNBOOK, folder / "tests" / f"test_{slug}.py": TEST}
    for file in files:
        if file.exists():
            raise Conflict(f"{file} is there already; pick another key or remove it.")
    try:
        for file, template in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(template.format(**values))
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written to: {error.strerror}.") from error
    runbook, test = files
    return runbook, test
