"""The default workspace, and the company itself as its tenant `platform`."""

import sqlalchemy as sa
from alembic import op

from opsplane.db import new_id

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    workspace_id, tenant_id = new_id(), new_id()
    op.execute(
        sa.text("INSERT INTO workspaces (id, slug, name) VALUES (:id, 'default', 'Default')").bindparams(
            id=workspace_id
        )
    )
    op.execute(
        sa.text(
            "INSERT INTO tenants (id, workspace_id, external_id, name) VALUES (:id, :workspace, 'platform', 'Platform')"
        ).bindparams(id=tenant_id, workspace=workspace_id)
    )


def downgrade() -> None:
    op.execute("DELETE FROM tenants WHERE external_id = 'platform'")
    op.execute("DELETE FROM workspaces WHERE slug = 'default'")
