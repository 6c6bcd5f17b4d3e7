"""Events of the outbox are routed to destinations by rules; deliveries and notifications."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
ON = sa.text("true")
NONE = sa.text("'{}'")
STATUSES = "('pending', 'held', 'delivered', 'suppressed', 'dead')"


def upgrade() -> None:
    _outbox()
    op.create_table(
        "alert_destinations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("target", sa.LargeBinary(), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=ON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_destinations")),
        sa.UniqueConstraint("name", name=op.f("uq_alert_destinations_name")),
    )
    op.create_table(
        "alert_rules",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=ON, nullable=False),
        sa.Column("events", ARRAY(sa.Text()), nullable=False),
        sa.Column("min_severity", sa.Text(), nullable=False),
        sa.Column("runbooks", ARRAY(sa.Text()), server_default=NONE, nullable=False),
        sa.Column("scope", sa.Text(), nullable=True),
        sa.Column("tenants", ARRAY(sa.Text()), server_default=NONE, nullable=False),
        sa.Column("destination_ids", ARRAY(sa.Uuid()), server_default=NONE, nullable=False),
        sa.Column("cooldown_s", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("quiet_from", sa.Text(), nullable=True),
        sa.Column("quiet_until", sa.Text(), nullable=True),
        sa.Column("quiet_zone", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_rules")),
        sa.UniqueConstraint("name", name=op.f("uq_alert_rules_name")),
    )
    # Whoever adds a destination expects to hear of failures there without writing a rule first.
    op.execute(
        """
        INSERT INTO alert_rules (id, name, events, min_severity)
        VALUES (gen_random_uuid(), 'Everything that needs somebody', ARRAY['operations.run.failed', 'run.stalled',
            'break_glass.started', 'break_glass.ended', 'audit.degraded'], 'info')
        """
    )
    _deliveries()
    _notifications()


def _outbox() -> None:
    op.add_column("outbox", sa.Column("severity", sa.Text(), server_default="critical", nullable=False))
    op.add_column("outbox", sa.Column("routed_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE outbox SET routed_at = clock_timestamp()")  # nobody wants to hear of last month
    op.drop_index("ix_outbox_unsent", table_name="outbox")
    for column in ("attempts", "last_error", "next_attempt_at", "sent_at"):
        op.drop_column("outbox", column)
    op.create_index("ix_outbox_unrouted", "outbox", ["id"], postgresql_where=sa.text("routed_at IS NULL"))
    op.alter_column("outbox", "created_at", server_default=NOW)


def _deliveries() -> None:
    op.create_table(
        "alert_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("destination_id", sa.Uuid(), nullable=False),
        sa.Column("destination_name", sa.Text(), nullable=False),
        sa.Column("rule_id", sa.Uuid(), nullable=False),
        sa.Column("cooldown_key", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("give_up_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.CheckConstraint(f"status IN {STATUSES}", name=op.f("ck_alert_deliveries_status")),
        sa.ForeignKeyConstraint(
            ["event_id"], ["outbox.id"], name=op.f("fk_alert_deliveries_event_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_deliveries")),
        sa.UniqueConstraint("event_id", "destination_id", name=op.f("uq_alert_deliveries_event_id_destination_id")),
    )  # fmt: skip
    op.create_index(
        "ix_alert_deliveries_due", "alert_deliveries", ["destination_id", "due_at"],
        postgresql_where=sa.text("status IN ('pending', 'held')"),
    )  # fmt: skip
    for columns in (["cooldown_key", "created_at"], ["status", "id"], ["destination_id", "id"]):
        op.create_index(f"ix_alert_deliveries_{'_'.join(columns)}", "alert_deliveries", columns)


def _notifications() -> None:
    op.create_table(
        "notifications",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("payload", JSONB(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["platform_users.id"], name=op.f("fk_notifications_user_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["operation_runs.id"], name=op.f("fk_notifications_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notifications")),
        sa.UniqueConstraint("user_id", "run_id", "kind", name=op.f("uq_notifications_user_id_run_id_kind")),
    )
    op.create_index(
        "ix_notifications_unread", "notifications", ["user_id"], postgresql_where=sa.text("read_at IS NULL")
    )
    op.create_index("ix_notifications_user_id_id", "notifications", ["user_id", "id"])


def downgrade() -> None:
    for table in ("notifications", "alert_deliveries", "alert_rules", "alert_destinations"):
        op.drop_table(table)
    op.alter_column("outbox", "created_at", server_default=sa.text("now()"))
    op.drop_index("ix_outbox_unrouted", table_name="outbox")
    op.add_column("outbox", sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("outbox", sa.Column("last_error", sa.Text(), nullable=True))
    op.add_column(
        "outbox",
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.add_column("outbox", sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_outbox_unsent", "outbox", ["next_attempt_at"], postgresql_where=sa.text("sent_at IS NULL"))
    op.drop_column("outbox", "routed_at")
    op.drop_column("outbox", "severity")
