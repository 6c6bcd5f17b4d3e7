"""Keys: one for each purpose, the same in every process, and the audit's own survives a change of the other."""

import asyncio
import stat
from pathlib import Path

from pydantic import SecretStr

from opsplane import keys
from opsplane.config import Settings

OLD, NEW = SecretStr("the old key, of at least 32 characters"), SecretStr("the new key, of at least 32 characters")


def test_purposes_have_keys_of_their_own() -> None:
    settings = Settings(secret_key=OLD)
    assert len({keys.derived(settings, purpose) for purpose in ("totp", "audit chain", "audit events")}) == 3


def test_the_audit_key_keeps_the_chain_when_the_secret_key_changes() -> None:
    before, after = Settings(secret_key=OLD), Settings(secret_key=NEW, audit_key=OLD)
    assert keys.derived(after, "audit chain") == keys.derived(before, "audit chain")
    assert keys.derived(after, "totp") != keys.derived(before, "totp")


async def test_without_a_key_one_is_made_once_and_kept_for_its_owner(tmp_path: Path) -> None:
    several = [Settings(home=tmp_path, system_idle_s=900 + n) for n in range(8)]  # unequal, so that none is cached
    made = await asyncio.gather(*(asyncio.to_thread(keys.derived, settings, "totp") for settings in several))
    assert len(set(made)) == 1
    assert stat.S_IMODE((tmp_path / keys.FILE).stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [keys.FILE]
