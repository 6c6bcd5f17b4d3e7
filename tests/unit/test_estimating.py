"""What a sample is taken to say."""

import random

import pytest

from opsplane.runbooks.estimating import BLOCKS, Sample
from opsplane.runbooks.impact import Impact, rounded

SAID = [
    (Impact(affected=1, total=1, tenants=1), "1 of 1 rows, in 1 tenant."),
    (Impact(affected=6_012_345, total=9_999_999, tenants=7), "6,012,345 of 9,999,999 rows, in 7 tenants."),
    (
        Impact(affected=6_012_345, total=9_989_583, tenants=7, total_estimated=True),
        "6,012,345 of about 9,990,000 rows, in 7 tenants.",
    ),
    (
        Impact(affected=6_012_000, total=10_000_000, tenants=900, total_estimated=True, margin_percent=1.4),
        "About 6,012,000 (± 1.4 %) of about 10,000,000 rows, in at most 900 tenants; estimated from a sample.",
    ),
    (
        Impact(affected=3000, total=10_000_000, tenants=1, total_estimated=True, margin_percent=196),
        "Up to 8,880 of about 10,000,000 rows, in at most 1 tenant; estimated from a sample.",
    ),
]


@pytest.mark.parametrize(("impact", "said"), SAID)
def test_what_was_seen_is_said_as_surely_as_it_is_known(impact: Impact, said: str) -> None:
    assert impact.said == said


@pytest.mark.parametrize(("value", "shown"), [(0, 0), (7, 7), (1234.9, 1234), (12345, 12340), (6_012_345, 6_012_000)])
def test_an_estimate_has_four_digits(value: float, shown: int) -> None:
    assert rounded(value) == shown


def test_the_margin_holds_the_truth_95_times_of_100() -> None:
    chance, held = random.Random(7), 0
    table = [[chance.random() < (0.2 if place < 500 else 0.8) for _ in range(100)] for place in range(1000)]
    truth = sum(map(sum, table))
    for _ in range(1000):
        seen = [sum(table[number * 25 + chance.randrange(25)]) for number in range(40)]
        impact = Sample(1000 * BLOCKS, seen, [100] * 40, 0.0).impact(1)
        assert impact.margin_percent is not None
        held += abs(impact.affected - truth) <= impact.affected * impact.margin_percent / 100
    assert 920 <= held <= 1000
