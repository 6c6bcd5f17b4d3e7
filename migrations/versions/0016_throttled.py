"""Runs say when the state of the database holds them up, and why."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("operation_runs", sa.Column("throttled_reason", sa.Text(), nullable=True))
    op.add_column("operation_runs", sa.Column("throttled_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("operation_runs", sa.Column("throttled_until", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("operation_runs", "throttled_until")
    op.drop_column("operation_runs", "throttled_at")
    op.drop_column("operation_runs", "throttled_reason")
