"""Who does something: a platform user, a token of theirs, somebody at a shell, or the system itself."""

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from opsplane.errors import MissingCapability


class ActorKind(StrEnum):
    """What kind of actor did something."""

    PLATFORM_USER = "platform_user"
    API_TOKEN = "api_token"  # noqa: S105 - a kind of actor, not a secret # nosec B105
    CLI_USER = "cli_user"
    SYSTEM = "system"
    TENANT_USER = "tenant_user"  # signs in to the admin plane; never starts a run
    ANONYMOUS = "anonymous"  # whoever failed to sign in


@dataclass(frozen=True, kw_only=True)
class Actor:
    """An actor with the capabilities it has at this moment; never cached across requests."""

    kind: ActorKind
    display: str
    id: uuid.UUID | None = None
    token_id: uuid.UUID | None = None
    capabilities: frozenset[str] | None = None  # None: all of them, as for somebody who holds the database itself
    break_glass_id: uuid.UUID | None = None

    @property
    def break_glass(self) -> bool:
        """Whether the actor acts in an emergency of theirs."""
        return self.break_glass_id is not None

    @classmethod
    def system(cls, display: str = "system") -> Self:
        """The deploy hook and other acts without a person."""
        return cls(kind=ActorKind.SYSTEM, display=display)

    @classmethod
    def shell(cls, os_user: str) -> Self:
        """Somebody at a shell of a machine that can reach the database."""
        return cls(kind=ActorKind.CLI_USER, display=os_user)

    @property
    def principal(self) -> str:
        """One string per actor: idempotency keys and preflights belong to it."""
        return f"{self.kind}:{self.token_id or self.id or self.display}"

    def require(self, *capabilities: str) -> None:
        """Refuse unless the actor has every one of them (403)."""
        if self.capabilities is None:
            return
        for capability in capabilities:
            if capability not in self.capabilities:
                raise MissingCapability(str(capability))
