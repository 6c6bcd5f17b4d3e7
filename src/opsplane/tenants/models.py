"""Rows of workspaces and tenants."""

import uuid
from datetime import datetime

from sqlalchemy import ForeignKey, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from opsplane.db import Base, new_id

DEFAULT_WORKSPACE = "default"
PLATFORM_TENANT = "platform"


class Workspace(Base):
    """One company's installation; `default` is made by the first migration."""

    __tablename__ = "workspaces"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Tenant(Base):
    """One customer; the tenant `platform` is the company itself and no runbook ever touches it."""

    __tablename__ = "tenants"
    __table_args__ = (UniqueConstraint("workspace_id", "external_id"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    workspace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("workspaces.id"))
    external_id: Mapped[str]
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
