"""What the courier counts about deliveries of alerts."""

from prometheus_client import Counter, Histogram

attempts = Counter(
    "opsplane_alert_attempts_total",
    "Attempts to deliver an alert: delivered, failed and to be tried again, or dead, which is given up.",
    ["channel", "result"],
)
delivery_seconds = Histogram(
    "opsplane_alert_delivery_seconds",
    "Time from an event to its delivery, quiet hours included.",
    ["channel"],
    buckets=(1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14_400, 43_200, 86_400),
)


for _channel in ("teams", "email", "webhook", "service"):
    for _result in ("delivered", "failed", "dead"):
        attempts.labels(_channel, _result)  # zeros, or the first event would hide from `increase()`


def delivered(kind: str, seconds: float) -> None:
    """Count a delivery by a channel of this kind, so long after its event."""
    attempts.labels(kind, "delivered").inc()
    delivery_seconds.labels(kind).observe(seconds)


def failed(kind: str) -> None:
    """Count an attempt that is to be repeated."""
    attempts.labels(kind, "failed").inc()


def dead(kind: str) -> None:
    """Count a delivery that is given up."""
    attempts.labels(kind, "dead").inc()
