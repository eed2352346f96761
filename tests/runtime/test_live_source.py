"""A live source against a scripted device: what a camera does is decided here, frame by frame.

The device is a double, named so; the real thing, an RTSP server, is in test_rtsp.py.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from cada_edge.errors import ClosedError, ConfigError, SourceError, SourceLostError
from cada_edge.runtime.buffered_source import close_all
from cada_edge.runtime.camera import CameraOptions
from cada_edge.runtime.live_address import LiveAddress
from cada_edge.runtime.live_source import LiveSource, Reconnect
from cada_edge.runtime.stream_events import StatusEvent

pytestmark = pytest.mark.alone

ADDRESS = LiveAddress("network", "rtsp://me:secret@cam/1", "rtsp://***@cam/1")
OPTIONS = CameraOptions(open_timeout_s=0.2, stall_timeout_s=0.2)
QUICK = Reconnect(first_delay_s=0.01, longest_delay_s=0.04, jitter=0)

SMALL = np.zeros((2, 3, 3), np.uint8)
LARGE = np.zeros((4, 6, 3), np.uint8)
CORRUPT = None
HANG = "hang"
OPENING_HANGS = "opening hangs"

Script = list[Any]
"""One connection: an exception that opening raises, or what each read gives; then the connection is lost."""


class DeviceDouble:
    """Plays one script a connection, and the last one again and again."""

    def __init__(self, *scripts: Script | Exception, interval_s: float = 0.0) -> None:
        self._scripts = scripts
        self._interval_s = interval_s
        self._opened = itertools.count()
        self.hang_ends = threading.Event()
        self.closed = 0

    def __call__(self, address: LiveAddress, options: CameraOptions) -> ConnectionDouble:
        script = self._scripts[min(next(self._opened), len(self._scripts) - 1)]
        if isinstance(script, Exception):
            raise script
        if script and isinstance(script[0], str) and script[0] == OPENING_HANGS:
            self.hang_ends.wait(30)
        return ConnectionDouble(self, iter(script))

    def read(self, item: Any) -> tuple[Any | None, float, float] | None:
        if isinstance(item, Exception):
            raise item
        if isinstance(item, str):
            self.hang_ends.wait(30)
            item = LARGE
        time.sleep(self._interval_s)
        return item, time.time(), time.monotonic()


class ConnectionDouble:
    """One connection of a `DeviceDouble`."""

    notes: tuple[str, ...] = ()

    def __init__(self, device: DeviceDouble, script: Iterator[Any]) -> None:
        self._device = device
        self._script = script

    def read(self) -> tuple[Any | None, float, float] | None:
        for item in self._script:
            return self._device.read(item)
        return None

    def close(self) -> None:
        self._device.closed += 1


Open = Callable[..., tuple[LiveSource, list[StatusEvent]]]


@pytest.fixture
def open_live() -> Iterator[Open]:
    """Open a device double; closed at the end, with the hanging threads let go."""
    opened: list[tuple[LiveSource, DeviceDouble]] = []

    def start(device: DeviceDouble, **options: Any) -> tuple[LiveSource, list[StatusEvent]]:
        events: list[StatusEvent] = []
        values = {"camera": OPTIONS, "reconnect": QUICK, "policy": "block", **options}
        source = LiveSource(ADDRESS, connect=device, **{"on_status": events.append, **values})
        opened.append((source, device))
        return source, events

    yield start
    for source, device in opened:
        device.hang_ends.set()
        source.close()


def kinds(events: list[StatusEvent]) -> list[str]:
    return [event.kind for event in events]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_until_captured(source: LiveSource, count: int) -> None:
    wait_for(lambda: source.counts.captured >= count)


def add_up(source: LiveSource) -> bool:
    counts = source.counts
    return counts.captured == counts.delivered + counts.dropped + counts.corrupt + counts.waiting


def test_frames_come_in_order_with_index_source_and_times(open_live: Open) -> None:
    before = time.monotonic()
    source, events = open_live(DeviceDouble([SMALL, SMALL, SMALL]), source_id="press 3")
    frames = [next(source) for _ in range(3)]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert {frame.source_id for frame in frames} == {"press 3"}
    times = [frame.captured_monotonic_s for frame in frames]
    assert before <= times[0] <= times[1] <= times[2] <= time.monotonic()
    assert abs(frames[0].captured_at_s - time.time()) < 60
    assert kinds(events)[0] == "opened"


def test_a_lost_source_comes_back_and_goes_on_counting(open_live: Open) -> None:
    refused = SourceError("rtsp://***@cam/1 cannot be opened")
    source, events = open_live(DeviceDouble([SMALL, SMALL], refused, refused, [LARGE, LARGE]))
    frames = [next(source) for _ in range(4)]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert [frame.image.shape[0] for frame in frames] == [2, 2, 4, 4]
    assert kinds(events)[:9] == [
        "opened",
        "lost",
        "retrying",
        "lost",
        "retrying",
        "lost",
        "retrying",
        "opened",
        "resized",
    ]
    assert [event.data["attempt"] for event in events if event.kind == "retrying"][:3] == [1, 2, 3]
    assert [event.data["delay_s"] for event in events if event.kind == "retrying"][:3] == [0.01, 0.02, 0.04]
    (resized,) = (event for event in events if event.kind == "resized")
    assert resized.message == "rtsp://***@cam/1 gives frames of 6x4 instead of 3x2"
    assert resized.data == {"before": [2, 3, 3], "now": [4, 6, 3]}
    assert not any("secret" in event.message or "secret" in event.source_id for event in events)


def test_nothing_is_invented_while_a_source_is_away(open_live: Open) -> None:
    source, events = open_live(DeviceDouble([SMALL], SourceError("away")))
    next(source)
    deadline = time.monotonic() + 10
    while kinds(events).count("retrying") < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert source.counts.captured == 1
    assert add_up(source)


def test_a_source_that_stalls_is_opened_anew_and_its_late_frame_dropped(open_live: Open) -> None:
    device = DeviceDouble([SMALL, HANG], [LARGE] * 3, interval_s=0.01)
    source, events = open_live(device)
    frames = [next(source) for _ in range(2)]
    assert [frame.image.shape[0] for frame in frames] == [2, 4]
    assert kinds(events)[:4] == ["opened", "stalled", "lost", "retrying"]
    assert events[1].data == {"seconds": 0.2}
    assert "no frame for 0.2 s" in events[2].message
    device.hang_ends.set()
    deadline = time.monotonic() + 10
    while source.counts.dropped < 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert add_up(source)
    assert device.closed >= 1


def test_opening_that_hangs_is_left_behind(open_live: Open) -> None:
    source, events = open_live(DeviceDouble([OPENING_HANGS], [SMALL]))
    assert next(source).index == 0
    assert "not opened within 0.3 s" in events[0].message


def test_a_driver_that_always_hangs_leaves_few_threads(open_live: Open) -> None:
    _, events = open_live(DeviceDouble([OPENING_HANGS]), camera=CameraOptions(open_timeout_s=0.02))
    wait_for(lambda: any("4 calls of its driver hang" in event.message for event in events))
    wait_for(lambda: kinds(events).count("retrying") > 10)
    hanging = [each for each in threading.enumerate() if each.name == "capture rtsp://***@cam/1"]
    assert len(hanging) == 4


def test_a_drivers_message_shows_no_secret(open_live: Open) -> None:
    source, events = open_live(DeviceDouble([RuntimeError("cannot read rtsp://me:secret@cam/1")], [SMALL]))
    assert next(source).index == 0
    assert "cannot read rtsp://***@cam/1" in events[1].message
    assert not any("secret" in str(event) for event in events)


def test_a_slow_consumer_is_no_stall(open_live: Open) -> None:
    source, events = open_live(DeviceDouble([SMALL] * 4), policy="block")
    next(source)
    time.sleep(3 * OPTIONS.stall_timeout_s)
    assert [next(source).index for _ in range(3)] == [1, 2, 3]
    assert "stalled" not in kinds(events)


def test_corrupt_frames_are_counted_and_passed_over_with_one_event(open_live: Open) -> None:
    source, events = open_live(DeviceDouble([SMALL, CORRUPT, CORRUPT, SMALL]))
    assert [next(source).index for _ in range(2)] == [0, 3]
    assert source.corrupt == 2
    (event,) = (event for event in events if event.kind == "corrupt")
    assert event.data["index"] == 1
    assert add_up(source)


def test_a_camera_that_gives_corrupt_frames_alone_is_opened_anew_and_given_up(open_live: Open) -> None:
    device = DeviceDouble([SMALL], [CORRUPT] * 100_000, interval_s=0.005)
    source, events = open_live(device, reconnect=Reconnect(0.01, 0.01, 0, limit=2))
    assert next(source).index == 0
    wait_for(lambda: "gave_up" in kinds(events))
    told = [event for event in events if event.kind == "stalled"]
    assert [event.message for event in told] == ["rtsp://***@cam/1 gave no whole frame for 0.2 s"] * 2
    assert [event.data["attempt"] for event in events if event.kind == "retrying"] == [1, 2]
    wait_for(lambda: device.closed == 3)
    with pytest.raises(SourceLostError, match=r"no whole frame for 0\.2 s; 2 attempts"):
        next(source)
    assert source.counts.captured == 1 + source.counts.corrupt + source.counts.dropped
    assert source.counts.dropped <= 2


def test_a_listener_that_comes_later_hears_the_newest_event_and_all_others(open_live: Open) -> None:
    source, events = open_live(DeviceDouble([SMALL], SourceError("away")), on_status=None)
    assert events == []
    assert next(source).index == 0
    source.listen(events.append)
    wait_for(lambda: len(events) >= 6)
    # Of what came before it has heard one event at most: how the source was then.
    assert kinds(events)[:6] in (
        ["opened", "lost", "retrying", "lost", "retrying", "lost"],
        ["lost", "retrying", "lost", "retrying", "lost", "retrying"],
        ["retrying", "lost", "retrying", "lost", "retrying", "lost"],
    )
    others: list[StatusEvent] = []
    source.listen(others.append)
    count = len(events)
    wait_for(lambda: len(events) > count)
    assert others == []


def test_sizes_that_change_all_the_time_are_told_now_and_then(
    open_live: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cada_edge.runtime.stream_events.EVENT_EVERY_S", 3600)
    source, events = open_live(DeviceDouble([SMALL, LARGE] * 20 + [SMALL] * 1000), capacity=1)
    assert [next(source).index for _ in range(42)] == list(range(42))
    assert kinds(events) == ["opened", "resized"]
    # The size of now is another one than was told last, and is told as soon as may be.
    monkeypatch.setattr("cada_edge.runtime.stream_events.EVENT_EVERY_S", 0)
    assert len([next(source) for _ in range(4)]) == 4
    assert kinds(events) == ["opened", "resized", "resized"]
    assert events[2].data == {"before": [4, 6, 3], "now": [2, 3, 3]}


def test_a_driver_that_raises_is_a_lost_source(open_live: Open) -> None:
    source, events = open_live(DeviceDouble([SMALL, RuntimeError("ioctl")], [SMALL]))
    assert [next(source).index for _ in range(2)] == [0, 1]
    assert "RuntimeError: ioctl" in events[1].message


@pytest.mark.parametrize(
    ("limit", "tried"), [(0, "it was not opened again"), (2, "2 attempts to open it again failed")]
)
def test_giving_up_only_when_told_to(open_live: Open, limit: int, tried: str) -> None:
    source, events = open_live(
        DeviceDouble([SMALL], SourceError("no route")), reconnect=Reconnect(0.01, 0.01, 0, limit=limit)
    )
    assert next(source).index == 0
    with pytest.raises(SourceLostError, match=f"is given up: .*; {tried}. Wanted its frames") as error:
        next(source)
    assert error.value.exit_code == 4
    assert kinds(events)[-1] == "gave_up"
    assert kinds(events).count("retrying") == limit
    with pytest.raises(StopIteration):
        next(source)


def test_a_source_that_gives_frames_again_has_all_its_attempts_again(open_live: Open) -> None:
    device = DeviceDouble([SMALL], SourceError("a"), [SMALL], SourceError("b"), [SMALL])
    source, events = open_live(device, reconnect=Reconnect(0.01, 0.01, 0, limit=2))
    assert [next(source).index for _ in range(3)] == [0, 1, 2]
    assert [event.data["attempt"] for event in events if event.kind == "retrying"][:4] == [1, 2, 1, 2]


def test_the_newest_frame_is_taken_and_the_others_are_counted(open_live: Open) -> None:
    source, _ = open_live(DeviceDouble([SMALL] * 400, interval_s=0.002), policy="latest")
    total = 0
    last = -1
    for _ in range(4):
        due = source.counts.captured + 4
        wait_until_captured(source, due)
        frame = next(source)
        assert frame.index - last == 1 + frame.dropped_before
        last = frame.index
        total += 1 + frame.dropped_before
    assert total == last + 1
    assert total > 8


def test_close_ends_everything_and_nothing_waits(open_live: Open) -> None:
    device = DeviceDouble([SMALL] * 10_000, interval_s=0.001)
    source, _ = open_live(device, policy="drop-oldest", capacity=4)
    next(source)
    source.close()
    source.close()
    counts = source.counts
    assert counts.waiting == 0
    assert add_up(source)
    time.sleep(0.05)
    assert source.counts == counts
    assert device.closed == 1
    with pytest.raises(ClosedError, match="was used after close"):
        next(source)


def test_close_does_not_wait_for_a_device_that_hangs(open_live: Open) -> None:
    source, _ = open_live(DeviceDouble([SMALL, HANG]))
    next(source)
    started = time.monotonic()
    source.close()
    assert time.monotonic() - started < 5
    assert add_up(source)


def test_several_devices_that_hang_are_left_in_the_time_of_one(open_live: Open) -> None:
    limit_s = 1.0
    camera = CameraOptions(open_timeout_s=60, stall_timeout_s=limit_s)
    sources = [open_live(DeviceDouble([OPENING_HANGS]), camera=camera)[0] for _ in range(4)]
    started = time.monotonic()
    close_all(sources)
    assert time.monotonic() - started < 3 * limit_s
    assert all(source.closed and add_up(source) for source in sources)


def test_a_listener_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def listen(event: StatusEvent) -> None:
        raise ValueError("listener")

    device = DeviceDouble([SMALL], [SMALL])
    with LiveSource(
        ADDRESS, camera=OPTIONS, reconnect=QUICK, policy="block", on_status=listen, connect=device
    ) as source:
        assert [next(source).index for _ in range(2)] == [0, 1]
    assert "The listener of rtsp://***@cam/1 failed on the event opened" in caplog.text


def test_waits_double_up_to_the_cap_with_jitter() -> None:
    plain = Reconnect(first_delay_s=0.5, longest_delay_s=30, jitter=0)
    assert [plain.delay_s(attempt) for attempt in (1, 2, 3, 7, 8, 5000)] == [0.5, 1, 2, 30, 30, 30]
    spread = {Reconnect(first_delay_s=1, jitter=0.2).delay_s(1) for _ in range(200)}
    assert min(spread) >= 0.8
    assert max(spread) <= 1.2
    assert max(spread) - min(spread) > 0.2
    spread = {Reconnect(longest_delay_s=30, jitter=0.2).delay_s(20) for _ in range(200)}
    assert 20 <= min(spread) < 22
    assert 28 < max(spread) <= 30
    assert len(spread) == 200, "cameras that wait for the longest are asked at once"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"first_delay_s": 5, "longest_delay_s": 1}, "Waits from 5 to 1 s came"),
        ({"jitter": 2}, "jitter 2 came; wanted 0-1"),
        ({"limit": -1}, "A reconnect limit of -1 came"),
    ],
)
def test_refusals(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Reconnect(**values)


def test_where_nobody_listens_the_log_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with LiveSource(
        ADDRESS, camera=OPTIONS, reconnect=QUICK, policy="block", connect=DeviceDouble([SMALL], [SMALL])
    ) as source:
        assert [next(source).index for _ in range(2)] == [0, 1]
    levels = {record.getMessage().split(" is ")[1]: record.levelname for record in caplog.records}
    assert levels["open"] == "INFO"
    assert levels["lost: it gave no more frames"] == "WARNING"
    assert "secret" not in caplog.text
