from __future__ import annotations

import random
import threading
import time

import numpy as np
import pytest

from cada_edge.errors import ConfigError, SourceLostError
from cada_edge.runtime.frame_buffer import DropPolicy, FrameBuffer
from cada_edge.runtime.source_base import Frame
from cada_edge.runtime.stream_events import StreamCounts

pytestmark = pytest.mark.alone

GREY = np.zeros((2, 2), np.uint8)


def frame(index: int) -> Frame:
    return Frame(GREY, index, "cam", 0.0, 0.0)


def test_latest_keeps_the_newest_and_says_what_it_dropped() -> None:
    buffer = FrameBuffer("latest")
    for index in range(4):
        assert buffer.put(frame(index))
    taken = buffer.take(0)
    assert taken is not None
    assert (taken.index, taken.dropped_before) == (3, 3)
    assert buffer.take(0) is None
    buffer.put(frame(4))
    taken = buffer.take(0)
    assert taken is not None
    assert (taken.index, taken.dropped_before) == (4, 0)
    assert buffer.counts == StreamCounts(captured=5, delivered=2, dropped=3)


def test_drop_oldest_keeps_the_last_few_in_order() -> None:
    buffer = FrameBuffer("drop-oldest", 3)
    for index in range(5):
        buffer.put(frame(index))
    taken = [buffer.take(0) for _ in range(3)]
    assert [(each.index, each.dropped_before) for each in taken if each] == [(2, 2), (3, 0), (4, 0)]


def test_block_waits_for_room_and_drops_nothing() -> None:
    buffer = FrameBuffer("block", 2)
    put = threading.Thread(target=lambda: [buffer.put(frame(index)) for index in range(5)])
    put.start()
    deadline = time.monotonic() + 10
    while buffer.counts.waiting < 3:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    # Two wait in the buffer and one in the hands of the thread: all three are counted.
    assert buffer.counts == StreamCounts(captured=3, waiting=3)
    taken = [buffer.take(10) for _ in range(5)]
    put.join()
    assert [each.index for each in taken if each] == [0, 1, 2, 3, 4]
    assert buffer.counts == StreamCounts(captured=5, delivered=5)


def test_close_frees_a_waiting_producer_and_counts_every_frame() -> None:
    buffer = FrameBuffer("block", 1)
    results: list[bool] = []
    put = threading.Thread(target=lambda: results.extend(buffer.put(frame(index)) for index in range(2)))
    put.start()
    deadline = time.monotonic() + 10
    while buffer.counts.waiting < 2:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    buffer.close()
    assert buffer.counts == StreamCounts(captured=2, dropped=2)
    put.join()
    assert results == [True, False]
    assert not buffer.put(frame(2))
    buffer.close()
    assert buffer.counts == StreamCounts(captured=3, dropped=3)
    assert buffer.take() is None
    assert buffer.exhausted


def test_the_end_comes_after_the_last_frame_and_an_error_once() -> None:
    buffer = FrameBuffer("block", 2)
    buffer.put(frame(0))
    buffer.finish(SourceLostError("gone"))
    assert not buffer.exhausted
    assert buffer.take() is not None
    assert buffer.ready  # with the error
    assert not buffer.exhausted
    with pytest.raises(SourceLostError, match="gone"):
        buffer.take()
    assert buffer.exhausted
    assert buffer.take() is None


def test_take_waits_no_longer_than_it_is_told() -> None:
    buffer = FrameBuffer("latest")
    started = time.monotonic()
    assert buffer.take(0.05) is None
    assert 0.05 <= time.monotonic() - started < 5
    assert not buffer.exhausted


def test_corrupt_late_and_missing_frames_are_counted() -> None:
    buffer = FrameBuffer("latest")
    buffer.count_corrupt()
    buffer.count_late()
    buffer.count_gap(7)
    buffer.put(frame(0))
    assert buffer.counts == StreamCounts(captured=3, dropped=1, corrupt=1, waiting=1, source_gaps=7)
    taken = buffer.take()
    assert taken is not None
    assert taken.dropped_before == 1


@pytest.mark.parametrize(("policy", "capacity"), [("latest", 1), ("drop-oldest", 4), ("block", 3)])
def test_the_counts_add_up_at_every_moment_under_load(policy: DropPolicy, capacity: int) -> None:
    buffer = FrameBuffer(policy, capacity)
    puts = 1200
    wrong: list[StreamCounts] = []
    done = threading.Event()

    def produce() -> None:
        for index in range(puts):
            if index % 17 == 0:
                buffer.count_corrupt()
            if not buffer.put(frame(index)):
                break
        buffer.finish()

    def watch() -> None:
        while not done.is_set():
            counts = buffer.counts
            held = counts.delivered + counts.dropped + counts.corrupt + counts.waiting
            if held != counts.captured or counts.waiting > capacity + 1:
                wrong.append(counts)

    threads = [threading.Thread(target=each) for each in (produce, watch)]
    for thread in threads:
        thread.start()
    rng = random.Random(0)
    indices: list[int] = []
    dropped = 0
    while (taken := buffer.take(10)) is not None:
        indices.append(taken.index)
        dropped += taken.dropped_before
        if rng.random() < 0.1:
            time.sleep(0.0005)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert indices == sorted(set(indices))
    assert indices[-1] == puts - 1
    corrupt = len(range(0, puts, 17))
    assert buffer.counts == StreamCounts(puts + corrupt, len(indices), puts - len(indices), corrupt)
    assert dropped == puts - len(indices)
    assert (dropped == 0) == (policy == "block")


def test_one_consumer_waits_for_several_buffers() -> None:
    changed = threading.Condition()
    buffers = [FrameBuffer("latest", changed=changed) for _ in range(2)]
    threading.Timer(0.05, lambda: buffers[1].put(frame(5))).start()
    with changed:
        assert changed.wait_for(lambda: any(each.counts.waiting for each in buffers), 10)
    taken = buffers[1].take(0)
    assert taken is not None
    assert taken.index == 5


@pytest.mark.parametrize(
    ("policy", "capacity", "message"),
    [
        ("newest", 1, "The drop policy 'newest' came; wanted one of latest, block, drop-oldest"),
        ("latest", 2, "A buffer of 2 frames came with the policy 'latest'; wanted at least 1, and exactly 1"),
        ("block", 0, "A buffer of 0 frames came with the policy 'block'"),
    ],
)
def test_refusals(policy: DropPolicy, capacity: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FrameBuffer(policy, capacity)
