"""Takes one guard of the product away at a time; a named test must notice: `python -m tests.faults.mutants`.

Each mutant is a copy of the checkout in a temporary folder, in which a piece of text is replaced.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PARTS = ("src", "tests", "migrations", "openapi", "static", "templates", "alembic.ini", "pyproject.toml")
AT_ONCE = 2
LIMIT_S = 600

LEASES = "src/opsplane/runs/leases.py"
STATEMENTS = "src/opsplane/runs/lease_statements.py"
ITEMS = "src/opsplane/runs/items.py"
DRAIN = "src/opsplane/runs/drain.py"
CARRYING = "src/opsplane/runs/carrying.py"
BY_HAND = "src/opsplane/runs/by_hand.py"
CHUNKS = "src/opsplane/runs/at_once.py"
CHUNK_STATEMENTS = "src/opsplane/runs/chunk_statements.py"
RUNBOOK = "src/opsplane/runbooks/base.py"
ANSWER = "src/opsplane/runbooks/chunk.py"
LIFECYCLE = "src/opsplane/runs/lifecycle.py"
SWEEPER = "src/opsplane/runs/sweeper.py"
LOCKS = "src/opsplane/runbooks/locks.py"
PREFLIGHTS = "src/opsplane/runbooks/preflights.py"
SIGN_IN = "src/opsplane/access/sign_in.py"

CLAIMS = "tests/faults/test_claims.py"
GUARDS = "tests/faults/test_guards.py"
EXECUTION = "tests/integration/test_execution.py"
CONTROL = "tests/integration/test_control.py"
BUNDLES = "tests/integration/test_bundles.py"
TOGETHER = "tests/integration/test_together.py"
ONE_STATEMENT = "tests/integration/test_at_once.py"
START = "tests/integration/test_start.py"
BARE = "tests/integration/test_bare.py"
DIRECT = "src/opsplane/direct.py"
FLOOD = "tests/integration/test_login_flood.py"

FINISHED = "                await leases.finish(session, [Whole(lease, chunk.updated, chunk.errors)])\n"
VERIFYING = "        async with self._slots:\n            right, rehashed"


@dataclass(frozen=True)
class Edit:
    """A piece of text that is in the file exactly once, and what stands there instead."""

    file: str
    old: str
    new: str = ""


@dataclass(frozen=True)
class Mutant:
    """The product without one guard, and the test that must fail then."""

    name: str
    test: str
    edits: tuple[Edit, ...]


def _mutant(name: str, test: str, *edits: tuple[str, ...]) -> Mutant:
    return Mutant(name, test, tuple(Edit(*edit) for edit in edits))


MUTANTS = (
    _mutant(
        "the fence does not look at the lease token",
        f"{EXECUTION}::test_a_worker_that_lost_its_lease_cannot_commit",
        (STATEMENTS, "        & (item.lease_token == mine.c.token)\n"),
    ),
    _mutant(
        "a repair's chunk does not look at the lease token",
        f"{ONE_STATEMENT}::test_whom_another_worker_takes_while_the_chunk_waits_for_it_is_left_out",
        (STATEMENTS, "        & (item.lease_token == mine.c.token)\n"),
    ),
    _mutant(
        "the fence does not look at the item's state",
        f"{ONE_STATEMENT}::test_a_tenant_that_has_ended_is_not_carried",
        (STATEMENTS, "progress_at)\n        & (item.state == ItemState.RUNNING)\n", "progress_at)\n"),
    ),
    _mutant(
        "the fence does not look at what the server may have forgotten",
        f"{GUARDS}::test_a_worker_whose_last_commit_the_server_forgot_does_not_go_on_from_there",
        (STATEMENTS, "        & item.progress_at.is_not_distinct_from(mine.c.progress_at)\n"),
    ),
    _mutant(
        "a repair's chunk does not look at what the server may have forgotten",
        f"{ONE_STATEMENT}::test_a_worker_whose_last_chunk_the_server_forgot_does_not_go_on_from_there",
        (STATEMENTS, "        & item.progress_at.is_not_distinct_from(mine.c.progress_at)\n"),
    ),
    _mutant(
        "the fence locks nothing",
        f"{GUARDS}::test_nobody_takes_a_tenant_in_the_middle_of_its_chunk",
        (STATEMENTS, "        .with_for_update(of=item)\n"),
    ),
    _mutant(
        "the fence does not look at the run",
        f"{CLAIMS}::test_a_claim_that_comes_to_light_after_the_pause_writes_nothing",
        (LEASES, "    if any(status != Status.RUNNING for status in ours.values()):\n        raise RunNotRunning\n"),
    ),
    _mutant(
        "a repair's chunk does not look at the run",
        f"{ONE_STATEMENT}::test_a_run_that_is_to_pause_has_nothing_changed",
        (CHUNK_STATEMENTS, ".where(fenced.c.goes_on).subquery()", ".subquery()"),
    ),
    _mutant(
        "a repair's chunk ends tenants of a run that is to pause",
        f"{ONE_STATEMENT}::test_a_run_that_is_to_pause_has_nothing_changed",
        (CHUNK_STATEMENTS, ".where(fenced.c.goes_on, or_(", ".where(or_("),
    ),
    _mutant(
        "nobody hears that the run is to pause",
        f"{ONE_STATEMENT}::test_a_run_that_is_to_pause_has_nothing_changed",
        (
            CHUNKS,
            '            if not all(row["goes_on"] for row in told):\n                raise RunNotRunning\n',
        ),
    ),
    _mutant(
        "a repair's chunk locks its run",
        f"{ONE_STATEMENT}::test_two_chunks_of_a_run_do_not_wait_for_each_other",
        (STATEMENTS, ".with_for_update(of=item)", ".with_for_update()"),
    ),
    _mutant(
        "a tenant of which only an earlier chunk repaired rows is skipped",
        f"{ONE_STATEMENT}::test_a_tenant_of_which_only_an_earlier_chunk_repaired_rows_has_succeeded",
        (CHUNK_STATEMENTS, "ended_well(item.updated_count + reached.c.updated)", "ended_well(reached.c.updated)"),
    ),
    _mutant(
        "statements alone have the database's isolation",
        f"{BARE}::test_statements_alone_read_what_is_committed_whatever_the_database_is_set_to",
        ("src/opsplane/connections.py", ', "default_transaction_isolation": "read committed"', ""),
    ),
    _mutant(
        "whose rows were looked at in part counts as gone through",
        f"{ONE_STATEMENT}::test_where_few_rows_are_wrong_a_chunk_looks_at_so_many_and_the_next_one_goes_on_behind_them",
        (CHUNK_STATEMENTS, "(all_of.c.found < LIMIT) & (all_of.c.looked_at < WINDOW)", "all_of.c.found < LIMIT"),
    ),
    _mutant(
        "nobody asks for rows that were found by hand and not changed",
        f"{TOGETHER}::test_the_only_wrong_row_that_somebody_else_just_changed_is_repaired_all_the_same",
        (
            "src/opsplane/runs/repairing.py",
            "lease.cursor is None and chunk.took == 0",
            "lease.cursor is None and chunk.updated == 0",
        ),
    ),
    _mutant(
        "whom another worker has goes on waiting",
        f"{ONE_STATEMENT}::test_a_chunk_leaves_out_whom_another_worker_has",
        (CHUNKS, "done.lost.append(lease)", "done.waiting.append(lease)"),
    ),
    _mutant(
        "a claim locks nothing",
        f"{EXECUTION}::test_two_claims_at_once_take_two_tenants_and_do_not_wait_for_each_other",
        (STATEMENTS, "        .with_for_update(skip_locked=True)\n"),
    ),
    _mutant(
        "a claim waits for the other's lock",
        f"{EXECUTION}::test_two_claims_at_once_take_two_tenants_and_do_not_wait_for_each_other",
        (STATEMENTS, ".with_for_update(skip_locked=True)", ".with_for_update()"),
    ),
    _mutant(
        "a claim does not look at the run",
        f"{GUARDS}::test_a_run_that_is_not_running_hands_out_no_tenant",
        (STATEMENTS, "due, running.exists(), does_not_wait,", "due, does_not_wait,"),
    ),
    _mutant(
        "a claim does not change the token",
        f"{EXECUTION}::test_a_worker_that_lost_its_lease_cannot_commit",
        (STATEMENTS, "            lease_token=item.lease_token + 1,\n"),
        (
            ITEMS,
            "            lost_count=lost,\n            lease_token=item.lease_token + 1,\n",
            "            lost_count=lost,\n",
        ),
    ),
    _mutant(
        "lease times are by the worker's clock",
        f"{GUARDS}::test_no_clock_of_a_worker_says_how_long_a_lease_lasts",
        (STATEMENTS, "from typing import Any\n", "from datetime import UTC, datetime\nfrom typing import Any\n"),
        (STATEMENTS, "    func,\n", "    func,\n    literal,\n"),
        (STATEMENTS, "return now + bindparam(name", "return literal(datetime.now(UTC)) + bindparam(name"),
    ),
    _mutant(
        "progress does not forgive attempts",
        f"{GUARDS}::test_progress_forgives_what_went_wrong_before",
        (STATEMENTS, '    "attempts": func.greatest(item.attempts - 1, 0),\n'),
    ),
    _mutant(
        "progress does not forgive lost workers",
        f"{GUARDS}::test_progress_forgives_what_went_wrong_before",
        (STATEMENTS, '    "lost_count": 0,\n'),
    ),
    _mutant(
        "progress within a repair forgives nothing",
        f"{ONE_STATEMENT}::test_progress_forgives_what_went_wrong_before",
        (CHUNK_STATEMENTS, "            **PROGRESS,\n", '            progress_at=PROGRESS["progress_at"],\n'),
    ),
    _mutant(
        "a worker does not hear what progress within a repair forgave",
        f"{ONE_STATEMENT}::test_progress_forgives_what_went_wrong_before",
        (CHUNKS, "attempts=max(lease.attempts - 1, 0), losses=0, "),
    ),
    _mutant(
        "a tenant may kill any number of workers",
        f"{EXECUTION}::test_a_tenant_that_loses_its_worker_three_times_fails_and_the_others_are_done",
        (ITEMS, "state=case((lost >= MAX_LOST, ItemState.FAILED), else_=ItemState.PENDING)", "state=ItemState.PENDING"),
    ),
    _mutant(
        "whoever may have killed a worker is claimed with others",
        f"{BUNDLES}::test_a_tenant_that_may_have_killed_its_worker_is_never_bundled",
        (STATEMENTS, "_claiming(item.attempts == 0, item.lost_count == 0)", "_claiming()"),
    ),
    _mutant(
        "a bundle ends with tenants that are no longer ours",
        f"{BUNDLES}::test_nothing_is_kept_of_a_bundle_that_holds_a_lost_tenant",
        (
            LEASES,
            "    if len(await directly(session, FINISH, **given)) != len(done):\n        raise LeaseLost\n",
            "    await directly(session, FINISH, **given)\n",
        ),
    ),
    _mutant(
        "whoever waits beside a tenant that broke its bundle goes on waiting",
        f"{BUNDLES}::test_whoever_waited_beside_a_tenant_that_broke_is_given_back_before_it_is_tried_alone",
        (CARRYING, "            await self._give_back([lease for lease in held if lease is not broken.lease])\n"),
    ),
    _mutant(
        "a statement over several tenants repairs strangers",
        f"{TOGETHER}::test_whatever_the_limit_each_tenant_is_repaired_once_and_nobody_else",
        ("src/opsplane/runbooks/statements.py", ".where(self.tenant == tenant, selected)", ".where(selected)"),
        ("src/opsplane/runbooks/statements.py", "is_found, is_counted, self.wrong)", "is_found, self.wrong)"),
    ),
    _mutant(
        "a place is taken for a row",
        f"{TOGETHER}::test_rows_of_a_partitioned_table_are_counted_for_the_tenant_they_belong_to",
        ("src/opsplane/runbooks/statements.py", " is_found,"),
    ),
    _mutant(
        "any table is taken for one without partitions",
        f"{TOGETHER}::test_rows_of_a_partitioned_table_are_counted_for_the_tenant_they_belong_to",
        ("src/opsplane/runbooks/statements.py", "select(is_plain)", "select(true())"),
    ),
    _mutant(
        "a transaction that PostgreSQL rolled back is taken for committed",
        f"{BARE}::test_a_failure_that_somebody_hid_is_not_taken_for_a_commit",
        (DIRECT, 'if said != "COMMIT":', 'if said == "":'),
    ),
    _mutant(
        "a bare transaction that failed is left open",
        f"{BARE}::test_what_fails_leaves_nothing_tells_nobody_and_gives_its_connection_back_clean",
        (DIRECT, "        await opened.roll_back()\n", "        pass\n"),
    ),
    _mutant(
        "the connection of somebody who was cancelled is used again as it is",
        f"{BARE}::test_who_is_cancelled_leaves_nothing_and_no_statement_runs_on",
        (DIRECT, "    except BaseException:\n        await asyncio", "    except Exception:\n        await asyncio"),
    ),
    _mutant(
        "a part by hand is not looked for",
        f"{TOGETHER}::test_a_repair_with_a_part_by_hand_has_a_session_for_it",
        (RUNBOOK, "return self.bundled and not by_hand", "return self.bundled"),
    ),
    _mutant(
        "what acts outside of the database does not wait for the disk either",
        f"{TOGETHER}::test_only_what_acts_outside_of_the_database_waits_for_the_disk",
        (BY_HAND, "if self.runbook.bundled:", "if self.runbook:"),
    ),
    _mutant(
        "rows that were found and not changed count as right",
        f"{TOGETHER}::test_the_only_wrong_row_that_somebody_else_just_changed_is_repaired_all_the_same",
        (CHUNK_STATEMENTS, "or_(WAS_UNSURE, updated < found, still > 0)", "or_(WAS_UNSURE, still > 0)"),
    ),
    _mutant(
        "rows that stay wrong count as repaired",
        f"{TOGETHER}::test_rows_that_stay_wrong_are_found_out_beside_others_as_well",
        (CHUNK_STATEMENTS, "or_(WAS_UNSURE, updated < found, still > 0)", "or_(WAS_UNSURE, updated < found)"),
    ),
    _mutant(
        "a chunk forgets that one before it was unsure",
        f"{ONE_STATEMENT}::test_a_tenant_that_was_unsure_once_is_gone_over_again",
        (CHUNK_STATEMENTS, "or_(WAS_UNSURE, updated < found, still > 0)", "or_(updated < found, still > 0)"),
    ),
    _mutant(
        "a cursor does not say that its chunk was unsure",
        f"{ONE_STATEMENT}::test_a_tenant_that_was_unsure_once_is_gone_over_again",
        (CHUNK_STATEMENTS, ', "unsure", case((reached.c.unsure, True)))', ")"),
    ),
    _mutant(
        "by hand, rows that were found and not changed count as right",
        f"{BUNDLES}::test_a_row_that_somebody_changed_meanwhile_is_looked_at_again",
        (ANSWER, """ or updated < of_tenant["tenant_found"]"""),
    ),
    _mutant(
        "by hand, rows that stay wrong count as repaired",
        f"{TOGETHER}::test_a_repair_with_a_part_by_hand_has_a_session_for_it",
        (ANSWER, """of_tenant["still"] > 0 or """),
    ),
    _mutant(
        "a repair's rows are not added to those before",
        f"{TOGETHER}::test_whatever_the_limit_each_tenant_is_repaired_once_and_nobody_else",
        (CHUNK_STATEMENTS, "updated_count=item.updated_count + reached.c.updated,", "updated_count=reached.c.updated,"),
    ),
    _mutant(
        "a repair's rows are not counted",
        f"{TOGETHER}::test_whatever_the_limit_each_tenant_is_repaired_once_and_nobody_else",
        (CHUNK_STATEMENTS, "            updated_count=item.updated_count + reached.c.updated,\n"),
    ),
    _mutant(
        "whom a chunk has not got to counts as gone through",
        f"{TOGETHER}::test_whatever_the_limit_each_tenant_is_repaired_once_and_nobody_else",
        (CHUNK_STATEMENTS, "fenced.c.nr < all_of.c.nr)", "fenced.c.nr != all_of.c.nr)"),
    ),
    _mutant(
        "who goes on from a cursor takes others along",
        f"{ONE_STATEMENT}::test_a_chunk_stores_how_far_it_is_and_the_next_one_goes_on_from_there",
        (CHUNKS, "takewhile(lambda lease: not lease.is_begun, held)", "held"),
    ),
    _mutant(
        "a chunk does not renew its lease",
        f"{ONE_STATEMENT}::test_who_is_done_is_given_up_and_who_is_not_has_its_lease_renewed",
        (CHUNK_STATEMENTS, 'case((~done, from_now("lease")))', "case((~done, item.lease_until))"),
    ),
    _mutant(
        "a tenant is gone over for ever",
        f"{TOGETHER}::test_rows_that_stay_wrong_are_found_out_beside_others_as_well",
        (CHUNKS, "        if lease.passes >= MAX_PASSES:\n            raise NotConverging\n"),
    ),
    _mutant(
        "a tenant gone over often is said not to converge though it has",
        f"{ONE_STATEMENT}::test_a_tenant_gone_over_often_is_looked_at_before_it_is_said_not_to_converge",
        (CHUNKS, "if not await self.runbook.residue(cast(AsyncSession, bare), lease.tenant_id):", "if False:"),
    ),
    _mutant(
        "behind a pooler statements are alone as well",
        f"{BARE}::test_statements_that_are_each_alone_last_by_themselves_but_behind_a_pooler_together",
        (DIRECT, "self._each_alone = each_alone and not driver.pooled", "self._each_alone = each_alone"),
    ),
    _mutant(
        "a run is settled within its last item's transaction",
        f"{EXECUTION}::test_workers_that_end_together_complete_the_run",
        (BY_HAND, "from opsplane.runs import leases\n", "from opsplane.runs import leases, lifecycle\n"),
        (
            BY_HAND,
            FINISHED,
            f"{FINISHED}                await lifecycle.settle(session, lease.run_id)\n",
        ),
        (DRAIN, "                await self._settle(run_id)\n"),
        (LIFECYCLE, "        .with_for_update(key_share=True)\n"),
    ),
    _mutant(
        "a run is settled though items are open",
        f"{EXECUTION}::test_a_tenant_that_asks_to_be_retried_waits_and_is_retried",
        (LIFECYCLE, "    if not leased and not pending:\n", "    if not leased:\n"),
    ),
    _mutant(
        "a run is settled though a worker is at it",
        f"{CONTROL}::test_a_run_at_work_is_pausing_until_its_chunk_has_ended",
        (LIFECYCLE, "run.status == Status.PAUSING and not leased", "run.status == Status.PAUSING"),
    ),
    _mutant(
        "two sweepers take a step at once",
        f"{GUARDS}::test_two_sweepers_do_not_take_the_same_step_at_once",
        (SWEEPER, "                if await _alone(tx.session, step.__name__):\n", "                if step:\n"),
    ),
    _mutant(
        "a scope lock works on an old snapshot",
        f"{GUARDS}::test_a_scope_lock_refuses_a_snapshot_older_than_itself",
        (LOCKS, 'if locked["isolation"] != "read committed":', 'if not locked["isolation"]:'),
    ),
    _mutant(
        "a start over all tenants takes no lock",
        f"{GUARDS}::test_a_start_waits_for_another_on_an_overlapping_scope_only",
        (LOCKS, 'select(_ISOLATION, func.pg_advisory_xact_lock(_key("root")))', "select(_ISOLATION)"),
    ),
    _mutant(
        "a start over one tenant takes no lock on all",
        f"{GUARDS}::test_a_start_waits_for_another_on_an_overlapping_scope_only",
        (LOCKS, ' func.pg_advisory_xact_lock_shared(_key("root")),'),
    ),
    _mutant(
        "overlapping runs are no error to the database",
        "tests/integration/test_schema.py::test_the_database_itself_refuses_overlapping_active_runs",
        ("migrations/versions/0008_scope_constraint.py", "tenant_span WITH &&", "tenant_span WITH ="),
    ),
    _mutant(
        "an idempotency key is reserved twice",
        f"{START}::test_one_idempotency_key_is_one_run_and_one_answer",
        ("src/opsplane/runbooks/idempotency.py", ".on_conflict_do_nothing()"),
    ),
    _mutant(
        "a preflight is used twice",
        f"{START}::test_a_preflight_is_used_once_by_who_looked_and_for_what_was_looked_at",
        (PREFLIGHTS, "        Preflight.used_at.is_(None),\n"),
    ),
    _mutant(
        "anybody uses anybody's preflight",
        f"{START}::test_a_preflight_is_used_once_by_who_looked_and_for_what_was_looked_at",
        (PREFLIGHTS, '        Preflight.principal == parameter("by"),\n'),
    ),
    _mutant(
        "a preflight never expires",
        f"{START}::test_an_expired_preflight_is_stale",
        (PREFLIGHTS, "        Preflight.expires_at > func.clock_timestamp(),\n"),
    ),
    _mutant(
        "the gate lets strangers through",
        "tests/integration/test_planes.py::test_without_a_credential_every_path_is_missing",
        ("src/opsplane/api/gate.py", "        return problems.not_found()\n", "        return self._app\n"),
    ),
    _mutant(
        "another site may send requests",
        "tests/unit/test_origin.py::test_of_all_combinations_only_json_of_our_own_pages_passes",
        ("src/opsplane/api/origin.py", "    if not same_origin(headers, base_url):\n        raise CrossSiteRequest\n"),
    ),
    _mutant(
        "an unknown user is refused at once",
        f"{GUARDS}::test_a_password_of_nobody_is_hashed_like_anybodys",
        (
            "src/opsplane/auth/passwords.py",
            VERIFYING,
            f"        if kept is None:\n            return Verdict(right=False)\n{VERIFYING}",
        ),
    ),
    _mutant(
        "a password is judged before the attempt is counted",
        f"{FLOOD}::test_of_200_wrong_logins_at_once_ten_reach_verification",
        (
            SIGN_IN,
            "        await self._throttled(plane, given)\n        async with self.db.reading() as session:\n",
            "        async with self.db.reading() as session:\n",
        ),
        (
            SIGN_IN,
            "        if not verdict.right:\n",
            "        await self._throttled(plane, given)\n        if not verdict.right:\n",
        ),
    ),
)


def main() -> int:
    """Run every mutant, or those whose name contains the given words; 0 if every one was noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutants whose names contain them")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    given = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if all(word in mutant.name for word in given.words)]
    return asyncio.run(_run(chosen, given.at_once))


