"""Secret keys: one for each purpose, all derived from one root, so that none can be used for another."""

import os
import secrets
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from opsplane.config import Settings
from opsplane.errors import ConfigurationError

FILE = "secret-key"
AUDIT = "audit"  # purposes that start with it have a root of their own, if one is configured


@lru_cache
def derived(settings: Settings, purpose: str) -> bytes:
    """The 32 bytes of a purpose (RFC 5869), the same in every process of the installation.

    Raises:
        ConfigurationError: no key is configured, and none can be kept under `OPSPLANE_HOME`.
    """
    return HKDF(SHA256(), length=32, salt=None, info=f"opsplane {purpose}".encode()).derive(_root(settings, purpose))


def _root(settings: Settings, purpose: str) -> bytes:
    configured = (purpose.startswith(AUDIT) and settings.audit_key) or settings.secret_key
    if configured:
        return configured.get_secret_value().encode()
    try:
        return _kept(settings.home / FILE)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot keep a secret key in {settings.home}: {error}; set OPSPLANE_SECRET_KEY."
        ) from None


def _kept(file: Path) -> bytes:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{FILE}-{secrets.token_hex(8)}")
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as out:
            out.write(secrets.token_urlsafe(48).encode())
            os.fsync(out.fileno())
        try:
            os.link(draft, file)  # whoever links first has made the key of all processes
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return file.read_bytes()
