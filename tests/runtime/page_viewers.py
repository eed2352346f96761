"""Viewers of the live page for test_page_viewers.py, polite and hostile ones, in a process of their own.

``python page_viewers.py HOST PORT POLITE HOSTILE``: each line on stdin, "go" or "rest", begins or ends their
work, and is answered with the number of answers that the polite ones have got so far.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

ENDLESS = b"GET /api/state HTTP/1.1\r\nHost: localhost\r\n"


class Viewers:
    """All of them."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self.may_work = asyncio.Event()
        self.answers = 0

    async def look(self) -> None:
        """Do what the page in a browser does: pictures, and every few of them figures and scores."""
        while True:
            await self.may_work.wait()
            try:
                reader, writer = await asyncio.open_connection(*self._address)
                for turn in range(10_000):
                    await self.may_work.wait()
                    path = "/api/live?seen=" if turn % 3 else random.choice(["/api/state", "/api/trace"])
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                    head = await reader.readuntil(b"\r\n\r\n")
                    (length,) = (
                        int(line.split(b":")[1])
                        for line in head.lower().split(b"\r\n")
                        if line.startswith(b"content-length")
                    )
                    await reader.readexactly(length)
                    assert b" 200 " in head.partition(b"\r\n")[0]
                    self.answers += 1
                    await asyncio.sleep(0.08)
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.1)

    async def harass(self, kind: int) -> None:
        """Ask and never read, send a byte now and then, send garbage, or a header without an end."""
        while True:
            await self.may_work.wait()
            try:
                _, writer = await asyncio.open_connection(*self._address, limit=1)
                for _ in range(50):
                    if kind == 0:
                        writer.write(b"GET /api/live?seen= HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    elif kind == 1:
                        writer.write(b"G")
                    elif kind == 2:
                        writer.write(os.urandom(2000))
                    else:
                        writer.write(ENDLESS + b"X-Long: " + b"x" * 900)
                    await asyncio.wait_for(writer.drain(), 1)
                    await asyncio.sleep(0.1)
                writer.close()
            except (OSError, asyncio.TimeoutError):
                await asyncio.sleep(0.1)


async def main(host: str, port: str, polite: str, hostile: str) -> None:
    """Work when told to."""
    viewers = Viewers(host, int(port))
    tasks = [asyncio.ensure_future(viewers.look()) for _ in range(int(polite))]
    tasks += [asyncio.ensure_future(viewers.harass(number % 4)) for number in range(int(hostile))]
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line == "go\n":
            viewers.may_work.set()
        else:
            viewers.may_work.clear()
        sys.stdout.write(f"{viewers.answers}\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    os.nice(15)  # in earnest they are other machines
    asyncio.run(main(*sys.argv[1:]))