async def _run(mutants: Sequence[Mutant], at_once: int) -> int:
    _say("first, the product as it is")
    tests = sorted({mutant.test for mutant in mutants})
    status, output = await _pytest(ROOT, tests)
    if status != 0:
        _say(output)
        return 1
    slots = asyncio.Semaphore(at_once)
    survived = [said for said in await asyncio.gather(*(_judged(mutant, slots) for mutant in mutants)) if said]
    _say(f"{len(mutants) - len(survived)} of {len(mutants)} killed")
    return 1 if survived else 0


async def _judged(mutant: Mutant, slots: asyncio.Semaphore) -> bool:
    """Whether it survived."""
    async with slots:
        with tempfile.TemporaryDirectory(prefix="opsplane-mutant-") as folder:
            copy(mutant, Path(folder))
            status, output = await _pytest(Path(folder), [mutant.test])
    killed = status == 1  # anything else is no failed test: 2 an interruption, 4 a usage error, 5 nothing collected
    test = mutant.test.rpartition("::")[2]
    _say(f"killed by {test:<80} {mutant.name}" if killed else f"SURVIVED  {test:<80} {mutant.name}")
    if not killed and status != 0:
        _say(output)
    return not killed


def copy(mutant: Mutant, folder: Path) -> None:
    """Make the mutant in a folder."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    for edit in mutant.edits:
        path = folder / edit.file
        before = path.read_text()
        assert before.count(edit.old) == 1, (
            f"{mutant.name}: {edit.file} has this {before.count(edit.old)} times: {edit.old}"
        )
        path.write_text(before.replace(edit.old, edit.new))


async def _pytest(folder: Path, tests: Sequence[str]) -> tuple[int, str]:
    arguments = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    process = await asyncio.create_subprocess_exec(
        *arguments, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder / "src")},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(LIMIT_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
