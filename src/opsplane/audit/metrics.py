"""What the audit counts about itself."""

import json
import time
from datetime import datetime
from pathlib import Path

from prometheus_client import Counter, Gauge

from opsplane.audit import spool
from opsplane.config import Settings

shortened = Counter("opsplane_audit_events_shortened_total", "Events stored without their details.")
spooled = Counter("opsplane_audit_events_spooled_total", "Events the database refused, kept in the spool.")
replayed = Counter("opsplane_audit_events_replayed_total", "Events brought from the spool into the database.")
lost = Counter("opsplane_audit_events_lost_total", "Events that only the log has, because the spool failed too.")
rejected = Counter("opsplane_audit_events_rejected_total", "Events found in the database that opsplane did not write.")
refused = Counter(
    "opsplane_audit_seals_refused_total", "Sweeps that found the chain cut or changed, and sealed nothing."
)
spool_files = Gauge("opsplane_audit_spool_files", "Files of this host's spool that wait to be replayed.")
spool_oldest = Gauge(
    "opsplane_audit_spool_oldest_age_seconds", "Age of the oldest event in this host's spool; 0 if there is none."
)


def watch(settings: Settings) -> None:
    """Look at the spool of these settings whenever the numbers are asked for."""
    place = spool.folder(settings)

    def files() -> list[Path]:
        return [file for pattern in (spool.SPOOL, spool.REPLAYING) for file in place.glob(pattern)]

    spool_files.set_function(lambda: len(files()))
    spool_oldest.set_function(lambda: max(map(_age_s, files()), default=0.0))


def _age_s(file: Path) -> float:
    """By the event in its first line, for a file's own time is that of the last one."""
    try:
        with file.open("rb") as lines:
            first = next(filter(None, map(bytes.strip, lines)), b"")
        written = _occurred_at(first) or file.stat().st_mtime
    except OSError:
        return 0.0  # replayed just now
    return max(0.0, time.time() - written)


def _occurred_at(line: bytes) -> float | None:
    try:
        return datetime.fromisoformat(json.loads(line)["occurred_at"]).timestamp()
    except (ValueError, KeyError, TypeError):
        return None
