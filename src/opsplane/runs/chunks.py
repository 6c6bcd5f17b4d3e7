"""How much a chunk takes: as many rows, and as many small tenants, as fit into its target time."""

from opsplane.config import Settings

FEW, MOST = 4, 256


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


class Pace:
    """What one drain has learned about its run."""

    def __init__(self, settings: Settings, *, bundled: bool, most_rows: int | None = None) -> None:
        self.target_s = settings.chunk_target_ms / 1000
        self.patience_s = settings.lease_s / 4  # nobody's lease may run out while its tenant waits for its turn
        self.together_s = 2 * self.target_s  # for so long others wait with one that needs several chunks
        largest = min(settings.chunk_max_rows, max(most_rows or settings.chunk_max_rows, settings.chunk_min_rows))
        self.size = ChunkSize(smallest=settings.chunk_min_rows, largest=largest, target_s=self.target_s)
        self._most = MOST if bundled else 1
        self.tenants = min(FEW, self._most)
        self.together = True  # whether several tenants may share a statement
        self.gentle = False  # whether others come first: they wait for a chunk's locks, and for its processor
        self._fewest = settings.chunk_min_rows

    @property
    def rows(self) -> int:
        """What the next chunk may take."""
        return min(self._fewest, self.size.rows) if self.gentle else self.size.rows

    def carried(self, tenants: int, seconds: float) -> None:
        """So many tenants were done in one chunk; a claim takes as many as fit, at most twice as many as until now."""
        fit = tenants * self.target_s / max(seconds, 1e-6)
        self.tenants = int(max(1, min(fit, 2 * self.tenants, self._most)))

    def claim(self) -> int:
        """How many tenants to claim now."""
        self.together = True
        return self.tenants

    def statement_failed(self) -> None:
        """Each of those in hand has statements of its own now: the one that fails then is whose fault it was."""
        self.together = False
        self.met_trouble()

    def met_trouble(self) -> None:
        """The next claim is of one tenant; whoever is claimed with one that takes long could lose its lease."""
        self.tenants = 1

    def one_by_one(self) -> None:
        """From now on nobody shares a chunk."""
        self._most = self.tenants = 1
