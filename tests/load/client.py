"""Many watchers in one process: notes when each of them first saw each mark; `python -m tests.load.client`."""

import asyncio
import json
import re
import sys
import time
from urllib.parse import urlsplit

MARK = re.compile(rb'"release":"m(\d+)"')
LONGEST_LINE = 1 << 20

Sightings = list[tuple[int, float]]


async def watch(address: str, path: str, token: str, seen: Sightings, ready: asyncio.Semaphore) -> None:
    """Read one stream as bytes: a client that parses would be what is measured."""
    url = urlsplit(address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=LONGEST_LINE)
    asked = f"GET {path} HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
    writer.write(asked.encode())
    begun = False
    while line := await reader.readline():
        if not line.startswith(b"data: "):
            continue
        if not begun:
            ready.release()
            begun = True
        if (found := MARK.search(line)) and (not seen or seen[-1][0] < int(found[1])):
            seen.append((int(found[1]), time.monotonic()))  # the clock of the whole machine
    writer.close()


async def main(address: str, path: str, token: str, watchers: int) -> None:
    """Say `ready` when all watch, and what all saw when standard input closes."""
    ready, seen = asyncio.Semaphore(0), [Sightings() for _ in range(watchers)]
    tasks = [asyncio.create_task(watch(address, path, token, mine, ready)) for mine in seen]
    for _ in range(watchers):
        await ready.acquire()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    ended = sum(task.done() for task in tasks)
    sys.stdout.write(json.dumps({"seen": seen, "ended": ended}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
