"""The log of a run: rows of JSON, one curve however often it was resumed, and TensorBoard's scalars.

Rows of `log.jsonl`, each with its kind in `row`: `header` (what is trained, on what, with what), `step`
(stage, iteration, loss, learning rate, images a second, seconds), `resumed`, and at the end `finished` or
`stopped`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from cada_edge.errors import OutputError
from cada_edge.files import write_atomic

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RunLog", "read_log"]

_FORMAT = "cada-edge-log"
_VERSION = 1
_FIRST_STAGE = "base"


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a log in order; a row cut short by a crash is left out.

    Args:
        path: The log.jsonl of a run folder; an empty list where there is none.
    """
    rows = []
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows


class RunLog:
    """Writes a run's log; a context manager that also notes how the run ended."""

    def __init__(
        self, path: Path, header: dict[str, Any], *, every: int, tensorboard: Path | None = None
    ) -> None:
        """Prepare; nothing is written before `start`.

        Args:
            path: The JSON Lines file.
            header: JSON-safe values of the header row.
            every: Iterations between two rows of a stage.
            tensorboard: Folder for event files; None for none. Needs the package tensorboard.
        """
        self._path = path
        self._header = header
        self._every = every
        self._folder = tensorboard
        self._file: IO[str] | None = None
        self._writer: Any = None
        self._seconds_before = 0.0
        self._began = self._last_time = time.perf_counter()
        self._stage = _FIRST_STAGE
        self._last_iteration = 0

    def start(self, iteration: int) -> None:
        """Begin a log, or go on with the one that is there: rows of what is repeated now are dropped.

        Args:
            iteration: Iterations of the base that are done; 0 for a new run.

        Raises:
            OutputError: The disk does not take it.
        """
        header = {
            "row": "header",
            "format": _FORMAT,
            "version": _VERSION,
            **self._header,
            "started_at": _now(),
        }
        rows = _kept(read_log(self._path), iteration) if iteration else []
        if rows:
            self._seconds_before = max(float(row.get("seconds", 0.0)) for row in rows)
            device = self._header.get("device")
            rows.append({"row": "resumed", "iteration": iteration, "device": device, "at": _now()})
        else:
            rows = [header]
        write_atomic(self._path, "".join(_line(row) for row in rows).encode())
        try:
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._refused(error) from error
        if self._folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            # Points of a broken-off run that lie behind the state it goes on from are hidden.
            self._writer = SummaryWriter(self._folder, purge_step=iteration + 1 if iteration else None)
        self._began = self._last_time = time.perf_counter()
        self._last_iteration = iteration

    def step(
        self, stage: str, iteration: int, total: int, loss: float, *, learning_rate: float, images: int
    ) -> None:
        """Note an iteration, if it is one of those that get a row: every so many, and the stage's last.

        Args:
            stage: Its name.
            iteration: Iterations done, from 1.
            total: The stage's.
            loss: Of this iteration, finite.
            learning_rate: Of this iteration.
            images: In a batch.

        Raises:
            OutputError: The disk does not take it.
        """
        if stage != self._stage:
            self._stage, self._last_iteration = stage, 0
        # Not a multiple: a stage may report some of its iterations only.
        early = iteration // self._every == self._last_iteration // self._every
        if self._file is None or (early and iteration != total):
            return
        now = time.perf_counter()
        done, passed = iteration - self._last_iteration, now - self._last_time
        values = {"loss": loss, "learning_rate": learning_rate, "images_per_s": done * images / passed}
        self._last_iteration, self._last_time = iteration, now
        seconds = round(self._seconds_before + now - self._began, 3)
        rounded = {**values, "images_per_s": round(values["images_per_s"], 2)}
        self._write({"row": "step", "stage": stage, "iteration": iteration, **rounded, "seconds": seconds})
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{stage}/{name}", value, iteration)

    def rest(self) -> None:
        """Leave the time until now out of the next row's rate: what was done was no training."""
        self._last_time = time.perf_counter()

    def finish(self, **values: Any) -> None:
        """Note that the run is done, with JSON-safe values."""
        self._write({"row": "finished", **values, "at": _now()})

    def _write(self, row: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(_line(row))
            self._file.flush()
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(
            f"Cannot write {self._path}: {error.strerror or error}. Free some space and run again with "
            "--resume, which goes on from the last state."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The run's own error is the one to report: not that its last row found no room.
        with contextlib.suppress(OSError):
            if error is not None:
                reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                self._write({"row": "stopped", "reason": reason, "at": _now()})
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _kept(rows: list[dict[str, Any]], iteration: int) -> list[dict[str, Any]]:
    """Choose the rows that stay when a run goes on from an iteration; none without a header."""
    if not rows or rows[0].get("row") != "header":
        return []
    base = [
        row
        for row in rows[1:]
        if (row.get("row") == "resumed" or (row.get("row") == "step" and row.get("stage") == _FIRST_STAGE))
        and isinstance(row.get("iteration"), int)
        and row["iteration"] <= iteration
    ]
    return [rows[0], *base]


def _line(row: dict[str, Any]) -> str:
    plain = {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
    return json.dumps(plain, allow_nan=False) + "\n"


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
