"""One item at a time from a thread to the next one, with an end that both sides can bring about."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Handoff"]

_T = TypeVar("_T")


class Handoff(Generic[_T]):
    """A bounded queue between two stages of a pipeline.

    `queue.Queue` cannot be closed before Python 3.13, so a stage whose neighbour failed would wait forever.
    """

    def __init__(self, capacity: int = 1) -> None:
        self._items: deque[_T] = deque()
        self._capacity = capacity
        self._changed = threading.Condition()
        self._finished = False
        self._closed = False

    def put(self, item: _T) -> bool:
        """Hand an item over, waiting for room; False when the taker has closed: the item is not taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._capacity)
            if self._closed:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def wait_for_room(self) -> bool:
        """Wait until an item can be put without waiting; False when the taker has closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._capacity)
            return not self._closed

    def take(self) -> _T | None:
        """Wait for the next item; None when there are no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._finished or self._closed)
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def finish(self) -> None:
        """Tell the taker that no more items come."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """Tell the giver that no more items are taken; those that wait are given up."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return len(self._items)
