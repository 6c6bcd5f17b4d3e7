"""Types of operations that customers see in the admin plane, and the capability each of them asks for."""

from dataclasses import dataclass

from opsplane.auth.roles import TenantCapability
from opsplane.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class OperationType:
    """One type of operation; a member sees its runs with `capability`, besides the right to see any at all."""

    key: str
    label: str
    capability: TenantCapability


UNKNOWN_NEEDS = TenantCapability.OPERATIONS_RESTRICTED  # nobody can tell any more what its runs show

_types: dict[str, OperationType] = {}


def register(operation: OperationType) -> OperationType:
    """Make a type known.

    Raises:
        ConfigurationError: another one has its key.
    """
    if _types.setdefault(operation.key, operation) != operation:
        raise ConfigurationError(f"Two types of operations have the key {operation.key}.")
    return operation


def find(key: str) -> OperationType:
    """The type with this key; one without code has its key as label and asks for the most."""
    return _types.get(key) or OperationType(key=key, label=key, capability=UNKNOWN_NEEDS)


def every() -> list[OperationType]:
    """All types, by label."""
    return sorted(_types.values(), key=lambda operation: operation.label)
