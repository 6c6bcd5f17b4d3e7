"""Rows of accounts: platform users with capabilities and tokens, tenant users with memberships, sessions of both."""

import uuid
from datetime import datetime

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, LargeBinary, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from opsplane.auth.roles import Role
from opsplane.db import Base, new_id


class PlatformUser(Base):
    """A person of the company who operates the system plane."""

    __tablename__ = "platform_users"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    password_hash: Mapped[str | None]
    totp_secret: Mapped[bytes | None] = mapped_column(LargeBinary)  # encrypted; enrolled once it is confirmed
    totp_confirmed_at: Mapped[datetime | None]
    totp_last_step: Mapped[int | None]  # the newest 30 s step whose code was accepted: a code works once
    disabled_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class RecoveryCode(Base):
    """One of the codes that stand in for a lost authenticator, each for one login."""

    __tablename__ = "recovery_codes"

    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("platform_users.id", ondelete="CASCADE"), primary_key=True)
    code_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    used_at: Mapped[datetime | None]


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


class TenantUser(Base):
    """A person of a customer, who sees the admin plane of the tenants they are a member of."""

    __tablename__ = "tenant_users"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    password_hash: Mapped[str | None]
    disabled_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Membership(Base):
    """A tenant user's role in one tenant or, without a tenant, in every tenant of a workspace."""

    __tablename__ = "memberships"
    __table_args__ = (
        CheckConstraint(f"role IN {tuple(str(role) for role in Role)}", name="role"),
        Index(
            "uq_memberships_user_id_tenant_id",
            "user_id",
            "tenant_id",
            unique=True,
            postgresql_where="tenant_id IS NOT NULL",
        ),
        Index(
            "uq_memberships_user_id_workspace_id",
            "user_id",
            "workspace_id",
            unique=True,
            postgresql_where="tenant_id IS NULL",
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tenant_users.id", ondelete="CASCADE"))
    workspace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("workspaces.id"))
    tenant_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("tenants.id"))
    role: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class SessionColumns:
    """What a session of either plane has; only the SHA-256 of its secret is kept."""

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    expires_at: Mapped[datetime]  # however busy it is
    revoked_at: Mapped[datetime | None]
    client_address: Mapped[str]
    user_agent: Mapped[str]


class SystemSession(SessionColumns, Base):
    """A platform user's session in the system plane; a table of its own, so that planes cannot be confused."""

    __tablename__ = "system_sessions"
    __table_args__ = (Index("ix_system_sessions_user_id", "user_id"),)

    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("platform_users.id", ondelete="CASCADE"))
    second_factor: Mapped[bool] = mapped_column(server_default="false")  # whether it began with a one-time code


class AdminSession(SessionColumns, Base):
    """A tenant user's session in the admin plane."""

    __tablename__ = "admin_sessions"
    __table_args__ = (Index("ix_admin_sessions_user_id", "user_id"),)

    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tenant_users.id", ondelete="CASCADE"))


class BreakGlass(Base):
    """One time-boxed emergency of one session; it is over at `ends_at` by the database's clock, marked or not."""

    __tablename__ = "break_glass"
    __table_args__ = (
        Index("uq_break_glass_session_id_open", "session_id", unique=True, postgresql_where="ended_at IS NULL"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    session_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("system_sessions.id", ondelete="CASCADE"))
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("platform_users.id", ondelete="CASCADE"))
    reason: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    ends_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
