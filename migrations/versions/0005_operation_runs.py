"""Operation runs, their items and failures, and the processes that work on them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "operation_runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("runbook_version", sa.BigInteger(), nullable=False),
        sa.Column("plane", sa.Text(), server_default="system", nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("scope_kind", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=True),
        sa.Column("lock_group", sa.Text(), nullable=False),
        sa.Column("identity_mode", sa.Text(), nullable=True),
        sa.Column("identity_key", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("initiator_kind", sa.Text(), nullable=False),
        sa.Column("initiator_id", sa.Uuid(), nullable=True),
        sa.Column("initiator_display", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=True),
        sa.Column("break_glass", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("reason_code", sa.Text(), nullable=True),
        sa.Column("reason_text", sa.Text(), nullable=True),
        sa.Column("release", sa.Text(), nullable=True),
        sa.Column("retry_of_run_id", sa.Uuid(), nullable=True),
        sa.Column("preflight_id", sa.Uuid(), nullable=True),
        sa.Column("preflight_affected_count", sa.BigInteger(), nullable=True),
        sa.Column("summary_counts", postgresql.JSONB(none_as_null=True), nullable=False),
        sa.Column("context", postgresql.JSONB(none_as_null=True), nullable=False),
        sa.Column("failure_code", sa.Text(), nullable=True),
        sa.Column("failure_message", sa.Text(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expanded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("woken_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pause_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stalled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status = 'completed') = (outcome <> 'pending')", name=op.f("ck_operation_runs_outcome_when_completed")
        ),
        sa.CheckConstraint(
            "outcome IN ('pending', 'succeeded', 'partially_succeeded', 'failed', 'cancelled')",
            name=op.f("ck_operation_runs_outcome"),
        ),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'pausing', 'paused', 'cancelling', 'completed')",
            name=op.f("ck_operation_runs_status"),
        ),
        sa.ForeignKeyConstraint(
            ["retry_of_run_id"], ["operation_runs.id"], name=op.f("fk_operation_runs_retry_of_run_id")
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_operation_runs_tenant_id")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_operation_runs_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operation_runs")),
    )
    op.create_index(
        "ix_operation_runs_active",
        "operation_runs",
        ["id"],
        unique=False,
        postgresql_where=sa.text("status <> 'completed'"),
    )
    op.create_index("ix_operation_runs_tenant_id_id", "operation_runs", ["tenant_id", "id"], unique=False)
    op.create_index("ix_operation_runs_type_id", "operation_runs", ["type", "id"], unique=False)
    op.create_index(
        "uq_operation_runs_identity_active",
        "operation_runs",
        ["workspace_id", "type", "identity_key"],
        unique=True,
        postgresql_where=sa.text("identity_mode = 'active' AND status <> 'completed'"),
    )
    op.create_index(
        "uq_operation_runs_identity_once",
        "operation_runs",
        ["workspace_id", "type", "identity_key"],
        unique=True,
        postgresql_where=sa.text("identity_mode = 'once'"),
    )
    op.create_table(
        "operation_run_items",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("item_key", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=True),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("lease_token", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("leased_by", sa.Uuid(), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cursor", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("updated_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("error_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("passes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lost_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("progress_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'succeeded', 'failed', 'skipped', 'cancelled')",
            name=op.f("ck_operation_run_items_state"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["operation_runs.id"], name=op.f("fk_operation_run_items_run_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_operation_run_items_tenant_id")),
        sa.PrimaryKeyConstraint("run_id", "item_key", name=op.f("pk_operation_run_items")),
        postgresql_with={"fillfactor": "60"},
    )
    op.create_index(
        "ix_operation_run_items_leased",
        "operation_run_items",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_operation_run_items_pending",
        "operation_run_items",
        ["run_id", "ordinal"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "operation_run_failures",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("item_key", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=True),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["operation_runs.id"], name=op.f("fk_operation_run_failures_run_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_operation_run_failures_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operation_run_failures")),
        sa.UniqueConstraint("run_id", "item_key", "code", name=op.f("uq_operation_run_failures_run_id_item_key_code")),
    )
    op.create_table(
        "processes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("slots", sa.BigInteger(), nullable=False),
        sa.Column("runbooks", postgresql.JSONB(none_as_null=True), server_default="{}", nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_processes")),
    )
    op.execute("ALTER TABLE operation_runs ADD COLUMN tenant_span uuidrange NOT NULL")


def downgrade() -> None:
    op.drop_table("processes")
    op.drop_table("operation_run_failures")
    op.drop_table("operation_run_items")
    op.drop_table("operation_runs")
