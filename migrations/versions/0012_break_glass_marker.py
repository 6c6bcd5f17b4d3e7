"""Runs and audit events name the emergency they belong to, where they had a mere flag."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


TABLES = ("operation_runs", "audit_events")


def upgrade() -> None:
    for table in TABLES:
        op.drop_column(table, "break_glass")
        op.add_column(table, sa.Column("break_glass_id", sa.Uuid(), nullable=True))


def downgrade() -> None:
    for table in TABLES:
        op.drop_column(table, "break_glass_id")
        op.add_column(table, sa.Column("break_glass", sa.Boolean(), server_default="false", nullable=False))
