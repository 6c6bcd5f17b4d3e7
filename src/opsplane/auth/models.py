"""Rows of platform users, their capabilities and their API tokens."""

import uuid
from datetime import datetime

from sqlalchemy import ARRAY, ForeignKey, LargeBinary, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from opsplane.db import Base, new_id


class PlatformUser(Base):
    """A person of the company who operates the system plane."""

    __tablename__ = "platform_users"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    disabled_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class PlatformUserCapability(Base):
    """One capability of one platform user."""

    __tablename__ = "platform_user_capabilities"

    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("platform_users.id", ondelete="CASCADE"), primary_key=True)
    capability: Mapped[str] = mapped_column(primary_key=True)
    granted_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiToken(Base):
    """A token for automation: only the SHA-256 of its secret is kept."""

    __tablename__ = "api_tokens"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    owner_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("platform_users.id", ondelete="CASCADE"))
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary)
    capabilities: Mapped[list[str]] = mapped_column(ARRAY(Text))
    expires_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
