"""A bound on the memory of scores: what goes beyond it lies in a temporary file."""

from __future__ import annotations

import tempfile
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SMALLEST_LIMIT", "ScoreMemory", "StoredArray"]

SMALLEST_LIMIT = 1 << 20
"""Least memory, in bytes, that scores may be bounded to."""


class _Member(Protocol):
    """Something that holds scores."""

    @property
    def held_bytes(self) -> int: ...

    def spill(self) -> None: ...


class StoredArray:
    """An array of uint16 in a file; each slice of it is read when it is asked for, in any thread."""

    def __init__(self, file: BinaryIO, offset: int, length: int, lock: Lock) -> None:
        self._file = file
        self._offset = offset
        self._length = length
        self._lock = lock

    def __getitem__(self, part: slice) -> NDArray[np.uint16]:
        start, stop, _ = part.indices(self._length)
        found = bytearray(2 * max(stop - start, 0))
        view = memoryview(found)
        with self._lock:
            self._file.seek(self._offset + 2 * start)
            while view:
                # One call may give less than was asked for.
                read = self._file.readinto(view)  # type: ignore[attr-defined]
                if not read:
                    raise OutputError(
                        "The temporary file of pixel scores ended before its end; wanted all that was "
                        "written. Leave it in place until the evaluation is done."
                    )
                view = view[read:]
        return np.frombuffer(found, np.uint16)


class ScoreMemory:
    """Memory that several `ScoreRuns` share.

    When they hold more than the limit, the largest of them move to a file without name in the system's folder
    for temporary files (the environment variable TMPDIR names another), until they hold half of it. The file
    goes when this is closed, or when the process ends however it ends.

    Args:
        limit_bytes: Bytes of scores that may be in memory, at least 1 MiB; None for all of them.

    Raises:
        ConfigError: The limit is too small.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        if limit_bytes is not None and limit_bytes < SMALLEST_LIMIT:
            raise ConfigError(
                f"A memory limit of {limit_bytes} bytes came; wanted at least {SMALLEST_LIMIT} (1 MiB). "
                "Raise it, for example with --max-memory 1GiB, or leave it out."
            )
        self._limit = limit_bytes
        self._members: list[_Member] = []
        self._file: BinaryIO | None = None
        self._lock = Lock()
        self.stored_bytes = 0
        """Bytes in the file."""

    def join(self, member: _Member) -> None:
        """Let something share the memory."""
        self._members.append(member)

    def settle(self) -> None:
        """Move scores to the file if there are more than the limit.

        Raises:
            OutputError: The file cannot be written.
        """
        if self._limit is None:
            return
        held = sum(member.held_bytes for member in self._members)
        if held <= self._limit:
            return
        for member in sorted(self._members, key=lambda member: -member.held_bytes):
            held -= member.held_bytes
            member.spill()
            if held <= self._limit // 2:
                return

    def store(self, array: NDArray[np.uint16]) -> StoredArray:
        """Write an array to the file.

        Args:
            array: uint16 (N,), contiguous.

        Raises:
            OutputError: The disk does not take it.
        """
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 -- closed by close()
            offset = self.stored_bytes
            self._file.seek(offset)
            view = memoryview(array.tobytes())
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise OutputError(
                f"Cannot write {array.nbytes} bytes of pixel scores to a temporary file in "
                f"{tempfile.gettempdir()}: {error.strerror or error}. Set TMPDIR to a folder with more space "
                "(two bytes for each pixel of the maps), or raise --max-memory."
            ) from error
        self.stored_bytes += array.nbytes
        return StoredArray(self._file, offset, array.size, self._lock)

    def close(self) -> None:
        """Remove the file; the scores in it are lost."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
