"""A slice of the campaign: real processes, quick settings, every kind of fault that heals soon."""

import json
from pathlib import Path

import pytest

from tests.faults import campaign, kinds, nemesis, stand
from tests.faults.nemesis import Hit, Result

SLICES = (
    (346, ("worker_killed", "valkey_flushed", "commits_cut", "connections_reset")),
    (164, ("worker_frozen_in_a_transaction", "postgres_restarted", "valkey_killed", "worker_terminated")),
)


@pytest.mark.timeout(400)  # on a machine that does much else
async def test_runs_hit_by_eight_kinds_of_fault_end_with_every_mark_made_once() -> None:
    async with stand.opened(quick=True) as place:
        for seed, names in SLICES:
            result, found = await nemesis.play(place, nemesis.schedule(seed, names))
            assert result.problems == [], result.line()
            assert len(found.effects) >= nemesis.ROWS * stand.TENANTS
            assert [hit.kind for hit in result.faults if not hit.hit] == []


def test_a_seed_is_always_the_same_schedule_and_others_differ() -> None:
    assert nemesis.schedule(7) == nemesis.schedule(7)
    assert len({nemesis.schedule(seed).faults for seed in range(50)}) == 50


def test_a_campaign_of_five_hundred_seeds_has_enough_faults_of_every_kind() -> None:
    faults = [fault.kind for seed in range(1, 501) for fault in nemesis.schedule(seed).faults]
    assert len(faults) >= 1500
    assert len(kinds.KINDS) >= 14
    assert min(faults.count(name) for name in kinds.KINDS) >= 40


def test_the_summary_counts_what_was_wrong(tmp_path: Path) -> None:
    good = Result(1, [Hit("worker_killed", 1.0)], recovery_s=3.0)
    bad = Result(2, [Hit("disk_full", 1.0), Hit("half_open", 2.0, hit=False)], ["lost: one"], ["lost"], recovery_s=9.0)
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(each.line()) + "\n" for each in (good, bad)))
    said = campaign.summary(campaign.lines(results))
    assert "schedules 2, runs 0, faults 2 of 2 kinds" in said
    assert "lost 1, duplicate 0, drift 0, double 0" in said
    assert "failing seeds: [2]" in said
