"""What the audit counts about itself."""

from prometheus_client import Counter, Gauge

shortened = Counter("opsplane_audit_events_shortened_total", "Events stored without their details.")
spooled = Counter("opsplane_audit_events_spooled_total", "Events the database refused, kept in the spool.")
replayed = Counter("opsplane_audit_events_replayed_total", "Events brought from the spool into the database.")
lost = Counter("opsplane_audit_events_lost_total", "Events that only the log has, because the spool failed too.")
rejected = Counter("opsplane_audit_events_rejected_total", "Events found in the database that opsplane did not write.")
refused = Counter(
    "opsplane_audit_seals_refused_total", "Sweeps that found the chain cut or changed, and sealed nothing."
)
pending = Gauge("opsplane_audit_events_pending", "Events that wait for their seal.")
