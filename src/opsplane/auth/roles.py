"""What a member of a tenant may do in the admin plane; no role reaches any maintenance action."""

from enum import StrEnum


class TenantCapability(StrEnum):
    """Capabilities of the admin plane; an operation type names the one that its runs need to be seen."""

    FINDINGS_VIEW = "tenant.findings.view"
    OPERATIONS_VIEW = "tenant.operations.view"
    OPERATIONS_RUN = "tenant.operations.run"
    OPERATIONS_RESTRICTED = "tenant.operations.restricted"  # runs that show more than everybody should see: restores
    MEMBERS_MANAGE = "tenant.members.manage"


class Role(StrEnum):
    """A member's role, the strongest first."""

    OWNER = "owner"
    MANAGER = "manager"
    OPERATOR = "operator"
    READONLY = "readonly"

    @property
    def capabilities(self) -> frozenset[str]:
        """What the role may do."""
        return _CAPABILITIES[self]


_READONLY = frozenset({TenantCapability.FINDINGS_VIEW, TenantCapability.OPERATIONS_VIEW})
_OPERATOR = _READONLY | {TenantCapability.OPERATIONS_RUN}
_MANAGER = _OPERATOR | {TenantCapability.OPERATIONS_RESTRICTED}
_CAPABILITIES: dict[Role, frozenset[str]] = {
    Role.OWNER: _MANAGER | {TenantCapability.MEMBERS_MANAGE},
    Role.MANAGER: _MANAGER,
    Role.OPERATOR: _OPERATOR,
    Role.READONLY: _READONLY,
}
