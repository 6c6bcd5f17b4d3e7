"""The system plane's requests in any order that anybody can think of: every answer is the model's, and none is a 5xx."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from opsplane.config import Settings
from opsplane.runbooks import deploy, registry
from opsplane.runs import sweeper
from opsplane.runs.control import Ask
from tests import support, web
from tests.faults import run_checks, work
from tests.faults.machines import NAMES, World, campaign
from tests.faults.run_model import Run, holders
from tests.faults.work import Hand

PLAIN, FAILS = "test.effects.plain", "test.effects.fails"
ROWS, BEFORE_IT_FAILS, PHRASE = 40, 20, "BACKFILL"
REASON = {"code": "DATA_REPAIR", "text": "a test"}
WORKER = uuid.UUID(int=1)
FOR_LONG = 3600.0

groups, scopes = st.sampled_from([PLAIN, FAILS]), st.sampled_from([None, *NAMES])
callers, keys = st.sampled_from([0, 1]), st.sampled_from([None, None, "k1", "k2"])
recent = st.integers(0, 3)  # the newest is 0
Answer = tuple[int, str | None]


@dataclass(eq=False)
class Look:
    """A preflight that somebody made."""

    id: str
    who: int
    group: str
    tenant: str | None
    fresh: bool = True


@dataclass
class Office:
    """Two callers with a token each, at one application."""

    world: World
    callers: list[httpx.AsyncClient] = field(default_factory=list)

    async def open(self) -> None:
        """Let them in."""
        doors = await self.world.stack.enter_async_context(web.doors(self.world.plane))
        for number in (0, 1):
            capabilities = registry.capabilities()
            user = await web.platform_user(self.world.plane, *capabilities, email=f"machine{number}@ops.test")
            secret = await web.token(self.world.plane, user, *capabilities)
            self.callers.append(doors.client(Authorization=f"Bearer {secret}"))


class HttpMachine(RuleBasedStateMachine):
    """Every rule asks something, or lets workers do something, and knows what must come of it."""

    def __init__(self, office: Office) -> None:
        super().__init__()
        self.office, self.world, self.plane = office, office.world, office.world.plane
        self.runs: list[Run] = []
        self.looks: list[Look] = []
        self.hands: list[Hand] = []
        self.sources: dict[uuid.UUID, str] = {}
        self.deploys: dict[tuple[str, str], Run] = {}
        self.answers: dict[tuple[int, str], tuple[str, bytes]] = {}  # by caller and key: the request and its answer
        self.tokens: dict[Any, int] = {}
        self.world.empty()

    # ---- asking

    def ask(self, who: int, method: str, path: str, **request: Any) -> httpx.Response:
        answer = self.world.do(self.office.callers[who].request(method, f"/system/ops{path}", **request))
        assert answer.status_code < 500, self.world.defects()
        return answer

    @rule(who=callers, group=groups, tenant=scopes)
    def preflight(self, who: int, group: str, tenant: str | None) -> None:
        answer = self.ask(who, "POST", f"/runbooks/{group}/preflight", json={"scope": _scope(tenant)})
        _is(answer, (200, None))
        seen = answer.json()
        assert seen["affected_count"] == ROWS * (1 if tenant else len(NAMES))
        self.looks.append(Look(seen["preflight_id"], who, group, tenant))

    @precondition(lambda self: any(look.fresh for look in self.looks))
    @rule()
    def preflights_expire(self) -> None:
        self.world.sql("UPDATE preflights SET expires_at = now() - interval '1 minute'")
        for look in self.looks:
            look.fresh = False

    @rule(
        who=callers, group=groups, tenant=scopes, key=keys, reason=st.sampled_from([REASON, REASON, None]),
        phrase=st.sampled_from([PHRASE, PHRASE, PHRASE, None, "PLEASE"]), force=st.booleans(),
    )  # fmt: skip
    def start(
        self, who: int, group: str, tenant: str | None, key: str | None, reason: Any, phrase: str | None, *, force: bool
    ) -> None:
        body = {"scope": _scope(tenant), "reason": reason, "confirmation": phrase, "force": force}
        self._start(who, group, tenant, key, body)

    @precondition(lambda self: self.looks)
    @rule(which=recent, who=st.sampled_from([None, None, None, 0, 1]), other=st.booleans(), tenant=scopes, key=keys)
    def start_from_a_preflight(
        self, which: int, who: int | None, tenant: str | None, key: str | None, *, other: bool
    ) -> None:
        look = _newest(self.looks, which)
        who, tenant = look.who if who is None else who, tenant if other else look.tenant
        body = {"scope": _scope(tenant), "reason": REASON, "confirmation": PHRASE, "preflight_id": look.id}
        fits = look.fresh and (look.who, look.tenant) == (who, tenant)
        if self._start(who, look.group, tenant, key, body, fits=fits):
            look.fresh = False

    def _start(
        self, who: int, group: str, tenant: str | None, key: str | None, body: dict[str, Any], *, fits: bool = True
    ) -> bool:
        path = f"/runbooks/{group}/start"
        expected = self._refusal_of(tenant, body) or self._of_key(who, key, (path, body))
        held = holders(self.runs, group, tenant)
        expected = expected or ((409, "scope_locked") if held else (202, None) if fits else (409, "preflight_stale"))
        answer = self._send(who, path, body, key, expected)
        if answer is not None and held and answer.status_code == 409:
            assert answer.json()["active_run_id"] in {str(run.id) for run in held}
        return self._began(answer, group, tenant, "api")

    def _refusal_of(self, tenant: str | None, body: dict[str, Any]) -> Answer | None:
        if body["confirmation"] != PHRASE and (tenant is None or body["confirmation"] is not None):
            return 422, "confirmation_mismatch"
        return (422, "reason_required") if tenant is None and body["reason"] is None else None

    def _of_key(self, who: int, key: str | None, request: Any) -> Answer | None:
        if key is None or (who, key) not in self.answers:
            return None
        same = self.answers[who, key][0] == json.dumps(request)
        return (202, "replayed") if same else (422, "idempotency_key_reused")

    def _send(self, who: int, path: str, body: Any, key: str | None, expected: Answer) -> httpx.Response | None:
        """The answer to a request that is no repeat."""
        answer = self.ask(who, "POST", path, json=body, headers={"Idempotency-Key": key} if key else {})
        if expected == (202, "replayed"):
            assert key is not None
            _is(answer, (202, None))
            assert answer.headers["Idempotent-Replayed"] == "true"
            assert answer.content == self.answers[who, key][1], "a replay is not the first answer"
            return None
        _is(answer, expected)
        if key is not None and answer.status_code == 202:
            self.answers[who, key] = (json.dumps((path, body)), answer.content)
        return answer

    def _began(
        self, answer: httpx.Response | None, group: str, tenant: str | None, source: str, old: Run | None = None
    ) -> bool:
        if answer is None or answer.status_code != 202:
            return False
        shown = answer.json()
        assert answer.headers["Location"] == f"/system/ops/runs/{shown['id']}"
        run = self._knows(uuid.UUID(shown["id"]), group, tenant, source, old)
        assert shown["status"] == run.status
        return True

    def _knows(self, run_id: uuid.UUID, group: str, tenant: str | None, source: str, old: Run | None = None) -> Run:
        run = Run(run_id, group, tenant, retry_of=old)
        self.runs.append(run)
        self.sources[run_id] = source
        return run

    @precondition(lambda self: self.runs)
    @rule(who=callers, which=recent, what=st.sampled_from(Ask))
    def control(self, who: int, which: int, what: Ask) -> None:
        run = _newest(self._that_are("queued", "running", "pausing", "paused", "cancelling"), which)
        came = run.ask(what)
        answer = self.ask(who, "POST", f"/runs/{run.id}/{what}", json={})
        _is(answer, (409, "invalid_transition") if came == "refused" else (202, None))
        if came != "refused":
            self._is_shown(run, answer.json())

    @precondition(lambda self: self.runs)
    @rule(who=callers, which=recent, key=keys)
    def retry_failed(self, who: int, which: int, key: str | None) -> None:
        old = _newest(self._that_are("completed"), which)
        path = f"/runs/{old.id}/retry-failed"
        expected: Answer | None = None
        if old.status != "completed" or not old.failed():
            expected = (409, "invalid_transition")
        expected = expected or self._of_key(who, key, (path, {}))
        held = holders(self.runs, old.group, old.tenant)
        answer = self._send(who, path, {}, key, expected or ((409, "scope_locked") if held else (202, None)))
        self._began(answer, old.group, old.tenant, "api", old)

    @rule(who=callers, what=st.sampled_from(["", "/pause", "/resume", "/cancel", "/retry-failed", "/items"]))
    def ask_for_no_run(self, who: int, what: str) -> None:
        method = "GET" if what in {"", "/items"} else "POST"
        _is(self.ask(who, method, f"/runs/{uuid.UUID(int=7)}{what}"), (404, "not_found"))

    # ---- looking

    @precondition(lambda self: self.runs)
    @rule(who=callers, which=recent)
    def show(self, who: int, which: int) -> None:
        run = _newest(self.runs, which)
        answer = self.ask(who, "GET", f"/runs/{run.id}")
        _is(answer, (200, None))
        self._is_shown(run, answer.json())

    def _is_shown(self, run: Run, shown: dict[str, Any]) -> None:
        assert (shown["status"], shown["outcome"]) == (run.status, run.outcome)
        assert shown["can"] == {
            "pause": run.status == "running",
            "resume": run.status in {"pausing", "paused"},
            "cancel": run.status in {"queued", "running", "pausing", "paused"},
            "retry_failed": run.status == "completed" and bool(run.failed()),
        }
        assert shown["context"]["updated_count"] == sum(item.updated for item in run.items.values())
        assert shown["retry_of_run_id"] == (str(run.retry_of.id) if run.retry_of else None)

    @rule(
        who=callers, group=st.sampled_from([None, PLAIN, FAILS]), tenant=scopes,
        status=st.sampled_from([None, None, "queued", "running", "paused", "completed"]),
        source=st.sampled_from([None, None, "api", "deploy_hook"]), limit=st.sampled_from([1, 3, 50]),
    )  # fmt: skip
    def list_runs(
        self, who: int, group: str | None, tenant: str | None, status: str | None, source: str | None, limit: int
    ) -> None:
        wanted = [
            str(run.id)
            for run in reversed(self.runs)
            if group in {None, run.group} and tenant in {None, run.tenant} and status in {None, run.status}
            and source in {None, self.sources[run.id]}
        ]  # fmt: skip
        given = {"runbook": group, "tenant": tenant, "status": status, "source": source, "limit": limit}
        query = {name: value for name, value in given.items() if value is not None}
        page: dict[str, Any] = self.ask(who, "GET", "/runs", params=query).json()
        assert [run["id"] for run in page["items"]] == wanted[:limit]
        assert (page["next_cursor"] is not None) == (len(wanted) > limit)
        if page["next_cursor"]:
            rest = self.ask(who, "GET", "/runs", params=query | {"cursor": page["next_cursor"]}).json()
            assert [run["id"] for run in rest["items"]] == wanted[limit : 2 * limit]

    # ---- what goes on behind

    @rule(group=groups, release=st.sampled_from(["r1", "r2"]))
    def deploy(self, group: str, release: str) -> None:
        came = self.world.do(
            deploy.attempt(self.plane, registry.find(group), release=release, wait=False, ends=None)
        )  # fmt: skip
        known, held = self.deploys.get((group, release)), holders(self.runs, group, None)
        if known is None and held:
            assert (came.run, came.refusal and came.refusal.code) == (None, "scope_locked")
            return
        assert came.run is not None
        if known is None:
            known = self.deploys[group, release] = self._knows(came.run.id, group, None, "deploy_hook")
        assert (came.run.id, came.run.status) == (known.id, known.status)

    @precondition(lambda self: self.runs)
    @rule(which=recent)
    def work_starts(self, which: int) -> None:
        run = _newest(self._that_are("queued", "running"), which)
        self.world.do(work.begin(self.plane, run.id))
        run.begin()
        lease, name = self.world.do(work.claim(self.plane, run.id, WORKER, FOR_LONG)), run.next_item()
        assert (lease is None) == (name is None)
        if lease is not None and name is not None:
            item = run.items[name]
            item.state, item.token = "running", item.token + 1
            self.hands.append(Hand(lease, run, item, FOR_LONG))

    @precondition(lambda self: self.hands)
    @rule(which=recent)
    def work_ends(self, which: int) -> None:
        hand = _newest(self.hands, which)
        self.hands.remove(hand)
        self.world.do(work.finish(self.plane, hand.lease))
        hand.item.state = "succeeded" if hand.item.updated else "skipped"
        assert self.world.do(work.settle(self.plane, hand.run.id)) == hand.run.settle()

    @precondition(lambda self: self.hands)
    @rule(which=recent)
    def worker_dies(self, which: int) -> None:
        hand = _newest(self.hands, which)
        self.hands.remove(hand)
        hand.item.over = True
        self.world.sql(
            "UPDATE operation_run_items SET lease_until = 'epoch' WHERE run_id = $1 AND tenant_id = $2",
            hand.run.id, hand.lease.tenant_id,
        )  # fmt: skip
        self.world.do(work.sweep_one(self.plane, sweeper.free_leases))
        hand.run.free_leases()

    @precondition(lambda self: self.runs)
    @rule(which=recent)
    def drain(self, which: int) -> None:
        run = _newest(self._that_are("queued", "running"), which)
        self.world.do(support.drain(self.plane, run.id))
        run.begin()
        while (name := run.next_item()) is not None:
            item = run.items[name]
            broken = (run.group, name) == (FAILS, "globex")
            item.token, item.lost = self._raised(run, name, item.token), 0
            item.state = "failed" if broken else "succeeded"
            item.updated += BEFORE_IT_FAILS if broken else ROWS
        run.settle()

    def _raised(self, run: Run, name: str, before: int) -> int:
        """The token after a drain: a tenant may be claimed with others, given back untouched, and claimed again."""
        [row] = self.world.sql(
            "SELECT lease_token FROM operation_run_items WHERE run_id = $1 AND tenant_id = $2",
            run.id, self.world.tenants[name].id,
        )  # fmt: skip
        assert row["lease_token"] > before
        return int(row["lease_token"])

    @precondition(lambda self: self.runs)
    @rule()
    def sweep(self) -> None:
        self.world.do(sweeper.sweep(self.plane.db, self.plane.queue, self.plane.settings))
        for run in self.runs:
            run.begin()
            run.settle()

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        self.world.steps += 1
        assert not self.world.events() & {"sweep_step_failed", "unexpected_error", "refusal_not_audited"}
        seen = run_checks.look(self.world)
        run_checks.hold(seen, self.tokens)
        self.tokens = seen.tokens()
        run_checks.agree(seen, self.runs, self.world)

    def _that_are(self, *statuses: str) -> list[Run]:
        return [run for run in self.runs if run.status in statuses] or self.runs


def _is(answer: httpx.Response, expected: Answer) -> None:
    status, code = expected
    assert answer.status_code == status, answer.text
    if code is not None:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == code


def _scope(tenant: str | None) -> dict[str, str]:
    return {"kind": "single_tenant", "tenant_id": tenant} if tenant else {"kind": "all_tenants"}


def _newest(found: list[Any], which: int) -> Any:
    return found[-1 - which % len(found)]


@contextmanager
def _in_two_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        for group in (PLAIN, FAILS):
            patched.setattr(registry.find(group), "chunk", BEFORE_IT_FAILS)
        yield


@pytest.mark.timeout(0)  # shrinking what it finds, or a campaign, takes long
def test_every_answer_of_the_system_plane_is_what_the_model_says_in_whatever_order_it_is_asked(
    settings: Settings,
) -> None:
    with World(settings) as world, run_checks.watching(world), _in_two_chunks():
        office = Office(world)
        world.do(office.open())
        campaign(world, "the system plane", lambda: HttpMachine(office), examples=6)
