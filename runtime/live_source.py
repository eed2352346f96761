"""A live source that is kept alive: a thread takes its frames, another one opens it anew when it is lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from cada_edge.errors import ConfigError, SourceError, SourceLostError
from cada_edge.runtime.buffered_source import BufferedSource
from cada_edge.runtime.camera import Camera, CameraOptions
from cada_edge.runtime.frame_buffer import DropPolicy, FrameBuffer
from cada_edge.runtime.live_address import LiveAddress, redact
from cada_edge.runtime.source_base import Frame
from cada_edge.runtime.stream_events import EventKind, OnStatus, Throttle, make_corrupt_event, make_event

__all__ = ["LiveSource", "Reconnect"]

_MOST_HANGING = 4
"""Connections whose thread hangs in the driver: while there are so many, no further one is opened."""


@dataclass(frozen=True)
class Reconnect:
    """How a lost source is opened again: after waits that double, with jitter, up to a cap."""

    first_delay_s: float = 0.5
    """Wait before the first attempt, in seconds, at least 0."""
    longest_delay_s: float = 30.0
    """Cap of the wait, in seconds."""
    jitter: float = 0.2
    """Each wait is made longer or shorter by up to this share, 0-1: cameras behind one switch that came back
    should not all be asked at once. At the cap they are spread below it."""
    limit: int | None = None
    """Attempts in a row that may fail before the source is given up; None: never, 0: at the first loss."""

    def __post_init__(self) -> None:
        if not 0 <= self.first_delay_s <= self.longest_delay_s:
            raise ConfigError(
                f"Waits from {self.first_delay_s} to {self.longest_delay_s} s came; wanted 0 <= first <= "
                "longest. Pass Reconnect(first_delay_s=0.5, longest_delay_s=30)."
            )
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"jitter {self.jitter} came; wanted 0-1.")
        if self.limit is not None and self.limit < 0:
            raise ConfigError(f"A reconnect limit of {self.limit} came; wanted 0 or above, or None for none.")

    def delay_s(self, attempt: int) -> float:
        """Return the wait before an attempt, in seconds.

        Args:
            attempt: 1 for the first after a loss.
        """
        # Beyond 2^30 the cap decides anyway, and a float would overflow one day.
        delay = self.first_delay_s * 2.0 ** min(attempt - 1, 30)
        # Cut before the jitter, so that it spreads the longest waits too, and far enough for the cap to hold.
        delay = min(delay, self.longest_delay_s / (1 + self.jitter))
        return delay * (1 + self.jitter * random.uniform(-1, 1))


class Connection(Protocol):
    """What a live source reads from; `cada_edge.runtime.camera.Camera` is one."""

    notes: tuple[str, ...]
    """What the device did otherwise than asked."""

    def read(self) -> tuple[Any | None, float, float] | None:
        """Wait for the next frame: image (None where it is corrupt), wall and monotonic time; None: lost."""

    def close(self) -> None:
        """Give the connection back."""


class LiveSource(BufferedSource):
    """Frames of a camera or stream, the newest first of all; never an invented one.

    A thread of its own takes the frames as they come, so that none grows old in a driver's buffer. When the
    source is lost or stalls, it is opened anew until it is back, with an event for each step; indices go on
    counting. A driver that hangs in a call is left behind in its thread, and what it gives later counts as
    dropped.
    """

    def __init__(
        self,
        address: LiveAddress,
        *,
        source_id: str | None = None,
        camera: CameraOptions | None = None,
        reconnect: Reconnect | None = None,
        policy: DropPolicy = "latest",
        capacity: int = 1,
        on_status: OnStatus | None = None,
        changed: threading.Condition | None = None,
        connect: Callable[[LiveAddress, CameraOptions], Connection] = Camera,
    ) -> None:
        """Start to open the source; the first frames come when it is there.

        Args:
            address: As from `cada_edge.runtime.live_address.parse_live`.
            source_id: Name that the frames carry; by default the address without its secrets.
            camera: How it is opened.
            reconnect: How it is opened again.
            policy: What happens to frames that come faster than they are taken.
            capacity: Most frames that wait.
            on_status: Called with each event.
            changed: As for `FrameBuffer`.
            connect: Opens one connection, in a thread of its own, or raises.

        Raises:
            ConfigError: A policy and capacity that do not fit.
        """
        buffer = FrameBuffer(policy, capacity, changed=changed)
        super().__init__(source_id or address.name, buffer, on_status=on_status)
        self._address = address
        self._camera = camera or CameraOptions()
        self._reconnect = reconnect or Reconnect()
        self._connect = connect
        self._state = threading.Condition()
        self._stopped_s: float | None = None
        self._generation = 0
        self._ended: str | None = None
        self._opened = False
        self._putting = False
        self._hanging: list[threading.Thread] = []
        self._last_frame_s = 0.0
        self._had_frames = False
        self._gave = ""
        self._index = 0
        self._shape: tuple[int, ...] | None = None
        self._corrupt_events, self._resized_events = Throttle(), Throttle()
        self._supervisor = threading.Thread(
            target=self._supervise, name=f"supervisor {address.name}", daemon=True
        )
        self._supervisor.start()

    def stop(self) -> None:
        """Capture no more; `close` then waits for the camera, up to the stall limit from here."""
        with self._state:
            if self._stopped_s is None:
                self._stopped_s = time.monotonic()
            self._state.notify_all()
        super().stop()

    @property
    def _stopping(self) -> bool:
        return self._stopped_s is not None

    def _release(self) -> None:
        self.stop()
        assert self._stopped_s is not None
        # A camera that gives a frame or fails within the stall limit ends in order; one that hangs is left.
        self._supervisor.join(max(0.0, self._stopped_s + self._camera.stall_timeout_s - time.monotonic()))

    def _tell(self, kind: EventKind, message: str, **data: Any) -> None:
        self._report(make_event(kind, self.source_id, message, **data))

    def _supervise(self) -> None:
        """Open connection after connection until the source is closed or given up."""
        attempt = 0
        try:
            while True:
                reason, had_frames = self._run_connection()
                if self._stopping:
                    return
                attempt = 1 if had_frames else attempt + 1
                self._tell("lost", f"{self.source_id} is lost: {reason}", reason=reason)
                limit = self._reconnect.limit
                if limit is not None and attempt > limit:
                    self._give_up(reason, limit)
                    return
                delay_s = self._reconnect.delay_s(attempt)
                self._tell(
                    "retrying",
                    f"{self.source_id} is opened again in {delay_s:.1f} s (attempt {attempt}"
                    + ("" if limit is None else f" of {limit}")
                    + ")",
                    delay_s=delay_s,
                    attempt=attempt,
                )
                with self._state:
                    self._state.wait_for(lambda: self._stopping, delay_s)
                    if self._stopping:
                        return
        except BaseException as error:
            self._buffer.finish(error)
            raise
        finally:
            self._buffer.finish()

    def _give_up(self, reason: str, limit: int) -> None:
        tried = "it was not opened again" if limit == 0 else f"{limit} attempts to open it again failed"
        message = f"{self.source_id} is given up: {reason}; {tried}"
        self._tell("gave_up", message, reason=reason, attempts=limit)
        self._buffer.finish(
            SourceLostError(
                f"{message}. Wanted its frames. Check camera, cable and network; a higher reconnect "
                "limit, or none, waits for longer."
            )
        )

    def _run_connection(self) -> tuple[str, bool]:
        """Open one connection and watch it; return why it ended and whether it gave a frame."""
        self._hanging = [thread for thread in self._hanging if thread.is_alive()]
        if len(self._hanging) >= _MOST_HANGING:
            return f"{len(self._hanging)} calls of its driver hang", False
        with self._state:
            self._generation += 1
            generation = self._generation
            self._ended, self._opened, self._putting = None, False, False
            self._had_frames, self._gave = False, "no frame"
            started = self._last_frame_s = time.monotonic()
        thread = threading.Thread(
            target=self._capture, args=(generation,), name=f"capture {self._address.name}", daemon=True
        )
        thread.start()
        stall_s, open_s = self._camera.stall_timeout_s, self._camera.open_timeout_s
        with self._state:
            while self._ended is None and not self._stopping:
                now = time.monotonic()
                # OpenCV's own limit of opening comes first where it has one: it leaves no thread behind.
                due = self._last_frame_s + stall_s if self._opened else started + 1.5 * open_s
                if self._putting:
                    due = now + stall_s  # it waits for room, not for a frame
                if now >= due:
                    break
                self._state.wait(due - now)
            ended, opened, had_frames, gave = self._ended, self._opened, self._had_frames, self._gave
            if ended is None:
                self._generation += 1  # the thread is left behind, should it hang
        if self._stopping:
            thread.join(stall_s)
            return "", had_frames
        if ended is not None:
            return ended, had_frames
        self._hanging.append(thread)
        if opened:
            self._tell("stalled", f"{self.source_id} gave {gave} for {stall_s:g} s", seconds=stall_s)
            if gave == "no whole frame":
                thread.join(stall_s)  # it does not hang: its next frame ends it, and the device is free
            return f"{gave} for {stall_s:g} s", had_frames
        return f"not opened within {1.5 * open_s:g} s", had_frames

    def _capture(self, generation: int) -> None:
        """Open the source and hand its frames over, until it is lost or given up by `_run_connection`."""
        reason = "its driver failed"
        try:
            try:
                connection = self._connect(self._address, self._camera)
            except SourceError as error:
                reason = str(error).rstrip(".")
                return
            try:
                if self._greet(generation, connection):
                    reason = self._pump(generation, connection)
            finally:
                connection.close()
        except Exception as error:  # broad: a driver may raise anything, and the next connection is tried
            reason = f"{type(error).__name__}: {error}"
        finally:
            with self._state:
                if generation == self._generation:
                    # A driver's own message may hold the address.
                    self._ended = redact(reason)
                    self._state.notify_all()

    def _greet(self, generation: int, connection: Connection) -> bool:
        with self._state:
            if generation != self._generation or self._stopping:
                return False
            self._opened = True
            self._last_frame_s = time.monotonic()
            self._state.notify_all()
        notes = f", with {', '.join(connection.notes)}" if connection.notes else ""
        self._tell("opened", f"{self.source_id} is open{notes}", notes=list(connection.notes))
        return True

    def _pump(self, generation: int, connection: Connection) -> str:
        """Hand frames over; return why it ended."""
        while True:
            found = connection.read()
            with self._state:
                if generation != self._generation:
                    if found is not None:
                        self._buffer.count_late()
                    return "left behind"
                if self._stopping or found is None:
                    if found is not None:
                        self._buffer.count_late()
                    return "it gave no more frames"
                image, at_s, monotonic_s = found
                if image is None:
                    # No sign of life: a camera that gives nothing else is opened anew, and may be given up.
                    self._gave = "no whole frame"
                else:
                    self._had_frames, self._gave = True, "no frame"
                    self._last_frame_s = time.monotonic()
                index = self._index
                self._index += 1
            if image is None:
                self._buffer.count_corrupt()
                self._tell_corrupt(index)
                continue
            if self._shape is None:
                self._shape = image.shape
            elif image.shape != self._shape and self._resized_events.passes():
                # Compared with what was told: whatever changed meanwhile, the last event says how it is.
                self._tell(
                    "resized",
                    f"{self.source_id} gives frames of {_size(image.shape)} instead of {_size(self._shape)}",
                    before=list(self._shape),
                    now=list(image.shape),
                )
                self._shape = image.shape
            if not self._put(Frame(image, index, self.source_id, at_s, monotonic_s)):
                return "closed"

    def _put(self, frame: Frame) -> bool:
        self._putting = True
        is_open = self._buffer.put(frame)
        with self._state:
            self._putting = False
            self._last_frame_s = time.monotonic()
        return is_open

    def _tell_corrupt(self, index: int) -> None:
        if self._corrupt_events.passes():
            self._report(make_corrupt_event(self.source_id, index, self._buffer.counts.corrupt))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}" if len(shape) >= 2 else str(shape)
