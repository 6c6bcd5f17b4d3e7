"""How many rows a chunk takes: as many as fit into its target time."""


class ChunkSize:
    """Follows the measured speed, at most doubling or halving from one chunk to the next."""

    def __init__(self, *, smallest: int, largest: int, target_s: float) -> None:
        self._smallest, self._largest, self._target_s = smallest, largest, target_s
        self.rows = min(largest, smallest * 2)

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from a chunk; one that was not full says little about a full one."""
        if rows < self.rows // 2 and seconds < self._target_s:
            return
        ideal = rows * self._target_s / max(seconds, 1e-6)
        self._resize(min(max(ideal, self.rows / 2), self.rows * 2))

    def _resize(self, rows: float) -> None:
        self.rows = int(min(max(rows, self._smallest), self._largest))
