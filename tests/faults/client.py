"""Starts and controls runs over HTTP as a careful client does: again and again, until there is an answer."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

TIMEOUT_S = 10.0
PATIENCE_S = 120.0
PAUSE_S = 0.5
REASON = {"code": "DATA_REPAIR", "text": "a run for the nemesis"}


@dataclass
class Start:
    """One start, asked for as often as it took; `runs` are the ids of every answer that named one."""

    key: str
    runbook: str
    tenant: str | None
    runs: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    refused: bool = False
    problem: str | None = None
    seconds: float = 0.0

    @property
    def body(self) -> dict[str, object]:
        """What is posted."""
        scope = {"kind": "all_tenants"} if self.tenant is None else {"kind": "single_tenant", "tenant_id": self.tenant}
        return {"scope": scope, "confirmation": "BACKFILL", "reason": REASON}


async def ask(url: str, token: str, start: Start) -> None:
    """Ask until it is answered for good; then once more, for the same answer."""
    began = time.monotonic()
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": start.key}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_S) as client:
        while time.monotonic() < began + PATIENCE_S:
            if await _answered(client, start):
                start.seconds = round(time.monotonic() - began, 1)
                return
            await asyncio.sleep(PAUSE_S)
    start.problem = f"no answer to {start.key} in {PATIENCE_S:.0f} s"


async def again(url: str, token: str, start: Start) -> None:
    """Ask once more when all is over: the answer must be the first one."""
    if start.refused or start.problem:
        return
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": start.key}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_S) as client:
        answer = await _ask(client, start)
        if answer is None or answer.headers.get("Idempotent-Replayed") != "true":
            start.problem = f"{start.key} was not replayed: {answer and answer.text[:300]}"
            return
        start.runs.append(answer.json()["id"])


async def control(url: str, token: str, start: Start, acts: Sequence[tuple[float, str]]) -> None:
    """Pause, resume, cancel the run of a start, each so many seconds after the act before it."""
    for wait_s, what in acts:
        await asyncio.sleep(wait_s)
        while not (start.runs or start.refused or start.problem):
            await asyncio.sleep(0.1)
        if start.runs:
            await _control(url, token, start, what)


async def _control(url: str, token: str, start: Start, what: str) -> None:
    """Ask until it is so, or is too late."""
    ends = time.monotonic() + PATIENCE_S
    async with httpx.AsyncClient(
        base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT_S
    ) as client:
        while time.monotonic() < ends:
            answer = await _post(client, start, f"/system/ops/runs/{start.runs[0]}/{what}", {}, note=f"{what} ")
            if answer is not None and answer.status_code < 500 and answer.status_code != 429:
                if answer.status_code not in {202, 409}:
                    start.problem = f"{what} of {start.key}: {answer.status_code} {answer.text[:300]}"
                return
            await asyncio.sleep(PAUSE_S)
    start.problem = f"no answer to {what} of {start.key}"


async def _answered(client: httpx.AsyncClient, start: Start) -> bool:
    answer = await _ask(client, start)
    if answer is None or answer.status_code >= 500 or answer.status_code == 429:
        return False
    if answer.status_code == 202:
        start.runs.append(answer.json()["id"])
        return True
    start.refused = answer.status_code == 409 and answer.json().get("code") == "scope_locked"
    if not start.refused:
        start.problem = f"{start.key}: {answer.status_code} {answer.text[:300]}"
    return True


async def _ask(client: httpx.AsyncClient, start: Start) -> httpx.Response | None:
    return await _post(client, start, f"/system/ops/runbooks/{start.runbook}/start", start.body)


async def _post(
    client: httpx.AsyncClient, start: Start, path: str, body: object, *, note: str = ""
) -> httpx.Response | None:
    try:
        answer = await client.post(path, json=body)
    except httpx.TransportError as error:
        start.answers[note + type(error).__name__] += 1
        return None
    start.answers[note + str(answer.status_code)] += 1
    return answer
