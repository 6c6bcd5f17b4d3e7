"""Settings from the environment (`OPSPLANE_*`), checked at start-up."""

import difflib
import os
import re
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from opsplane import mailing
from opsplane.errors import ConfigurationError

PREFIX = "OPSPLANE_"
_HOST_NAME = re.compile(r"([a-z0-9_-]{1,63}\.)*[a-z0-9_-]*[a-z_-][a-z0-9_-]*", re.IGNORECASE | re.ASCII)


class Environment(StrEnum):
    """Where this process runs; production refuses what is only convenient."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


class LogFormat(StrEnum):
    """`auto` is coloured lines on a terminal and JSON everywhere else."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class Pooler(StrEnum):
    """What stands between opsplane and PostgreSQL; poolers in session mode count as none."""

    NONE = "none"
    TRANSACTION = "transaction"


class Settings(BaseSettings):
    """Every setting with its default; the field name in capitals after `OPSPLANE_` is the variable."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    database_url: str | None = Field(
        None, repr=False, description="PostgreSQL to use, `postgresql://…`; unset = embedded."
    )
    database_pooler: Pooler = Field(
        Pooler.NONE,
        description="`transaction` if `OPSPLANE_DATABASE_URL` leads through a pooler in transaction mode, else `none`.",
    )
    redis_url: str | None = Field(
        None, repr=False, description="Redis or Valkey to use, `redis://…` or `unix://…`; unset = embedded."
    )
    home: Path = Field(Path(".opsplane"), description="Folder of the embedded servers' data and logs.")
    env: Environment = Field(Environment.DEVELOPMENT, description="`development` or `production`.")
    secret_key: SecretStr | None = Field(
        None,
        description="At least 32 characters, from which every key is derived; required in production, "
        "else one is made and kept under `OPSPLANE_HOME`.",
    )
    base_url: str = Field(
        "http://localhost:8000", description="Address at which operators reach opsplane; links start with it."
    )
    audit_key: SecretStr | None = Field(
        None,
        description="At least 32 characters, for the audit alone; unset = `OPSPLANE_SECRET_KEY`. "
        "Set it to the old one before you change that.",
    )
    trusted_proxies: str | None = Field(
        None, description="Addresses or networks of proxies, comma-separated, whose `X-Forwarded-For` is believed."
    )
    allow_admin_maintenance_actions: bool = Field(
        False, description="Hint at runbooks in `/admin/findings`; refused in production."
    )
    system_idle_s: int = Field(900, ge=60, le=86_400, description="Seconds an operator's session survives unused.")
    system_session_s: int = Field(43_200, ge=60, le=604_800, description="Seconds an operator's session may last.")
    admin_idle_s: int = Field(3600, ge=60, le=86_400, description="Seconds a tenant user's session survives unused.")
    admin_session_s: int = Field(86_400, ge=60, le=604_800, description="Seconds a tenant user's session may last.")
    requests_per_minute: int = Field(
        1200, ge=10, le=1_000_000, description="Requests a client address may make per plane and process."
    )
    max_body_bytes: int = Field(262_144, ge=1024, le=10_485_760, description="Largest request body.")
    audit_spool: Path | None = Field(
        None, description="Folder for audit events the database refused; unset = `audit` under `OPSPLANE_HOME`."
    )
    alert_private_hosts: str | None = Field(
        None,
        description="Host names, addresses or networks, comma-separated, that alerts may reach "
        "though they are not public.",
    )
    smtp_url: str | None = Field(
        None,
        repr=False,
        description="Server for alerts by mail: `smtps://user:password@host`, `smtp://…` (with STARTTLS) "
        "or `smtp+plain://…` (unencrypted).",
    )
    mail_from: str | None = Field(
        None, description="Address that alerts by mail come from; required with `OPSPLANE_SMTP_URL`."
    )
    runbooks_dir: Path | None = Field(None, description="Folder whose `*.py` files are loaded as runbooks.")
    log_level: str = Field("INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`.")
    log_format: LogFormat = Field(LogFormat.AUTO, description="`auto`, `console` or `json`.")
    pool_size: int = Field(10, ge=2, le=200, description="Database connections a process may hold.")
    worker_concurrency: int = Field(1, ge=1, le=64, description="Database connections on which a worker repairs.")
    lease_s: float = Field(
        20, ge=1, le=600, description="Seconds a worker may stay silent before its tenant is given to another."
    )
    sweep_s: float = Field(5, ge=0.1, le=60, description="Seconds between two sweeps, ± 20 %.")
    chunk_target_ms: int = Field(100, ge=10, le=2000, description="Time one chunk should take; its size follows.")
    chunk_min_rows: int = Field(500, ge=1, le=100_000, description="Smallest chunk.")
    chunk_max_rows: int = Field(10_000, ge=1, le=100_000, description="Largest chunk.")
    chunk_timeout_s: int = Field(
        15, ge=1, le=600, description="Seconds a statement of a worker may take; then it is tried smaller."
    )
    preflight_ttl_s: int = Field(900, ge=10, le=86_400, description="Seconds a preflight may be started from.")
    preflight_exact_ms: int = Field(
        2000, ge=0, le=600_000, description="Milliseconds a preflight may count; it estimates what would take longer."
    )
    preflight_timeout_s: int = Field(30, ge=1, le=600, description="Seconds a preflight's count may take.")
    stale_queued_s: int = Field(
        300, ge=5, le=86_400, description="Seconds a run may wait with no worker alive before it fails."
    )
    throttle: bool = Field(True, description="Whether runs slow down and wait while the database has trouble.")
    throttle_replica_lag_s: float = Field(
        10, ge=0, le=86_400, description="Seconds a streaming replica may be behind; 0 = no limit."
    )
    throttle_ignored_replicas: str | None = Field(
        None, description="`application_name`s, comma-separated, of replicas whose lag is nobody's trouble."
    )
    throttle_lock_wait_s: float = Field(
        2, ge=0, le=600, description="Seconds a session of others may wait for a lock of opsplane's; 0 = no limit."
    )
    throttle_wal_mb_s: float = Field(
        0, ge=0, le=1_000_000, description="Megabytes of WAL the database may write a second; 0 = no limit."
    )
    throttle_active_connections: int = Field(
        0, ge=0, le=1_000_000, description="Sessions of others that may execute something at once; 0 = no limit."
    )
    throttle_connections_percent: int = Field(
        80, ge=0, le=100, description="Percent of `max_connections` that may be in use; 0 = no limit."
    )
    throttle_vacuum: bool = Field(True, description="Whether runs slow down while their table is being vacuumed.")

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("postgresql://", "postgres://", "postgresql+asyncpg://")):
            raise ValueError("must start with postgresql://")
        return None if url is None else "postgresql://" + _checked(url).split("://", 1)[1]

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return None if url is None else _checked(url)

    @field_validator("base_url")
    @classmethod
    def _base_url(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return url.rstrip("/")

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, proxies: str | None) -> str | None:
        for proxy in (proxies or "").split(","):
            if proxy.strip() not in {"", "*"}:
                ip_network(proxy.strip())
        return proxies

    @field_validator("alert_private_hosts")
    @classmethod
    def _private_hosts(cls, hosts: str | None) -> str | None:
        for host in _listed(hosts):
            if _HOST_NAME.fullmatch(host) is None:
                _network(host)
        return hosts

    @field_validator("smtp_url")
    @classmethod
    def _smtp(cls, url: str | None) -> str | None:
        if url is not None:
            mailing.server(url)
        return url

    @field_validator("mail_from")
    @classmethod
    def _mail_from(cls, address: str | None) -> str | None:
        if address is not None and mailing.ADDRESS.fullmatch(address) is None:
            raise ValueError("must be a plain address, like alerts@example.com")
        return address

    @field_validator("audit_key")
    @classmethod
    def _audit_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key.get_secret_value()) < 32:
            raise ValueError("must have at least 32 characters")
        return key

    @field_validator("log_level")
    @classmethod
    def _log_level(cls, level: str) -> str:
        if level.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return level.upper()

    @model_validator(mode="after")
    def _chunks(self) -> Self:
        if self.chunk_min_rows > self.chunk_max_rows:
            raise ValueError("OPSPLANE_CHUNK_MIN_ROWS is larger than OPSPLANE_CHUNK_MAX_ROWS")
        return self

    @model_validator(mode="after")
    def _connections(self) -> Self:
        if self.worker_concurrency >= self.pool_size:
            raise ValueError("OPSPLANE_POOL_SIZE must be larger than OPSPLANE_WORKER_CONCURRENCY")
        return self

    @model_validator(mode="after")
    def _mail(self) -> Self:
        if self.smtp_url is not None and self.mail_from is None:
            raise ValueError("OPSPLANE_SMTP_URL needs OPSPLANE_MAIL_FROM, the address that mail comes from")
        return self

    @model_validator(mode="after")
    def _production(self) -> Self:
        if self.env is not Environment.PRODUCTION:
            return self
        if self.database_url is None or self.redis_url is None:
            raise ValueError("production refuses embedded servers; set OPSPLANE_DATABASE_URL and OPSPLANE_REDIS_URL")
        if self.secret_key is None or len(self.secret_key.get_secret_value()) < 32:
            raise ValueError("production needs OPSPLANE_SECRET_KEY with at least 32 characters")
        if not self.base_url.startswith("https://"):
            raise ValueError("production needs an https:// OPSPLANE_BASE_URL, or cookies would travel in the clear")
        if any(proxy == "*" or proxy.endswith("/0") for proxy in self.proxies):
            raise ValueError("production refuses OPSPLANE_TRUSTED_PROXIES=*, anybody could forge an address; list them")
        if self.allow_admin_maintenance_actions:
            raise ValueError("production refuses OPSPLANE_ALLOW_ADMIN_MAINTENANCE_ACTIONS; customers see no repairs")
        return self

    @property
    def proxies(self) -> list[str]:
        """Addresses and networks of trusted proxies."""
        return _listed(self.trusted_proxies)

    @property
    def private_hosts(self) -> list[str]:
        """Names, addresses and networks that alerts may reach though they are not public."""
        return _listed(self.alert_private_hosts)

    @property
    def ignored_replicas(self) -> list[str]:
        """Names of replicas that may be behind as far as they like."""
        return _listed(self.throttle_ignored_replicas)

    @property
    def mail_server(self) -> mailing.Server | None:
        """Where mail is handed in."""
        return None if self.smtp_url is None else mailing.server(self.smtp_url)

    @property
    def second_factor_required(self) -> bool:
        """Whether operators must log in with a one-time code."""
        return self.env is Environment.PRODUCTION

    @property
    def sqlalchemy_url(self) -> str:
        """The database's address for SQLAlchemy's asyncpg dialect; set only once a server is known."""
        assert self.database_url is not None, "no server is known yet"
        url = "postgresql+asyncpg://" + self.database_url.split("://", 1)[1]
        return re.sub(r"([?&])sslmode=", r"\1ssl=", url)  # libpq's name for what asyncpg calls ssl


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read and check the environment.

    Raises:
        ConfigurationError: one line naming the variable that is wrong or misspelt.
    """
    _refuse_misspelt(environ)
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigurationError(_first_line(error)) from None


def _network(written: str) -> None:
    try:
        ip_network(written)
    except ValueError as error:
        raise ValueError(f"{error}; write a host name, an address or a network") from None


def _listed(commas: str | None) -> list[str]:
    return [entry.strip() for entry in (commas or "").split(",") if entry.strip()]


def _checked(url: str) -> str:
    try:
        urlsplit(url).port  # noqa: B018 - reading it is the check
    except ValueError:  # its words repeat a part of the URL: with a bare / in a password, the password
        raise ValueError("is not an address; percent-encode special characters in user and password") from None
    return url


def _refuse_misspelt(environ: Mapping[str, str]) -> None:
    # Only near misses: Kubernetes itself sets OPSPLANE_PORT and friends for a service named opsplane.
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
            if near:
                raise ConfigurationError(f"{name} is not a setting of opsplane; did you mean {near[0]}?")


def _first_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    return f"{PREFIX}{str(first['loc'][0]).upper()}: {message}"
