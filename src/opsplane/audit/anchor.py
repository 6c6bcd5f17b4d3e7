"""The end of the chain, kept outside of the database: who can roll back its tables cannot roll back this file."""

import json
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from opsplane.audit import spool
from opsplane.config import Settings
from opsplane.errors import InvalidInput

FILE = "anchor.json"
_WRITTEN = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")


@dataclass(frozen=True)
class Anchor:
    """A link that must be in the chain."""

    seq: int
    hmac: bytes

    @classmethod
    def parse(cls, written: str) -> Self:
        """An anchor as the log line `audit_sealed` and `opsplane audit verify` show it: SEQ:HMAC.

        Raises:
            InvalidInput: it is not of that form.
        """
        matched = _WRITTEN.fullmatch(written)
        if matched is None:
            raise InvalidInput(f"{written!r} is no anchor; it is SEQ:HMAC, as the log line audit_sealed shows it.")
        return cls(int(matched[1]), bytes.fromhex(matched[2]))

    def __str__(self) -> str:
        return f"{self.seq}:{self.hmac.hex()}"


def kept(settings: Settings) -> Anchor | None:
    """The anchor of this host, if a process here has ever sealed."""
    file = _file(settings)
    if not file.exists():
        return None
    try:
        return Anchor.parse(json.loads(file.read_text())["anchor"])
    except (ValueError, KeyError, TypeError):
        raise InvalidInput(f"{file} holds no anchor; move it away, and give one you kept to --anchor.") from None


def keep(settings: Settings, anchor: Anchor) -> None:
    """Replace the anchor, durably."""
    file = _file(settings)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f".{FILE}.{uuid.uuid4().hex}")
    with draft.open("w") as out:
        json.dump({"anchor": str(anchor)}, out)
        out.flush()
        os.fsync(out.fileno())
    draft.rename(file)


def _file(settings: Settings) -> Path:
    return spool.folder(settings) / FILE
