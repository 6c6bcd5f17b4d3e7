"""What a preflight saw, exactly or from a sample, in numbers and in words."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Impact:
    """Rows that would change, rows looked at, tenants with something to change.

    With a `margin_percent`, `affected` and `total` come from a sample, and 95 of 100 samples are so near to the truth;
    `tenants` is then how many there are at most. `total_estimated` alone means that only `total` is a guess.
    """

    affected: int
    total: int
    tenants: int
    total_estimated: bool = False
    margin_percent: float | None = None

    @property
    def estimated(self) -> bool:
        """Whether `affected` comes from a sample."""
        return self.margin_percent is not None

    @property
    def records(self) -> str:
        """1,234, or about 6,012,000, or up to 9,000 where the sample says no more."""
        if self.margin_percent is None:
            return f"{self.affected:,}"
        if self.margin_percent < 100:
            return f"about {self.affected:,}"
        return f"up to {rounded(self.affected * (1 + self.margin_percent / 100)):,}"

    @property
    def said(self) -> str:
        """All of it in a sentence."""
        sure = self.margin_percent is None or self.margin_percent >= 100
        affected = self.records if sure else f"{self.records} (± {self.margin_percent:g} %)"
        total = f"about {rounded(self.total):,}" if self.total_estimated else f"{self.total:,}"
        if not self.estimated:
            return f"{affected} of {total} rows, in {self.tenants:,} {_tenants(self.tenants)}."
        within = f"in at most {self.tenants:,} {_tenants(self.tenants)}"
        return f"{affected} of {total} rows, {within}; estimated from a sample.".capitalize()


def rounded(value: float) -> int:
    """Four digits and zeros: an estimate has no more that anybody should believe."""
    return round(int(value), 4 - len(str(int(value))))


def _tenants(count: int) -> str:
    return "tenant" if count == 1 else "tenants"
