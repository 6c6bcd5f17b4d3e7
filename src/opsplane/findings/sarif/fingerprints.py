"""What tells a result from all others of its file, at every import."""

import hashlib
import json
import sqlite3
from typing import Any

from opsplane.findings.sarif.locations import Location
from opsplane.findings.sarif.values import get, get_object

SEEN_KIB = 32 * 1024  # cache for telling repeats apart
NOT_A_FINGERPRINT = "requires login"  # what semgrep writes for everybody who is not logged in


class Occurrences:
    """How often each digest was seen, in a private database that SQLite moves to disk when it outgrows its cache.

    It goes by 8 bytes of the digest: two that share them only get a higher number than they need.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute(f"PRAGMA cache_size = -{SEEN_KIB}")
        self._db.execute("PRAGMA journal_mode = off")
        self._db.execute("CREATE TABLE seen (digest INTEGER PRIMARY KEY, times INTEGER NOT NULL)")
        self._db.execute("BEGIN")

    def add(self, digest: str) -> int:
        """Count it; 1 is the first time."""
        key = (int.from_bytes(bytes.fromhex(digest[:16]), signed=True),)
        if self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, 1)", key).rowcount:
            return 1
        self._db.execute("UPDATE seen SET times = times + 1 WHERE digest = ?", key)
        return int(self._db.execute("SELECT times FROM seen WHERE digest = ?", key).fetchone()[0])

    def close(self) -> None:
        """Forget them all."""
        self._db.close()


def fingerprint_of(
    result: dict[str, Any],
    tool: str,
    rule_id: str,
    location: Location,
    message: str,
    occurrences: Occurrences,
    at: str,
) -> str:
    """By what the tool says identifies the result, or else by its message and region; repeats are numbered."""
    given = _given(result, at)
    digest = _digest(tool, rule_id, location.uri, given or [location.region, message])
    nth = occurrences.add(digest)
    return _digest(digest, nth) if nth > 1 else digest


def _given(result: dict[str, Any], at: str) -> dict[str, str]:
    """What the tool says identifies the result."""
    found: dict[str, str] = {}
    for key in ("partialFingerprints", "fingerprints"):
        given = get_object(result, key, at)
        for name in given:
            value = get(given, name, str, f"{at}.{key}")
            if value and value != NOT_A_FINGERPRINT:
                found[f"{key}.{name}"] = value
    return found


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
