"""Quiet hours by the clock on the wall, also on the days when it is changed."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsplane.alerts import quiet_hours
from opsplane.alerts.quiet_hours import QuietHours

NIGHT = quiet_hours.parse("22:00", "07:00", "Europe/Berlin")


def at(written: str) -> datetime:
    return datetime.fromisoformat(written).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("hours", "moment", "over"),
    [
        # Winter in Berlin is UTC+1.
        (("22:00", "07:00", "Europe/Berlin"), "2026-01-10T20:59", "2026-01-10T20:59"),
        (("22:00", "07:00", "Europe/Berlin"), "2026-01-10T21:00", "2026-01-11T06:00"),
        (("22:00", "07:00", "Europe/Berlin"), "2026-01-11T05:59", "2026-01-11T06:00"),
        (("22:00", "07:00", "Europe/Berlin"), "2026-01-11T06:00", "2026-01-11T06:00"),
        (("12:00", "13:30", "UTC"), "2026-01-10T12:15:31", "2026-01-10T13:30"),
        # 29 March 2026, Berlin: 02:00 becomes 03:00, the night is an hour shorter.
        (("22:00", "07:00", "Europe/Berlin"), "2026-03-28T21:00", "2026-03-29T05:00"),
        # Its end does not come that night: quiet hours are over as soon as the clock has jumped past it.
        (("22:00", "02:30", "Europe/Berlin"), "2026-03-29T00:30", "2026-03-29T01:00"),
        # Its whole hour does not come that night.
        (("02:00", "03:00", "Europe/Berlin"), "2026-03-29T00:59", "2026-03-29T00:59"),
        (("02:00", "03:00", "Europe/Berlin"), "2026-03-29T01:00", "2026-03-29T01:00"),
        # 25 October 2026, Berlin: 03:00 becomes 02:00, the night is an hour longer.
        (("22:00", "07:00", "Europe/Berlin"), "2026-10-24T20:00", "2026-10-25T06:00"),
        # 02:30 comes twice: loud from the first until the clock goes back, quiet again until the second.
        (("22:00", "02:30", "Europe/Berlin"), "2026-10-25T00:29", "2026-10-25T00:30"),
        (("22:00", "02:30", "Europe/Berlin"), "2026-10-25T00:30", "2026-10-25T00:30"),
        (("22:00", "02:30", "Europe/Berlin"), "2026-10-25T01:00", "2026-10-25T01:30"),
        # The one loud hour of the day is the one that is skipped: loud on the next day.
        (("03:00", "02:00", "Europe/Berlin"), "2027-03-27T12:00", "2027-03-29T00:00"),
        # New York, 8 March and 1 November 2026; Lord Howe changes by half an hour; Kathmandu is UTC+5:45.
        (("01:30", "02:30", "America/New_York"), "2026-03-08T06:45", "2026-03-08T07:00"),
        (("00:00", "01:30", "America/New_York"), "2026-11-01T05:15", "2026-11-01T05:30"),
        (("00:00", "01:30", "America/New_York"), "2026-11-01T06:15", "2026-11-01T06:30"),
        (("01:45", "02:15", "Australia/Lord_Howe"), "2026-10-03T15:15", "2026-10-03T15:30"),
        (("22:00", "07:00", "Asia/Kathmandu"), "2026-06-01T16:15", "2026-06-02T01:15"),
    ],
)
def test_quiet_hours_are_over_when_the_clock_on_the_wall_says_so(
    hours: tuple[str, str, str], moment: str, over: str
) -> None:
    assert quiet_hours.parse(*hours).over_at(at(moment)) == at(over)


MOMENTS = st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
MINUTES = st.integers(0, 24 * 4 - 1).map(lambda quarters: quarters * 15)
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Africa/Cairo"]
)


@given(MOMENTS, MINUTES, MINUTES, ZONES)
def test_whatever_is_held_is_held_within_the_quiet_hours_and_not_for_a_minute_longer(
    moment: datetime, start: int, until: int, zone: str
) -> None:
    if start == until:
        return
    hours = quiet_hours.parse(_clock(start), _clock(until), zone)
    over = hours.over_at(moment)
    assert over >= moment
    assert not hours.contain(over)
    assert (over == moment) is not hours.contain(moment)
    assert over == moment or hours.contain(over - timedelta(minutes=1))


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        (("22:00", "22:00", "UTC"), "must end at another time"),
        (("25:00", "07:00", "UTC"), "'25:00' is no time of day"),
        (("22:00", "7", "UTC"), "'7' is no time of day"),
        (("22:00", "07:00", "Berlin"), "'Berlin' is no time zone"),
        (("22:00", "07:00", "../etc/passwd"), "is no time zone"),
        (("22:00", "07:00", ""), "is no time zone"),
    ],
)
def test_quiet_hours_that_make_no_sense_are_refused_with_a_sentence(hours: tuple[str, str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        quiet_hours.parse(*hours)


def test_the_last_quiet_minute_is_quiet_to_its_end() -> None:
    assert QuietHours.contain(NIGHT, at("2026-01-11T05:59:59.999"))
