"""What a door brings along and asks for, and what it gets back."""

import uuid
from dataclasses import dataclass
from enum import StrEnum

from opsplane.config import Settings
from opsplane.db import Database
from opsplane.queue import Queue
from opsplane.runs.schemas import RunOut


class Source(StrEnum):
    """The door a run came through."""

    SYSTEM_UI = "system_ui"
    API = "api"
    CLI = "cli"
    DEPLOY_HOOK = "deploy_hook"


@dataclass(frozen=True)
class Plane:
    """What every door brings along: database, doorbell and settings."""

    db: Database
    queue: Queue
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class StartOrder:
    """What somebody asks to start; `tenant` is an id or external id, None for all tenants."""

    runbook: str
    tenant: str | None
    source: Source
    retry_of: uuid.UUID | None = None  # only the tenants that failed in this run
    reason: tuple[str, str] | None = None
    confirmation: str | None = None
    preflight_id: uuid.UUID | None = None
    force: bool = False
    release: str | None = None
    identity_key: str | None = None  # at most one run ever has it


@dataclass(frozen=True)
class Started:
    """A run and whether it was there already, because the request was a repeat."""

    run: RunOut
    replayed: bool
