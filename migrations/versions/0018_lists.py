"""Indexes for lists of a million runs, runs of a hundred thousand tenants, and the sweep over them."""

from alembic import op
from sqlalchemy import text

revision = "0018"
down_revision = "0017"

# Items first, as workers lock them: the other way round a deploy could meet them in a deadlock.
INDEXES = (
    ("ix_operation_run_items_run_id_ordinal", "operation_run_items", ["run_id", "ordinal"], None),
    ("ix_operation_run_items_failed", "operation_run_items", ["run_id", "ordinal"], "state = 'failed'"),
    ("ix_operation_run_items_finished", "operation_run_items", ["run_id", "finished_at"], "finished_at IS NOT NULL"),
    (
        "ix_operation_run_items_given_back",
        "operation_run_items",
        ["run_id"],
        "state = 'pending' AND started_at IS NOT NULL",
    ),
    ("ix_operation_run_failures_run_id_id", "operation_run_failures", ["run_id", "id"], None),
    ("ix_operation_runs_outcome_id", "operation_runs", ["outcome", "id"], None),
    ("ix_operation_runs_source_id", "operation_runs", ["source", "id"], None),
    ("ix_operation_runs_type_outcome_id", "operation_runs", ["type", "outcome", "id"], None),
    ("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], None),
    (
        "ix_audit_events_tenant_id_occurred_at",
        "audit_events",
        ["tenant_id", "occurred_at", "id"],
        "tenant_id IS NOT NULL",
    ),
    ("ix_audit_events_break_glass", "audit_events", ["occurred_at", "id"], "break_glass_id IS NOT NULL"),
)


def upgrade() -> None:
    for name, table, columns, only in INDEXES:
        op.create_index(name, table, columns, postgresql_where=None if only is None else text(only))


def downgrade() -> None:
    for name, table, *_ in reversed(INDEXES):
        op.drop_index(name, table)
