"""Rows of operation runs, their items and failures, and the processes that work on them."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Column, ColumnElement, ForeignKey, Index, UniqueConstraint, func, literal
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import UserDefinedType

from opsplane.db import Base, new_id
from opsplane.runs.states import ItemState, Outcome, Status

__all__ = ["OperationRun", "OperationRunFailure", "OperationRunItem", "Process", "is_now"]


class UuidRange(UserDefinedType[str]):
    """Postgres `uuidrange`, made by the first migration; values are range literals such as `(,)`."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """The type's name in DDL."""
        return "uuidrange"


def _one_of(column: str, values: type[Status] | type[Outcome] | type[ItemState]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN {tuple(str(value) for value in values)}", name=column)


class OperationRun(Base):
    """One execution; the row itself is the claim on its scope until its status is `completed`."""

    __tablename__ = "operation_runs"
    __table_args__ = (
        _one_of("status", Status),
        _one_of("outcome", Outcome),
        CheckConstraint("(status = 'completed') = (outcome <> 'pending')", name="outcome_when_completed"),
        Index("ix_operation_runs_type_id", "type", "id"),
        Index("ix_operation_runs_type_outcome_id", "type", "outcome", "id"),
        Index("ix_operation_runs_outcome_id", "outcome", "id"),
        Index("ix_operation_runs_source_id", "source", "id"),
        Index("ix_operation_runs_tenant_id_id", "tenant_id", "id"),
        Index(
            "ix_operation_runs_retry_of_run_id", "retry_of_run_id", "id",
            postgresql_where="retry_of_run_id IS NOT NULL",
        ),
        Index("ix_operation_runs_active", "id", postgresql_where="status <> 'completed'"),
        Index(
            "uq_operation_runs_identity_once",
            "workspace_id", "type", "identity_key",
            unique=True, postgresql_where="identity_mode = 'once'",
        ),
        Index(
            "uq_operation_runs_identity_active",
            "workspace_id", "type", "identity_key",
            unique=True, postgresql_where="identity_mode = 'active' AND status <> 'completed'",
        ),
    )  # fmt: skip

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    workspace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("workspaces.id"))
    type: Mapped[str]
    runbook_version: Mapped[int]
    plane: Mapped[str] = mapped_column(server_default="system")
    status: Mapped[str] = mapped_column(default=Status.QUEUED)
    outcome: Mapped[str] = mapped_column(default=Outcome.PENDING)
    scope_kind: Mapped[str]
    tenant_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("tenants.id"))
    lock_group: Mapped[str]
    tenant_span = Column(UuidRange(), nullable=False)
    identity_mode: Mapped[str | None]
    identity_key: Mapped[str | None]
    source: Mapped[str]
    initiator_kind: Mapped[str]
    initiator_id: Mapped[uuid.UUID | None]
    initiator_display: Mapped[str]
    token_id: Mapped[uuid.UUID | None]
    break_glass_id: Mapped[uuid.UUID | None]
    reason_code: Mapped[str | None]
    reason_text: Mapped[str | None]
    release: Mapped[str | None]
    retry_of_run_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("operation_runs.id"))
    preflight_id: Mapped[uuid.UUID | None]
    preflight_affected_count: Mapped[int | None]
    summary_counts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    context: Mapped[dict[str, Any]] = mapped_column(default=dict)
    failure_code: Mapped[str | None]
    failure_message: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    started_at: Mapped[datetime | None]
    expanded_at: Mapped[datetime | None]
    woken_at: Mapped[datetime | None]
    pause_requested_at: Mapped[datetime | None]  # of releases before `asks`
    cancel_requested_at: Mapped[datetime | None]  # the same
    asks: Mapped[list[dict[str, Any]]] = mapped_column(server_default="[]")  # what, by whom and when, in order
    paused_at: Mapped[datetime | None]
    resumed_at: Mapped[datetime | None]
    paused_ms: Mapped[int] = mapped_column(server_default="0")  # of pauses that are over
    stalled_at: Mapped[datetime | None]
    throttled_reason: Mapped[str | None]  # why the database's state holds it up now
    throttled_at: Mapped[datetime | None]  # since when
    throttled_until: Mapped[datetime | None]  # then it is no longer true, unless said again; or when it ended
    completed_at: Mapped[datetime | None]


class OperationRunItem(Base):
    """One part of a run: one tenant's for a runbook. The unit of work, lease and exact count."""

    __tablename__ = "operation_run_items"
    __table_args__ = (
        _one_of("state", ItemState),
        Index("ix_operation_run_items_pending", "run_id", "ordinal", postgresql_where="state = 'pending'"),
        Index("ix_operation_run_items_leased", "lease_until", postgresql_where="state = 'running'"),
        Index("ix_operation_run_items_run_id_ordinal", "run_id", "ordinal"),
        Index("ix_operation_run_items_failed", "run_id", "ordinal", postgresql_where="state = 'failed'"),
        Index(
            "ix_operation_run_items_finished", "run_id", "finished_at", postgresql_where="finished_at IS NOT NULL"
        ),
        Index(
            "ix_operation_run_items_given_back", "run_id",
            postgresql_where="state = 'pending' AND started_at IS NOT NULL",
        ),
        {"postgresql_with": {"fillfactor": "60"}},
    )  # fmt: skip

    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("operation_runs.id", ondelete="CASCADE"), primary_key=True)
    item_key: Mapped[str] = mapped_column(primary_key=True)
    ordinal: Mapped[int]
    tenant_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("tenants.id"))
    state: Mapped[str] = mapped_column(server_default=ItemState.PENDING)
    lease_token: Mapped[int] = mapped_column(server_default="0")
    lease_until: Mapped[datetime | None]
    leased_by: Mapped[uuid.UUID | None]
    not_before: Mapped[datetime | None]
    cursor: Mapped[dict[str, Any] | None]
    updated_count: Mapped[int] = mapped_column(server_default="0")
    error_count: Mapped[int] = mapped_column(server_default="0")
    passes: Mapped[int] = mapped_column(server_default="0")
    attempts: Mapped[int] = mapped_column(server_default="0")
    lost_count: Mapped[int] = mapped_column(server_default="0")
    trouble_code: Mapped[str | None]  # why it waits for another try
    trouble_message: Mapped[str | None]
    started_at: Mapped[datetime | None]
    progress_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


def is_now(state: ItemState) -> ColumnElement[bool]:
    """Whether an item has this state, as the indexes of one state's rows say it: as a constant, and no parameter."""
    return OperationRunItem.state == literal(str(state), literal_execute=True)


class OperationRunFailure(Base):
    """Why one item failed."""

    __tablename__ = "operation_run_failures"
    __table_args__ = (
        UniqueConstraint("run_id", "item_key", "code"),
        Index("ix_operation_run_failures_run_id_id", "run_id", "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("operation_runs.id", ondelete="CASCADE"))
    item_key: Mapped[str]
    tenant_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("tenants.id"))
    code: Mapped[str]
    message: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Process(Base):
    """A worker or API process, known by its heartbeat; `runbooks` are the keys and versions it has code for."""

    __tablename__ = "processes"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    kind: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    version: Mapped[str]
    slots: Mapped[int]
    runbooks: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    started_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
