"""Long work of a native library in a thread of its own, so that Ctrl-C reaches the waiting one at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

__all__ = ["BuildProgress", "run_apart"]

_POLL_S = 0.2
"""Time between two reports of the progress, in seconds."""

_T = TypeVar("_T")


class BuildProgress:
    """How far a build is: written by the threads that build, read by the one that waits."""

    def __init__(self) -> None:
        # One tuple, set as a whole: a reader sees the old or the new one, never a mixture.
        self.now: tuple[str, int, int] = ("starting", 0, 0)
        """Phase, steps done, steps in all."""
        self.is_cancelled = False
        """Set to end the build at its next step."""
        self._steps: dict[str, int] = {}

    def start(self, phase: str, steps: int) -> None:
        """Note that a phase of so many steps begins."""
        self._steps[phase] = steps
        self.now = (phase, 0, steps)

    def step(self, phase: str, step: int) -> bool:
        """Note that a step of a phase, counted from 0, is done; return whether to go on."""
        self.now = (phase, step + 1, self._steps.get(phase, step + 1))
        return not self.is_cancelled


def run_apart(
    work: Callable[[BuildProgress], _T], progress: Callable[[str, int, int], None] | None = None
) -> _T:
    """Run work in another thread and report on it from this one.

    An exception here, as KeyboardInterrupt, cancels the work; it is raised once the work has ended.

    Args:
        work: Notes how far it is, and ends where it is told to.
        progress: Called in this thread, some times a second, with the phase, its steps done and its steps.

    Returns:
        What the work returns.
    """
    state = BuildProgress()
    with ThreadPoolExecutor(1, thread_name_prefix="engine-build") as pool:
        future = pool.submit(work, state)
        try:
            while not wait([future], timeout=_POLL_S).done:
                if progress is not None:
                    progress(*state.now)
        except BaseException:
            state.is_cancelled = True
            raise
        return future.result()
