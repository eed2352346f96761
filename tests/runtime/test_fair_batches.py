from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cada_edge.errors import SourceLostError
from cada_edge.runtime.buffered_source import BufferedSource
from cada_edge.runtime.fair_batches import FairBatches
from cada_edge.runtime.frame_buffer import FrameBuffer
from cada_edge.runtime.source_base import Frame
from cada_edge.runtime.sources import open_source

pytestmark = pytest.mark.alone

GREY = np.zeros((2, 3), np.uint8)


def batches_of(*items: Any, batch: int, batch_timeout_s: float = 5.0) -> tuple[FairBatches, list[Any]]:
    """Open iterables as sources a, b, c ... that are read ahead as far as they go."""
    changed = threading.Condition()
    sources: dict[str, BufferedSource] = {}
    for name, each in zip("abcdef", items, strict=False):
        found = open_source(each, source_id="same", policy="block", capacity=100, changed=changed)
        assert isinstance(found, BufferedSource)
        sources[name] = found
    return FairBatches(sources, changed, batch=batch, batch_timeout_s=batch_timeout_s), list(sources.values())


def frames_then(count: int, error: BaseException) -> Iterator[np.ndarray]:
    for _ in range(count):
        yield GREY
    raise error


def wait_until_read(source: Any) -> None:
    deadline = time.monotonic() + 30
    while source._thread.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def seen(frames: list[Frame] | None) -> list[tuple[str, int]]:
    assert frames is not None
    return [(frame.source_id, frame.index) for frame in frames]


def test_sources_take_turns_and_two_of_one_name_are_told_apart() -> None:
    batches, sources = batches_of([GREY] * 4, [GREY], [GREY] * 3, batch=2)
    for source in sources:
        wait_until_read(source)
    assert [seen(batches.take()) for _ in range(4)] == [
        [("a", 0), ("b", 0)],
        [("c", 0), ("a", 1)],
        [("c", 1), ("a", 2)],
        [("c", 2), ("a", 3)],
    ]
    assert batches.take() is None


def test_frames_in_hand_come_before_the_error_that_ends_their_source() -> None:
    batches, (source,) = batches_of(frames_then(5, RuntimeError("the SDK failed")), batch=8)
    wait_until_read(source)
    assert seen(batches.take()) == [("a", index) for index in range(5)]
    with pytest.raises(RuntimeError, match="the SDK failed"):
        batches.take()


def test_an_error_takes_no_frame_of_another_source_with_it() -> None:
    batches, sources = batches_of([GREY] * 2, frames_then(0, RuntimeError("b failed")), batch=3)
    for source in sources:
        wait_until_read(source)
    assert seen(batches.take()) == [("a", 0)]
    with pytest.raises(RuntimeError, match="b failed"):
        batches.take()


def test_a_lost_live_source_is_remembered_and_the_others_go_on() -> None:
    error = SourceLostError("a is given up")
    batches, sources = batches_of(frames_then(1, error), [GREY] * 3, batch=1)
    for source in sources:
        wait_until_read(source)
    names = []
    while (frames := batches.take()) is not None:
        names += seen(frames)
    assert sorted(names) == [("a", 0), ("b", 0), ("b", 1), ("b", 2)]
    assert batches.lost is error


def test_a_batch_that_is_not_full_waits_for_its_timeout_alone() -> None:
    ended = threading.Event()

    def slow() -> Iterator[np.ndarray]:
        yield GREY
        ended.wait(30)

    batches, sources = batches_of(slow(), batch=4, batch_timeout_s=0.05)
    started = time.monotonic()
    assert seen(batches.take()) == [("a", 0)]
    assert 0.05 <= time.monotonic() - started < 5
    ended.set()
    assert batches.take() is None
    sources[0].close()


def given_by_hand(batch: int, batch_timeout_s: float) -> tuple[FairBatches, FrameBuffer, FrameBuffer]:
    """Make batches of two sources whose frames the test puts."""
    changed = threading.Condition()
    first, second = (FrameBuffer("block", 100, changed=changed) for _ in range(2))
    sources = {"a": BufferedSource("a", first), "b": BufferedSource("b", second)}
    return FairBatches(sources, changed, batch=batch, batch_timeout_s=batch_timeout_s), first, second


def test_where_waits_bring_nothing_most_batches_go_as_they_are() -> None:
    batches, first, _ = given_by_hand(batch=2, batch_timeout_s=0.03)
    took_s = []
    for index in range(40):
        first.put(Frame(GREY, index, "a", 0.0, 0.0))
        started = time.monotonic()
        assert seen(batches.take()) == [("a", index)]
        took_s.append(time.monotonic() - started)
    waited = [index for index, seconds in enumerate(took_s) if seconds >= 0.03]
    assert waited[:4] == [0, 1, 2, 3]
    assert {20, 37} <= set(waited)
    assert len(waited) < 12  # a busy machine may hold others up as long


def test_cameras_that_are_triggered_together_are_waited_for_again() -> None:
    batches, first, second = given_by_hand(batch=2, batch_timeout_s=0.2)
    for index in range(4):
        first.put(Frame(GREY, index, "a", 0.0, 0.0))
        assert seen(batches.take()) == [("a", index)]
    sizes = []
    for index in range(4, 40):
        first.put(Frame(GREY, index, "a", 0.0, 0.0))
        # It comes when the batch has its first frame, or has gone without it.
        late = threading.Timer(0.01, second.put, [Frame(GREY, index, "b", 0.0, 0.0)])
        late.start()
        batch = seen(batches.take())
        late.join()
        sizes.append(len(batch))
        if len(batch) == 1:
            batch += seen(batches.take())
        assert batch == [("a", index), ("b", index)]
    # Two batches a turn without waits; the 17th or at latest the 34th begins with the first camera's frame.
    assert sizes[0] == 1
    assert sizes[17:] == [2] * 19


def test_pause_stop_and_an_error_from_outside() -> None:
    batches, (source,) = batches_of([GREY] * 9, batch=1)
    wait_until_read(source)
    batches.pause()
    started = time.monotonic()
    threading.Timer(0.05, batches.resume).start()
    assert seen(batches.take()) == [("a", 0)]
    assert time.monotonic() - started >= 0.05
    batches.fail(ValueError("no frame of the model's"))
    batches.fail(ValueError("a later one"))
    with pytest.raises(ValueError, match="no frame of the model's"):
        batches.take()
    batches.stop()
    assert batches.take() is None
