"""Where requests are counted: a dictionary of this process."""

import time

from limits.storage import Storage

SCHEME = "opsplane-windows"
LOOK_EVERY_S = 10.0


class Windows(Storage):
    """Counts in fixed windows, as the library's own storage in memory does, but without a thread for each moment."""

    STORAGE_SCHEME = [SCHEME]  # noqa: RUF012 - as the library declares it

    def __init__(self, uri: str | None = None, *, wrap_exceptions: bool = False, **_: object) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._counts: dict[str, tuple[int, float]] = {}  # and when the window ends
        self._look_at = 0.0

    @property
    def base_exceptions(self) -> type[Exception]:
        """What the library would wrap."""
        return ValueError

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count on in the window of this key, or in a new one that ends in `expiry` seconds."""
        now = time.time()
        self._forget_ended(now)
        count, ends_at = self._counts.get(key, (0, 0.0))
        if ends_at <= now:
            count, ends_at = 0, now + expiry
        self._counts[key] = count + amount, ends_at
        return count + amount

    def get(self, key: str) -> int:
        """The count of this moment."""
        count, ends_at = self._counts.get(key, (0, 0.0))
        return count if ends_at > time.time() else 0

    def get_expiry(self, key: str) -> float:
        """When the window of this key ends."""
        return self._counts.get(key, (0, time.time()))[1]

    def check(self) -> bool:
        """Whether it is there, which it always is."""
        return True

    def reset(self) -> int:
        """Forget everything."""
        forgotten, self._counts = len(self._counts), {}
        return forgotten

    def clear(self, key: str) -> None:
        """Forget one key."""
        self._counts.pop(key, None)

    def _forget_ended(self, now: float) -> None:
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        self._counts = {key: kept for key, kept in self._counts.items() if kept[1] > now}
