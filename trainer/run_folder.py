"""The folder of a training run: one run at a time, and none overwrites another by accident."""

from __future__ import annotations

import errno
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cada_edge.errors import ConfigError, OutputError

__all__ = ["CHECKPOINT", "LOG", "STATE", "TENSORBOARD", "claim_run_folder", "discard_results"]

STATE = "state.pt"
"""The resumable state of the base's training."""

CHECKPOINT = "checkpoint.pt"
"""What a finished run leaves."""

LOG = "log.jsonl"
"""The run's log (`cada_edge.trainer.run_log`); alone it keeps no run from starting anew in the folder."""

TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's event files."""

_LOCK = ".lock"


@contextmanager
def claim_run_folder(run: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Make a run folder and keep it for this run while the block lasts.

    Args:
        run: The folder; made when missing.
        resume: What an earlier run left may be there, to go on from.
        overwrite: What an earlier run left may be there; `discard_results` removes it.

    Raises:
        ConfigError: Both resume and overwrite.
        OutputError: The folder cannot be written, another run holds it, or an earlier one's files are there.
    """
    if resume and overwrite:
        raise ConfigError(
            "resume and overwrite came together; wanted one of them. "
            "Pass --resume to go on, or --overwrite to start again."
        )
    _make_folder(run)
    with _locked(run):
        found = [name for name in (STATE, CHECKPOINT) if (run / name).exists()]
        if found and not (resume or overwrite):
            raise OutputError(
                f"The run folder {run} holds {' and '.join(found)} of an earlier run; "
                "wanted an empty folder. "
                "Pass --resume to go on, --overwrite to start again, or another folder with --out."
            )
        yield


def discard_results(run: Path) -> None:
    """Remove what an earlier run left, so that nothing can be taken for this run's."""
    for name in (CHECKPOINT, STATE, LOG):
        (run / name).unlink(missing_ok=True)
    for file in (run / TENSORBOARD).glob("events.out.tfevents.*"):
        file.unlink(missing_ok=True)


def _make_folder(run: Path) -> None:
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe = run / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"The run folder {run} cannot be written: {error.strerror or error}. Pass another one with --out."
        ) from error


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel gives it back when a process dies, so no lock is ever stale."""
    if importlib.util.find_spec("fcntl") is None:
        # Windows has no such lock.
        yield
        return
    path = run / _LOCK
    handle = _open_locked(path)
    try:
        yield
    finally:
        # Removed while it is still held: nobody can hold the file under this name at that moment.
        path.unlink(missing_ok=True)
        os.close(handle)


def _open_locked(path: Path) -> int:
    import fcntl

    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OutputError(
                f"The lock {path} cannot be written: {error.strerror or error}. "
                "Remove it when no run is at work there, or pass another folder with --out."
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A run that ended meanwhile has removed the file that was opened: a lock on that guards nothing.
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return handle  # a network drive without locks
            os.close(handle)
            raise OutputError(
                f"The run folder {path.parent} is in use by another run; wanted one run in a folder. "
                "Wait for it to end, or pass another folder with --out."
            ) from error
        os.close(handle)
