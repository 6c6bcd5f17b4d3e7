"""Hours of the day in which a rule rings nobody, by the clock on the wall of a time zone."""

import zoneinfo
from dataclasses import dataclass
from datetime import datetime, time, timedelta

MINUTE = timedelta(minutes=1)
THREE_DAYS = 3 * 24 * 60  # minutes: the one loud hour of a day may be the one that the clock skips


@dataclass(frozen=True)
class QuietHours:
    """From one time of the wall's clock until another, perhaps over midnight; the second is the first loud minute.

    Where the clock jumps, its hands decide: an hour that is skipped is not quiet, one that comes twice is twice.
    """

    start: time
    until: time
    zone: zoneinfo.ZoneInfo

    def __post_init__(self) -> None:
        if self.start == self.until:
            raise ValueError("quiet hours must end at another time than they begin")

    def contain(self, moment: datetime) -> bool:
        """Whether it is quiet then."""
        wall = moment.astimezone(self.zone).time()
        if self.start < self.until:
            return self.start <= wall < self.until
        return wall >= self.start or wall < self.until

    def over_at(self, moment: datetime) -> datetime:
        """The first loud moment from then on: itself, or a whole minute.

        Looked for minute by minute, because no formula holds on the days when the clock is changed.
        """
        if not self.contain(moment):
            return moment
        whole = moment.replace(second=0, microsecond=0)
        return next(at for n in range(1, THREE_DAYS) if not self.contain(at := whole + n * MINUTE))


def parse(start: str, until: str, zone: str) -> QuietHours:
    """Quiet hours as they are written down: `22:00`, `07:00`, `Europe/Berlin`.

    Raises:
        ValueError: with a sentence for whoever wrote it.
    """
    try:
        found = zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{zone!r} is no time zone; write one like Europe/Berlin or UTC") from None
    return QuietHours(_time(start), _time(until), found)


def _time(written: str) -> time:
    try:
        return datetime.strptime(written, "%H:%M").time()  # noqa: DTZ007 - a time of the wall's clock has no zone
    except ValueError:
        raise ValueError(f"{written!r} is no time of day; write one like 22:00") from None
