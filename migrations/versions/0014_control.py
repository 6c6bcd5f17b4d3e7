"""Runs can be paused and resumed, retried, and items say why they wait for another try."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Items first, as workers lock them: the other way round a deploy could meet them in a deadlock.
    op.add_column("operation_run_items", sa.Column("trouble_code", sa.Text(), nullable=True))
    op.add_column("operation_run_items", sa.Column("trouble_message", sa.Text(), nullable=True))
    op.add_column("operation_runs", sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("operation_runs", sa.Column("resumed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("operation_runs", sa.Column("paused_ms", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("operation_runs", sa.Column("asks", JSONB(), server_default="[]", nullable=False))
    op.create_index(
        "ix_operation_runs_retry_of_run_id",
        "operation_runs",
        ["retry_of_run_id", "id"],
        postgresql_where=sa.text("retry_of_run_id IS NOT NULL"),
    )
    op.add_column("preflights", sa.Column("retry_of_run_id", sa.Uuid(), nullable=True))


def downgrade() -> None:
    op.drop_column("preflights", "retry_of_run_id")
    op.drop_column("operation_run_items", "trouble_message")
    op.drop_column("operation_run_items", "trouble_code")
    op.drop_index("ix_operation_runs_retry_of_run_id", table_name="operation_runs")
    op.drop_column("operation_runs", "asks")
    op.drop_column("operation_runs", "paused_ms")
    op.drop_column("operation_runs", "resumed_at")
    op.drop_column("operation_runs", "paused_at")
