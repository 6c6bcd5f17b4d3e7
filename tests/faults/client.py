"""Starts runs over HTTP as a careful client does: with an Idempotency-Key, and again until there is an answer."""

import asyncio
import time
from collections import Counter
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
    may_be_refused: bool = False
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
        answer = await _post(client, start)
        if answer is None or answer.headers.get("Idempotent-Replayed") != "true":
            start.problem = f"{start.key} was not replayed: {answer and answer.text[:300]}"
            return
        start.runs.append(answer.json()["id"])


async def _answered(client: httpx.AsyncClient, start: Start) -> bool:
    answer = await _post(client, start)
    if answer is None or answer.status_code >= 500 or answer.status_code == 429:
        return False
    if answer.status_code == 202:
        start.runs.append(answer.json()["id"])
        return True
    start.refused = answer.status_code == 409 and answer.json().get("code") == "scope_locked"
    if not (start.refused and start.may_be_refused):
        start.problem = f"{start.key}: {answer.status_code} {answer.text[:300]}"
    return True


async def _post(client: httpx.AsyncClient, start: Start) -> httpx.Response | None:
    try:
        answer = await client.post(f"/system/ops/runbooks/{start.runbook}/start", json=start.body)
    except httpx.TransportError as error:
        start.answers[type(error).__name__] += 1
        return None
    start.answers[str(answer.status_code)] += 1
    return answer
