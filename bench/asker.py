"""`python -m bench.asker ADDRESS PATH CONNECTIONS SECONDS`, token on standard input: ask for a page again and again.

A process of its own, so that the server has its core for itself.
"""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass

import uvloop

from bench.client import Client


@dataclass
class Heard:
    """How often a server answered, how long that took, and how large an answer is."""

    per_s: float
    answers_ms: list[float]
    size: int


async def ask(address: str, path: str, token: str, *, connections: int, seconds: float) -> Heard:
    """Ask from another process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.asker", address, path, str(connections), str(seconds),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    told, _ = await process.communicate(token.encode())
    return Heard(**json.loads(told))


async def _ask(address: str, path: str, token: str, *, connections: int, seconds: float) -> Heard:
    clients = [await Client.connected(address, token) for _ in range(connections)]
    for client in clients:
        first = await client.get(path)
        first.json()
    began = time.perf_counter()
    answers = await asyncio.gather(*(_again(client, path, until=began + seconds) for client in clients))
    taken = [took for of_one in answers for took in of_one]
    return Heard(len(taken) / (time.perf_counter() - began), taken, len(first.body))


async def _again(client: Client, path: str, *, until: float) -> list[float]:
    took: list[float] = []
    while (began := time.perf_counter()) < until:
        if (await client.get(path)).status != 200:
            raise RuntimeError("refused")
        took.append((time.perf_counter() - began) * 1000)
    return took


if __name__ == "__main__":
    heard = uvloop.run(
        _ask(sys.argv[1], sys.argv[2], sys.stdin.read(), connections=int(sys.argv[3]), seconds=float(sys.argv[4]))
    )
    sys.stdout.write(json.dumps(vars(heard)))
