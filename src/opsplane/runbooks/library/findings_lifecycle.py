"""Rebuild Findings Lifecycle: fill what findings older than the lifecycle lack."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_
from sqlalchemy.orm import InstrumentedAttribute

from opsplane.auth.capabilities import Capability
from opsplane.findings.models import SLA_DAYS, Finding
from opsplane.runbooks.base import RepairRunbook
from opsplane.runbooks.registry import register

OPEN = ("new", "triaged", "in_progress", "reopened")

status = case((Finding.status == "acknowledged", "triaged"), else_=Finding.status)
first_seen_at = func.coalesce(Finding.first_seen_at, Finding.created_at)
changed_at = func.coalesce(Finding.updated_at, Finding.created_at)
sla_days = func.coalesce(Finding.sla_days, case(SLA_DAYS, value=Finding.severity))
is_open = status.in_(OPEN)


def when(condition: ColumnElement[bool], value: ColumnElement[Any], otherwise: Any) -> ColumnElement[Any]:
    """`value` for the rows in question, what they have for all others."""
    return case((condition, func.coalesce(otherwise, value)), else_=otherwise)


@register
class RebuildFindingsLifecycle(RepairRunbook):
    """Findings written before the lifecycle existed get their times, counts and deadlines."""

    key, version, title = "findings.lifecycle.backfill", 1, "Rebuild Findings Lifecycle"
    description = "Fills lifecycle fields of findings written before the lifecycle existed."
    capability = Capability.RUNBOOKS_FINDINGS_LIFECYCLE_BACKFILL
    confirmation_phrase, on_deploy = "BACKFILL", True
    table = Finding

    def wrong(self) -> ColumnElement[bool]:
        """Any one of the rules of the lifecycle is broken."""
        return or_(
            Finding.status == "acknowledged",
            Finding.first_seen_at.is_(None),
            Finding.last_seen_at.is_(None),
            Finding.times_seen.is_(None),
            Finding.times_seen < 1,
            and_(is_open, or_(Finding.sla_days.is_(None), Finding.due_at.is_(None))),
            and_(status.in_(["triaged", "in_progress"]), Finding.triaged_at.is_(None)),
            and_(Finding.status == "resolved", Finding.resolved_at.is_(None)),
            and_(Finding.status == "closed", Finding.closed_at.is_(None)),
        )

    def right(self) -> Mapping[InstrumentedAttribute[Any], Any]:
        """Each field keeps what it has and is filled only where its rule is broken."""
        return {
            Finding.status: status,
            Finding.first_seen_at: first_seen_at,
            Finding.last_seen_at: func.coalesce(Finding.last_seen_at, func.greatest(changed_at, first_seen_at)),
            Finding.times_seen: func.greatest(Finding.times_seen, 1),
            Finding.sla_days: when(is_open, sla_days, Finding.sla_days),
            Finding.due_at: when(is_open, first_seen_at + sla_days * timedelta(days=1), Finding.due_at),
            Finding.triaged_at: when(status.in_(["triaged", "in_progress"]), changed_at, Finding.triaged_at),
            Finding.resolved_at: when(Finding.status == "resolved", changed_at, Finding.resolved_at),
            Finding.closed_at: when(Finding.status == "closed", changed_at, Finding.closed_at),
        }
