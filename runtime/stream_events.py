"""What happens to a stream beside its frames: events with a time, and counts that add up."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "EventKind",
    "OnStatus",
    "StatusEvent",
    "StreamCounts",
    "Throttle",
    "make_corrupt_event",
    "make_event",
    "rename_event",
    "tell",
]

_log = logging.getLogger(__name__)

EventKind = Literal[
    "opened",
    "lost",
    "retrying",
    "stalled",
    "resized",
    "corrupt",
    "gap",
    "gave_up",
    "ended",
    "refused",
    "sink_failed",
    "sink_recovered",
    "sink_full",
    "page_failed",
    "page_recovered",
]
"""What happened:

* ``opened``: a source delivers; the first time, or again after it was lost.
* ``lost``: it cannot be opened, or stopped to deliver.
* ``retrying``: it will be opened again after `data["delay_s"]` seconds.
* ``stalled``: it gave no frame for `data["seconds"]`; it is opened anew.
* ``resized``: its frames have another size than before.
* ``corrupt``: a frame of it cannot be decoded and was passed over.
* ``gap``: its own numbering says that `data["frames"]` frames never came here, since the last such event.
* ``gave_up``: the limit of attempts is reached.
* ``ended``: it has no more frames.
* ``refused``: a frame of it cannot be inspected, as one of another size than the model's fixed one.
* ``sink_failed``, ``sink_recovered``: verdicts or pictures could not be written there; they can again.
* ``sink_full``: more came than can be written there, and `data["lost"]` of them were given up.
* ``page_failed``, ``page_recovered``: the page's process ended; it serves again.

Of ``resized``, ``corrupt``, ``gap`` and ``refused`` a source tells at most one a second each.
"""

EVENT_EVERY_S = 1.0
"""A camera with a bad cable gives bad frames by the second: one event tells of all of them."""


@dataclass(frozen=True, slots=True)
class StatusEvent:
    """Something that a person at the line may want to know."""

    kind: EventKind
    """What happened."""

    source_id: str
    """Name of the source, or of the sink; without user names, passwords and queries."""

    message: str
    """The same in a sentence, without secrets."""

    at_s: float
    """Wall-clock time, in seconds since 1970 (UTC)."""

    monotonic_s: float
    """The same moment on `time.monotonic`'s clock, in seconds."""

    data: Mapping[str, Any] = field(default_factory=dict)
    """Figures of it, in types that `json` takes."""

    def to_dict(self) -> dict[str, Any]:
        """Return every field in types that `json` takes."""
        return {
            "kind": self.kind,
            "source_id": self.source_id,
            "message": self.message,
            "at_s": self.at_s,
            "data": dict(self.data),
        }


_EXPECTED = ("opened", "resized", "ended", "sink_recovered")

OnStatus = Callable[[StatusEvent], None]
"""Called with each event, from any thread of the stream: it must be quick. What it raises is logged."""


def make_event(kind: EventKind, source_id: str, message: str, **data: Any) -> StatusEvent:
    """Make an event that happens now."""
    return StatusEvent(kind, source_id, message, time.time(), time.monotonic(), data)


def rename_event(event: StatusEvent, name: str) -> StatusEvent:
    """Return an event with another name of its source, in its sentence too."""
    whole = rf"(?<!\S){re.escape(event.source_id)}(?!\S)"
    message = re.sub(whole, lambda _: name, event.message, count=1)
    return dataclasses.replace(event, source_id=name, message=message)


def make_corrupt_event(source_id: str, index: int, corrupt: int) -> StatusEvent:
    """Make the event of a frame that cannot be decoded.

    Args:
        source_id: Name of the source.
        index: Of the frame.
        corrupt: Such frames of the source so far.
    """
    message = f"Frame {index} of {source_id} cannot be decoded and is passed over ({corrupt} so far)"
    return make_event("corrupt", source_id, message, index=index, corrupt=corrupt)


class Throttle:
    """Lets an event of one kind and source pass at once, and the next a second later; in one thread."""

    def __init__(self) -> None:
        self._passed_s = float("-inf")

    def passes(self) -> bool:
        """Tell whether an event may be told now, which then is."""
        now = time.monotonic()
        if now - self._passed_s < EVENT_EVERY_S:
            return False
        self._passed_s = now
        return True


def tell(listener: OnStatus | None, event: StatusEvent) -> None:
    """Hand an event to a listener, or write it to the log where nobody listens.

    Whatever the listener raises, inspection goes on.
    """
    if listener is None:
        _log.log(logging.INFO if event.kind in _EXPECTED else logging.WARNING, "%s", event.message)
        return
    try:
        listener(event)
    except Exception:  # broad: the listener is the application's code
        _log.exception("The listener of %s failed on the event %s", event.source_id, event.kind)


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """What became of a source's frames: captured = delivered + dropped + corrupt + waiting, at any moment."""

    captured: int = 0
    """Frames that the source handed to us."""

    delivered: int = 0
    """Of those, frames that were handed on."""

    dropped: int = 0
    """Of those, frames given up for newer ones, or when the stream was closed."""

    corrupt: int = 0
    """Of those, frames that could not be decoded."""

    waiting: int = 0
    """Of those, frames that are still held; 0 after close."""

    source_gaps: int = 0
    """Frames that never came, by the source's own numbering; not among the captured ones."""

    def __add__(self, other: StreamCounts) -> StreamCounts:
        return StreamCounts(
            self.captured + other.captured,
            self.delivered + other.delivered,
            self.dropped + other.dropped,
            self.corrupt + other.corrupt,
            self.waiting + other.waiting,
            self.source_gaps + other.source_gaps,
        )

    def to_dict(self) -> dict[str, int]:
        """Return every count by its name."""
        return {
            "captured": self.captured,
            "delivered": self.delivered,
            "dropped": self.dropped,
            "corrupt": self.corrupt,
            "waiting": self.waiting,
            "source_gaps": self.source_gaps,
        }
