"""Tenant users: who sees what of which tenant in the admin plane, and how they come to it."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from sqlalchemy import ColumnElement, Row, Select, and_, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.auth import sessions, users
from opsplane.auth.models import AdminSession, Membership, TenantUser
from opsplane.auth.roles import Role, TenantCapability
from opsplane.errors import Conflict, InvalidInput, NotFound, OpsplaneError
from opsplane.tenants.models import PLATFORM_TENANT, Tenant


class NothingHere(NotFound):
    """The 404 of a path that is not there: nobody learns that a tenant, finding or run of others exists."""

    def __init__(self) -> None:
        super().__init__("There is nothing here.")


class RoleTooWeak(OpsplaneError):
    """The member is known here, and their role lacks a capability."""

    status, code = HTTPStatus.FORBIDDEN, "missing_capability"

    def __init__(self, capability: TenantCapability) -> None:
        super().__init__(
            f"Your role lacks the capability {str(capability)!r}; ask an owner of the tenant for another role.",
            capability=str(capability),
        )


@dataclass(frozen=True, kw_only=True)
class Member:
    """A tenant user with the roles they have at this moment; never an actor, never cached across requests."""

    id: uuid.UUID
    email: str
    name: str
    roles: Mapping[uuid.UUID, Role]  # by tenant
    workspace_roles: Mapping[uuid.UUID, Role]  # by workspace, for every tenant in it

    def role_in(self, tenant: Tenant) -> Role | None:
        """The stronger of the roles in the tenant and in its workspace; none in the platform itself."""
        if tenant.external_id == PLATFORM_TENANT:
            return None
        held = {self.roles.get(tenant.id), self.workspace_roles.get(tenant.workspace_id)}
        return next((role for role in Role if role in held), None)

    def require(self, capability: TenantCapability, tenant: Tenant) -> None:
        """Refuse unless the member has the capability in this tenant.

        Raises:
            NothingHere: they are no member of it (404).
            RoleTooWeak: 403.
        """
        require(self.role_in(tenant), capability)

    def require_anywhere(self, capability: TenantCapability) -> None:
        """Refuse unless the member has the capability in some tenant.

        Raises:
            NothingHere: they are a member of nothing (404).
            RoleTooWeak: 403.
        """
        held = {*self.roles.values(), *self.workspace_roles.values()}
        if not held:
            raise NothingHere
        if not any(capability in role.capabilities for role in held):
            raise RoleTooWeak(capability)

    def tenants_with(self, *capabilities: TenantCapability) -> ColumnElement[bool]:
        """The condition on `Tenant` that picks those in which the member has all of these capabilities."""
        tenants = [tenant for tenant, role in self.roles.items() if role.capabilities.issuperset(capabilities)]
        return and_(
            Tenant.external_id != PLATFORM_TENANT,
            or_(Tenant.id.in_(tenants), Tenant.workspace_id.in_(self.workspaces_with(*capabilities))),
        )

    def workspaces_with(self, *capabilities: TenantCapability) -> list[uuid.UUID]:
        """The workspaces in all of whose tenants the member has these capabilities."""
        held = self.workspace_roles.items()
        return [workspace for workspace, role in held if role.capabilities.issuperset(capabilities)]


def require(role: Role | None, *capabilities: TenantCapability) -> None:
    """Refuse unless this role, or no role at all, may do all of that.

    Raises:
        NothingHere: there is no role (404).
        RoleTooWeak: 403, naming the first capability that is missing.
    """
    if role is None:
        raise NothingHere
    for capability in capabilities:
        if capability not in role.capabilities:
            raise RoleTooWeak(capability)


async def load(session: AsyncSession, user_id: uuid.UUID) -> Member | None:
    """The tenant user as a member with their roles of now; none if they are disabled or gone."""
    user = await session.scalar(select(TenantUser).where(TenantUser.id == user_id, TenantUser.disabled_at.is_(None)))
    if user is None:
        return None
    held = (await session.scalars(_memberships().where(Membership.user_id == user_id))).all()
    return Member(
        id=user.id,
        email=user.email,
        name=user.name,
        roles={row.tenant_id: Role(row.role) for row in held if row.tenant_id is not None},
        workspace_roles={row.workspace_id: Role(row.role) for row in held if row.tenant_id is None},
    )


async def pick(session: AsyncSession, who: Member, tenant: str, capability: TenantCapability) -> Tenant:
    """The tenant with this id or external id, in which the member has the capability.

    Raises:
        NothingHere: it is unknown, or they are no member of it; the two look alike (404).
        RoleTooWeak: 403.
    """
    matches = Tenant.external_id == tenant
    if (as_id := _as_uuid(tenant)) is not None:
        matches = or_(matches, Tenant.id == as_id)
    found = await session.scalar(select(Tenant).where(who.tenants_with(), matches).order_by(Tenant.id).limit(1))
    if found is None:
        raise NothingHere
    who.require(capability, found)
    return found


async def create(session: AsyncSession, email: str, *, name: str | None = None) -> TenantUser:
    """Add a tenant user without any membership.

    Raises:
        InvalidInput: this is no e-mail address.
        Conflict: somebody has it.
    """
    email = users.parse_email(email)
    inserted: TenantUser | None = await session.scalar(
        insert(TenantUser)
        .values(email=email, name=name or email.split("@")[0])
        .on_conflict_do_nothing(index_elements=["email"])
        .returning(TenantUser)
    )
    if inserted is None:
        raise Conflict(f"There is a tenant user {email} already.")
    return inserted


async def find(session: AsyncSession, email: str) -> TenantUser:
    """The tenant user with this address.

    Raises:
        NotFound: there is none.
    """
    email = users.normalise(email)
    user = await session.scalar(select(TenantUser).where(TenantUser.email == email))
    if user is None:
        raise NotFound(f"There is no tenant user {email}; add one: opsplane members create EMAIL.")
    return user


async def disable(session: AsyncSession, user: TenantUser) -> None:
    """Shut a tenant user out from their next request on; their memberships stay on record."""
    if user.disabled_at is None:
        user.disabled_at = await session.scalar(select(func.now()))
    await sessions.end_all(session, AdminSession, user.id)


async def set_password(session: AsyncSession, user: TenantUser, password_hash: str) -> None:
    """Keep a new password; every session of the user ends."""
    user.password_hash = password_hash
    await session.flush()
    await sessions.end_all(session, AdminSession, user.id)


async def grant(
    session: AsyncSession, user: TenantUser, role: Role, *, workspace_id: uuid.UUID, tenant: Tenant | None
) -> None:
    """Give a role in one tenant, or in every tenant of the workspace, in place of the one held there.

    Raises:
        InvalidInput: the tenant is the platform itself.
    """
    if tenant is not None and tenant.external_id == PLATFORM_TENANT:
        raise InvalidInput("Nobody is a member of the platform itself; pick a tenant from `opsplane tenants list`.")
    whole = tenant is None
    await session.execute(
        insert(Membership)
        .values(user_id=user.id, workspace_id=workspace_id, tenant_id=tenant and tenant.id, role=role)
        .on_conflict_do_update(
            index_elements=["user_id", "workspace_id" if whole else "tenant_id"],
            index_where=Membership.tenant_id.is_(None) if whole else Membership.tenant_id.is_not(None),
            set_={"role": role},
        )
    )


async def remove(session: AsyncSession, user: TenantUser, *, workspace_id: uuid.UUID, tenant: Tenant | None) -> Role:
    """Take a membership back, effective on the next request; returns the role it had.

    Raises:
        NotFound: there is no such membership.
    """
    role = await session.scalar(
        delete(Membership)
        .where(
            Membership.user_id == user.id,
            Membership.workspace_id == workspace_id,
            Membership.tenant_id.is_not_distinct_from(tenant and tenant.id),
        )
        .returning(Membership.role)
    )
    if role is None:
        where = f"the tenant {tenant.external_id}" if tenant else "the workspace as a whole"
        raise NotFound(f"{user.email} is no member of {where}; see opsplane members list.")
    return Role(role)


async def listing(
    session: AsyncSession, *, workspace_id: uuid.UUID, tenant: Tenant | None
) -> Sequence[Row[TenantUser, str | None, str | None]]:
    """Tenant users by address, each once for every membership, as (user, external id or none, role or none).

    With a tenant: only those who see it, through a membership of its own or of its workspace.
    """
    rows = (
        select(TenantUser, Tenant.external_id, Membership.role)
        .outerjoin(Membership, and_(Membership.user_id == TenantUser.id, Membership.workspace_id == workspace_id))
        .outerjoin(Tenant, Tenant.id == Membership.tenant_id)
        .order_by(TenantUser.email, Tenant.external_id.nulls_first())
    )
    if tenant is not None:
        rows = rows.where(
            Membership.role.is_not(None), or_(Membership.tenant_id.is_(None), Membership.tenant_id == tenant.id)
        )
    return (await session.execute(rows)).all()


def _memberships() -> Select[Membership]:
    """Memberships that show something: one in the platform itself, however it came there, does not."""
    return (
        select(Membership)
        .outerjoin(Tenant, Tenant.id == Membership.tenant_id)
        .where(or_(Membership.tenant_id.is_(None), Tenant.external_id != PLATFORM_TENANT))
    )


def _as_uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
