"""Files that verdicts are written to: JSON Lines, CSV, SQLite. Each write is whole or not at all.

A sink is used by one thread. What `write` has returned from is on the disk: it survives a kill of the process
and a loss of power, as far as the disk keeps what it was told to.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import sqlite3
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from cada_edge.errors import ConfigError, OutputError
from cada_edge.runtime.record import Record
from cada_edge.runtime.sink_base import Sink
from cada_edge.runtime.sqlite_sink import SqliteSink

__all__ = ["CsvSink", "JsonLinesSink", "Sink", "SqliteSink", "open_sink"]

_log = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 16

_CSV_BEGIN = re.compile(rb"\n(?=\d{4}-\d\d-\d\dT[\d:.]+Z,)")
"""What stands before a record: its time comes first."""


class _TextSink(Sink[Record]):
    """A text file with one record a line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file: int | None = None
        self._size = 0

    @abstractmethod
    def _lines(self, records: Sequence[Record]) -> str:
        """Return the records as lines, each with its newline."""

    def _header(self) -> str:
        """Return what an empty file begins with."""
        return ""

    @abstractmethod
    def _is_first_line(self, line: str) -> bool:
        """Tell whether a file of ours may begin with this line, given without its newline."""

    @abstractmethod
    def _is_torn_line(self, text: str) -> bool:
        """Tell whether a process that was killed in its first write may have left this."""

    def write(self, records: Sequence[Record]) -> None:
        if self._file is None or self._is_gone() or os.fstat(self._file).st_size < self._size:
            self.close()
            self._open()
            self._remember()
        assert self._file is not None
        size = os.fstat(self._file).st_size
        text = self._lines(records) if size else self._header() + self._lines(records)
        data = text.encode()
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            os.fsync(self._file)
        except OSError:
            # A full disk takes a part: the file goes back to its last whole record.
            self._restore(size)
            raise
        self._size = size + len(data)

    def _restore(self, size: int) -> None:
        assert self._file is not None
        try:
            # Whoever has cut it meanwhile, as copytruncate does, gets no zeros in place of what was there.
            if os.fstat(self._file).st_size > size:
                os.ftruncate(self._file, size)
        except OSError:
            _log.exception("%s cannot be cut back to its last whole record", self.path)
        self.close()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(file).st_size
            self._require_ours(file, size)
            whole = self._whole_size(file, size)
            if whole < size:
                # A process that was killed in the middle of a line has left its beginning.
                _log.warning("%s: %d bytes of an unfinished record are cut off", self.path, size - whole)
                os.ftruncate(file, whole)
            if size == 0:
                _sync_folder(self.path.parent)
        except BaseException:
            os.close(file)
            raise
        self._file, self._size = file, whole

    def _whole_size(self, file: int, size: int) -> int:
        """Return the size of the file up to the end of its last whole record."""
        end = size
        while end > 0:
            start = max(0, end - _BLOCK_BYTES)
            found = os.pread(file, end - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0

    def _require_ours(self, file: int, size: int) -> None:
        """Refuse a file of somebody else's, before anything of it is cut off or put behind it."""
        line, newline, _ = os.pread(file, _BLOCK_BYTES, 0).partition(b"\n")
        if newline:
            is_ours = self._is_first_line(line.decode("utf-8-sig", errors="replace"))
        else:
            # A loss of power may leave zeros where the data did not come to the disk.
            is_ours = self._is_torn_line(line.rstrip(b"\0").decode(errors="replace"))
        if not is_ours:
            raise OutputError(
                f"The record {self.path} ({size} bytes) begins with what is no verdict; wanted an empty "
                "file, or one that an earlier run has written. Name another file, or move this one away: it "
                "was not changed."
            )

    def close(self) -> None:
        # Also a close that fails gives the descriptor back: another file may have it by then.
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


class JsonLinesSink(_TextSink):
    """One JSON object a line, with the fields of `Record`."""

    def _lines(self, records: Sequence[Record]) -> str:
        names = Record.columns()
        rows = (dict(zip(names, record.values(), strict=True)) for record in records)
        return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)

    def _is_first_line(self, line: str) -> bool:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return False
        return isinstance(row, dict) and row.keys() >= set(Record.columns())

    def _is_torn_line(self, text: str) -> bool:
        place, lead = 0, "{"
        for name in Record.columns():
            lead += f'"{name}": '
            rest = text[place:]
            if not rest.startswith(lead):
                # The number before it may be torn as well: 1. or 1e-
                return lead.startswith(rest) or not rest.strip("0123456789.eE+-")
            try:
                _, place = json.JSONDecoder().raw_decode(text, place + len(lead))
            except ValueError:
                return True
            lead = ", "
        return "}".startswith(text[place:])


class CsvSink(_TextSink):
    """Comma-separated values with a header; None is empty, verdicts are 0 and 1."""

    def _header(self) -> str:
        return _csv_lines([Record.columns()])

    def _lines(self, records: Sequence[Record]) -> str:
        rows = [
            [int(value) if isinstance(value, bool) else value for value in each.values()] for each in records
        ]
        return _csv_lines(rows)

    def _whole_size(self, file: int, size: int) -> int:
        whole = super()._whole_size(file, size)
        start = max(0, whole - _BLOCK_BYTES)
        tail = os.pread(file, whole - start, start)
        begins = [found.end() for found in _CSV_BEGIN.finditer(tail)]
        # A source's name may have newlines, and one within quotes ends no record.
        is_torn = bool(begins) and tail.count(b'"', begins[-1]) % 2 == 1
        return start + begins[-1] if is_torn else whole

    def _is_first_line(self, line: str) -> bool:
        return line.rstrip("\r") == self._header().rstrip("\n")

    def _is_torn_line(self, text: str) -> bool:
        return self._header().startswith(text)


_KINDS: dict[str, type[Sink[Record]]] = {
    ".jsonl": JsonLinesSink,
    ".csv": CsvSink,
    ".db": SqliteSink,
    ".sqlite": SqliteSink,
    ".sqlite3": SqliteSink,
}


def open_sink(path: str | Path) -> Sink[Record]:
    """Choose a sink by a file's extension, and check that it can be written.

    Args:
        path: Ends in .jsonl, .csv, .db, .sqlite or .sqlite3; a file that is there is appended to.

    Raises:
        ConfigError: Another extension.
        OutputError: The file cannot be written, or holds something else than verdicts.
    """
    path = Path(path)
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(
            f"The record {path.name} has the extension {path.suffix!r}; wanted one of {', '.join(_KINDS)}. "
            "Pass --record verdicts.db for SQLite."
        )
    sink = kind(path)
    try:
        sink.write([])
    except OutputError:
        raise
    except (OSError, sqlite3.Error) as error:
        raise OutputError(
            f"The record {path} cannot be written: {error}; wanted a file to append verdicts to. Check its "
            "folder and permissions, or name another file."
        ) from error
    return sink


def _csv_lines(rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _sync_folder(folder: Path) -> None:
    """Bring a new file's name to the disk too, where the system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
