"""Batches of frames from several sources, each in its turn; no frame that was taken is ever left behind.

Waiting for more frames pays where cameras are triggered together and is time lost where they are not, so a
batch waits as long as waits bring something.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Mapping

from cada_edge.errors import SourceLostError
from cada_edge.runtime.buffered_source import BufferedSource
from cada_edge.runtime.source_base import Frame
from cada_edge.runtime.source_names import SourceNames

__all__ = ["FairBatches"]

_MOST_VAIN_WAITS = 4
"""In a row, before batches go as they are."""

_BATCHES_A_TRIAL = 17
"""Then one batch in so many waits again: cameras may be triggered together later on. A prime, so that with a
few cameras each has its turn of being the first."""


class FairBatches:
    """Takes frames of sources that share one condition; one thread takes, any may pause, resume and stop."""

    def __init__(
        self,
        sources: Mapping[str, BufferedSource],
        changed: threading.Condition,
        *,
        batch: int,
        batch_timeout_s: float,
        names: SourceNames | None = None,
    ) -> None:
        """Prepare.

        Args:
            sources: Name -> source.
            changed: The condition of all their buffers.
            batch: Most frames in a batch.
            batch_timeout_s: Longest wait for more once there is one, in seconds. When waits have brought
                nothing, most batches go as they are.
            names: What each frame is called, so that two sources can be told apart; None: as its source.
        """
        self._sources = list(sources.items())
        self._names = names or SourceNames()
        self._changed = changed
        self._batch = batch
        self._timeout_s = batch_timeout_s
        self._turn = 0
        self._vain = 0  # waits in a row that brought nothing
        self._since_trial = 0
        self._is_stopping = self._is_paused = False
        self._error: BaseException | None = None
        self.lost: SourceLostError | None = None
        """Of the first live source that was given up: the others go on, and it is raised when they end."""

    def pause(self) -> None:
        """Take no more frames until `resume`."""
        self._is_paused = True

    def resume(self) -> None:
        """Go on after `pause`."""
        with self._changed:
            self._is_paused = False
            self._changed.notify_all()

    def stop(self) -> None:
        """Take no more frames."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    @property
    def is_paused(self) -> bool:
        """Whether `pause` was called, and `resume` not since."""
        return self._is_paused

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._is_stopping

    def fail(self, error: BaseException) -> None:
        """Raise an error at the next `take`, after the frames that were taken before it."""
        self._error = self._error or error

    def take(self) -> list[Frame] | None:
        """Take up to a batch of frames, one a source in turn.

        Returns:
            At least one frame; None when there will be no more.

        Raises:
            BaseException: What ended a source, once every frame taken before it was given.
        """
        frames: list[Frame] = []
        deadline = 0.0
        has_waited = False
        while True:
            if self._error is not None:
                if frames:
                    return frames
                error, self._error = self._error, None
                raise error
            if self._is_stopping:
                return frames or None
            if not self._is_paused:
                taken = self._take_round(self._batch - len(frames))
                if taken and not frames:
                    deadline = time.monotonic() + (self._timeout_s if self._is_wait_worthwhile() else 0)
                elif taken and has_waited:
                    self._vain = 0
                frames += taken
            if len(frames) == self._batch:
                return frames
            with self._changed:
                if (
                    self._error is not None
                    or self._is_stopping
                    or (not self._is_paused and self._has_waiting())
                ):
                    continue
                if not self._is_paused and all(source.buffer.exhausted for _, source in self._sources):
                    return frames or None
                left = deadline - time.monotonic() if frames else None
                if left is not None and left <= 0:
                    return frames
                if frames and not has_waited:
                    has_waited = True
                    self._vain += 1  # until a frame comes
                self._changed.wait(left)

    def _is_wait_worthwhile(self) -> bool:
        """Judge by the waits before this one."""
        if self._vain < _MOST_VAIN_WAITS:
            return True
        self._since_trial = (self._since_trial + 1) % _BATCHES_A_TRIAL
        return self._since_trial == 0

    def _has_waiting(self) -> bool:
        return any(source.buffer.ready for _, source in self._sources)

    def _take_round(self, most: int) -> list[Frame]:
        """Take one frame of each source in turn; the next round begins with the source after the last."""
        frames: list[Frame] = []
        first = self._turn
        for step in range(len(self._sources)):
            if len(frames) == most:
                break
            position = (first + step) % len(self._sources)
            name, source = self._sources[position]
            try:
                frame = source.buffer.take(0)
            except SourceLostError as error:
                self.lost = self.lost or error
                continue
            except BaseException as error:  # any: it is raised after the frames that are already in hand
                self.fail(error)
                break
            if frame is not None:
                called = self._names.of_frame(name, frame.source_id, source.source_id)
                if called != frame.source_id:
                    frame = dataclasses.replace(frame, source_id=called)
                frames.append(frame)
                self._turn = (position + 1) % len(self._sources)
        return frames
