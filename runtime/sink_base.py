"""What every sink has in common."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["ItemT", "Sink"]

ItemT = TypeVar("ItemT")
"""What the sink takes: a `cada_edge.runtime.record.Record`, or a picture."""


class Sink(ABC, Generic[ItemT]):
    """Where verdicts or pictures are written; used by one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        """The file, or the folder."""
        self._opened: os.stat_result | None = None

    @abstractmethod
    def write(self, records: Sequence[ItemT]) -> None:
        """Append records and bring them to the disk: all of them, or none when it raises.

        Raises:
            OSError: The file or the disk does not take them; it may be tried again.
            sqlite3.Error: The same, of a database.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the file back; harmless when called twice, and the next write opens it again."""

    def _remember(self) -> None:
        """Note which file was opened."""
        self._opened = self.path.stat()

    def _is_gone(self) -> bool:
        """Tell whether that file was moved away, as log rotation does, removed or replaced."""
        try:
            return self._opened is None or not os.path.samestat(self._opened, self.path.stat())
        except FileNotFoundError:
            return True
