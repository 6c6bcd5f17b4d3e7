"""Two active runs of one lock group never overlap: all tenants is `(,)`, one tenant `[t,t]`."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        ALTER TABLE operation_runs ADD CONSTRAINT one_active_run_per_scope
        EXCLUDE USING gist (workspace_id WITH =, lock_group WITH =, tenant_span WITH &&)
        WHERE (status <> 'completed')
    """)


def downgrade() -> None:
    op.execute("ALTER TABLE operation_runs DROP CONSTRAINT one_active_run_per_scope")
