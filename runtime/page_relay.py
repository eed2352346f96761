"""In the page's process: what the inspection was asked for, kept for a moment, so that viewers share it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cada_edge.runtime.page_link import Message

__all__ = ["Ask", "Relay"]

Ask = Callable[[dict[str, Any]], Message]
"""Asks the inspection; blocks; raises `EOFError` when it is gone."""

_STATE_S, _TRACE_S = 0.25, 0.5
"""How old an answer may be, in seconds."""

_LIVE_EVERY_S, _REJECTS_EVERY_S = 0.03, 0.25
"""How often the inspection is asked for pictures."""

_WATCHED_S = 2.0
"""Time for which somebody is thought to look on after asking."""

_REJECTS, _REJECTS_BYTES = 60, 48 << 20
"""Most pictures of rejects that are kept, and their size together."""


class Relay:
    """Asks one question at a time; every viewer is answered from what came last."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._executor = ThreadPoolExecutor(1)
        self._answers: dict[str, tuple[float, dict[str, Any]]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._live: dict[int, Message] = {}
        self._changed = asyncio.Condition()
        self._wanted = asyncio.Event()
        self._watched_until_s = 0.0
        self._rejects: OrderedDict[int, Message] = OrderedDict()
        self._rejects_bytes = 0

    async def ask(self, question: dict[str, Any]) -> Message:
        """Ask the inspection."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._ask, question)

    async def state(self) -> dict[str, Any]:
        """Return how everything is."""
        found = await self._recent("state", {"want": "state"}, _STATE_S)
        if not found:
            return {}  # the inspection failed to answer: no figure of ours may hide that
        return {
            **found,
            "rejects_kept": len(self._rejects),
            "newest_reject": next(reversed(self._rejects), 0),
        }

    async def trace(self, span: str) -> dict[str, Any]:
        """Return the scores over a span."""
        return await self._recent(f"trace {span}", {"want": "trace", "span": span}, _TRACE_S)

    async def _recent(self, name: str, question: dict[str, Any], age_s: float) -> dict[str, Any]:
        async with self._locks.setdefault(name, asyncio.Lock()):
            at_s, head = self._answers.get(name, (0.0, {}))
            if not head or time.monotonic() - at_s > age_s:
                head = (await self.ask(question)).head
                self._answers[name] = (time.monotonic(), head)
            return head

    async def live(self, seen: dict[int, int], wait_s: float) -> list[Message]:
        """Wait for pictures that a viewer has not seen.

        Args:
            seen: Position of a source -> number of its picture that the viewer has.
            wait_s: Longest wait.

        Returns:
            The newest of each source that has a newer one; empty when the time is up.
        """
        deadline = time.monotonic() + wait_s
        while True:
            self._watched_until_s = time.monotonic() + _WATCHED_S
            self._wanted.set()
            found = [
                each for position, each in self._live.items() if each.head["number"] != seen.get(position)
            ]
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            async with self._changed:
                try:
                    await asyncio.wait_for(self._changed.wait(), left)
                except asyncio.TimeoutError:
                    return []

    def rejects(self) -> list[dict[str, Any]]:
        """List the rejects that have a picture, the newest first."""
        return [each.head for each in reversed(self._rejects.values())]

    def reject(self, number: int) -> Message | None:
        """Return a reject's pictures; None when it is no longer kept."""
        return self._rejects.get(number)

    async def follow_live(self) -> None:
        """Ask for live pictures for as long as somebody looks; never returns."""
        while True:
            if time.monotonic() > self._watched_until_s:
                # What was shown last is old when the next viewer comes: he waits for a new one.
                self._live.clear()
                self._wanted.clear()
                await self._wanted.wait()
                continue
            have = {str(position): each.head["number"] for position, each in self._live.items()}
            drawn = await self.ask({"want": "live", "have": have})
            if drawn.head:
                async with self._changed:
                    self._live[drawn.head["source"]] = drawn
                    self._changed.notify_all()
            await asyncio.sleep(_LIVE_EVERY_S)

    async def follow_rejects(self) -> None:
        """Ask for rejects, whoever looks: the morning wants to see the night's; never returns."""
        while True:
            drawn = await self.ask({"want": "reject"})
            if drawn.head:
                self._keep(drawn)
            await asyncio.sleep(_REJECTS_EVERY_S)

    def _keep(self, reject: Message) -> None:
        self._rejects[reject.head["number"]] = reject
        self._rejects_bytes += _size(reject)
        while len(self._rejects) > _REJECTS or (
            self._rejects_bytes > _REJECTS_BYTES and len(self._rejects) > 1
        ):
            _, oldest = self._rejects.popitem(last=False)
            self._rejects_bytes -= _size(oldest)


def _size(message: Message) -> int:
    return sum(map(len, message.parts)) + len(json.dumps(message.head))
