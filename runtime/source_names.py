"""Names by which a run tells its sources apart: in results, records, counts, events and on the page."""

from __future__ import annotations

import threading

__all__ = ["SourceNames"]

_NAMELESS = ("iterable", "callable")
"""What `cada_edge.runtime.sources.source_name` says of an application's own frames."""


_MOST_BROUGHT = 64
"""Names that a source's frames bring and that are told apart; of more there may be one for each part."""


class SourceNames:
    """Names of a run's sources, each of one source alone; from any thread.

    A source is called what the application called it, or by its path or address, and so are its frames. Where
    it is a generator or function without a name, and its frames bring one of their own, it is called by that.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used: set[str] = set()
        self._brought: dict[str, dict[str, str]] = {}

    def add(self, wanted: str) -> str:
        """Return the name of one more source: the wanted one, or that with a number.

        Args:
            wanted: As from `cada_edge.runtime.sources.source_name`.
        """
        with self._lock:
            name = self._unused(wanted)
            if wanted in _NAMELESS:
                self._brought[name] = {}
            return name

    def of_frame(self, source: str, brought: str, given: str) -> str:
        """Return the name of a frame.

        Args:
            source: As `add` gave it.
            brought: The name that the frame came with.
            given: The name that the source itself gives to frames that bring none.
        """
        with self._lock:
            known = self._brought.get(source)
            if known is None or brought in (source, given):
                return source
            if brought not in known:
                if len(known) >= _MOST_BROUGHT:
                    return brought
                known[brought] = self._unused(brought)
            return known[brought]

    def of_source(self, source: str) -> str:
        """Return the name under which a source is counted: the first that its frames brought, or its own."""
        with self._lock:
            return next(iter(self._brought.get(source, {}).values()), source)

    def _unused(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._used:
            number += 1
            name = f"{wanted} ({number})"
        self._used.add(name)
        return name
