"""The account a server runs as, and what it may reach."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Account:
    """An unprivileged account that root lends to PostgreSQL, which refuses to run as root."""

    uid: int
    gid: int

    def may(self, path: Path, bits: int) -> bool:
        """Whether mode and owner of `path` give this account `bits` (4 read, 2 write, 1 search)."""
        facts = path.stat()
        shift = 6 if facts.st_uid == self.uid else 3 if facts.st_gid == self.gid else 0
        return (facts.st_mode >> shift) & bits == bits

    def reaches(self, folder: Path) -> bool:
        """Whether it may pass through every folder down to this one."""
        return all(self.may(each, 1) for each in (folder, *folder.parents))
