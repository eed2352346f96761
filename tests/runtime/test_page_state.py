"""What the page knows: counts, traces, events, and when a source is live."""

from __future__ import annotations

import itertools
import json
import threading
import time

import numpy as np
import pytest

from cada_edge.runtime.detection import Detection
from cada_edge.runtime.page_state import PageState
from cada_edge.runtime.page_trace import ScoreTrace
from cada_edge.runtime.source_base import Frame
from cada_edge.runtime.stream_events import make_event

IMAGE = np.zeros((4, 6, 3), np.uint8)


def put(state: PageState, score: float, *, source: str = "cam", index: int = 0, late_s: float = 0.0) -> Frame:
    frame = Frame(IMAGE, index, source, time.time() - late_s, time.monotonic() - late_s)
    state.put(Detection(score=score, raw_score=score, threshold=1.0), frame)
    return frame


def test_counts_and_the_newest_frame_of_each_source() -> None:
    state = PageState()
    for index, score in enumerate((0.5, 1.5, 0.25)):
        newest = put(state, score, index=index)
    put(state, 3.0, source="other")
    found = state.snapshot()
    assert (found["inspected"], found["anomalous"], found["latency"]["count"]) == (4, 2, 4)
    cam, other = found["sources"]
    assert (cam["name"], cam["inspected"], cam["anomalous"], cam["position"]) == ("cam", 3, 1, 0)
    assert (other["name"], other["inspected"], other["anomalous"], other["position"]) == ("other", 1, 1, 1)
    assert (cam["last"]["frame"], cam["last"]["score"], cam["last"]["is_anomalous"]) == (2, 0.25, False)
    assert cam["last"]["captured_at_s"] == newest.captured_at_s
    assert 0 <= cam["last"]["age_s"] < 5
    assert [shot.number for shot in state.newest()] == [3, 1]
    # The picture itself is never copied.
    assert state.newest()[0].frame is newest
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_rejects_wait_in_order_and_within_a_bound() -> None:
    state = PageState()
    for index in range(11):
        put(state, 2.0, index=index)
    put(state, 0.5, index=11)
    taken = [shot.frame.index for shot in iter(state.take_reject, None)]
    assert taken == list(range(3, 11))
    assert state.snapshot()["rejects_without_picture"] == 3


def test_without_a_threshold_nothing_is_a_reject() -> None:
    state = PageState()
    state.put(Detection(score=9.0, raw_score=9.0), Frame(IMAGE, 0, "cam", time.time(), time.monotonic()))
    assert state.take_reject() is None
    assert state.snapshot()["sources"][0]["last"]["is_anomalous"] is None


def test_a_lost_source_is_live_again_with_a_frame_of_after() -> None:
    state = PageState()

    def status() -> str:
        found: str = state.snapshot()["sources"][0]["status"]
        return found

    state.tell(make_event("opened", "cam", "cam is open"))
    assert status() == "waiting"
    put(state, 0.5)
    assert status() == "live"
    state.tell(make_event("lost", "cam", "cam is lost: cable", reason="cable"))
    lost = state.snapshot()["sources"][0]
    assert (lost["status"], lost["message"], lost["retry_at_s"]) == ("lost", "cable", None)
    state.tell(make_event("retrying", "cam", "cam is opened again in 90 s", delay_s=90.0))
    again = state.snapshot()["sources"][0]
    assert (again["status"], again["status_at_s"]) == ("lost", lost["status_at_s"])
    assert again["message"] == "cable"
    assert 80 < again["retry_at_s"] - time.time() <= 90
    # A frame that was captured before the loss and gets its verdict after it.
    put(state, 0.5, late_s=10)
    assert status() == "lost"
    state.tell(make_event("opened", "cam", "cam is open"))
    assert status() == "waiting"
    put(state, 0.5)
    assert status() == "live"
    state.tell(make_event("gave_up", "cam", "cam is given up"))
    assert status() == "gave_up"


def test_events_of_files_make_no_source_and_only_the_latest_stay() -> None:
    state = PageState()
    for number in range(150):
        state.tell(make_event("sink_failed", "line.db", f"failure {number}"))
    found = state.snapshot()
    assert found["sources"] == []
    assert [event["message"] for event in found["events"][:2]] == ["failure 149", "failure 148"]
    assert (len(found["events"]), found["event_counts"]) == (100, {"sink_failed": 150})


def test_made_up_sources_do_not_fill_the_memory() -> None:
    state = PageState()
    for number in range(100):
        put(state, 0.5, source=f"cam {number}")
    assert len(state.snapshot()["sources"]) == 64


def test_a_trace_keeps_the_highest_score_of_each_bin() -> None:
    trace = ScoreTrace(span_s=10, bin_s=0.5)
    for at_s, score in ((100.0, 0.2), (100.1, 2.5), (100.2, 0.1), (101.0, 0.3)):
        trace.add(at_s, score, is_anomalous=score > 1)
    assert trace.since(102.0) == [[2.0, 2.5, 0.1, 3, 1], [1.0, 0.3, 0.3, 1, 0]]
    assert trace.since(111.4) == [[10.4, 0.3, 0.3, 1, 0]]
    assert trace.since(112.0) == []


def test_a_trace_is_bounded() -> None:
    trace = ScoreTrace(span_s=10, bin_s=0.5)
    for step in range(10_000):
        trace.add(step * 0.4, 1.0, is_anomalous=False)
    assert len(trace.since(4000.0)) == 21


def test_traces_come_by_their_span() -> None:
    state = PageState()
    put(state, 0.5)
    put(state, 1.5)
    assert state.trace("120")["bin_s"] == 0.25
    (bins,) = state.trace("3600")["sources"].values()
    assert sum(each[3] for each in bins) == 2
    with pytest.raises(KeyError):
        state.trace("7")


def test_reading_and_writing_at_once_adds_up() -> None:
    state = PageState()
    ended = threading.Event()
    failures: list[str] = []

    def look() -> None:
        while not ended.is_set():
            found = state.snapshot()
            if found["inspected"] != sum(source["inspected"] for source in found["sources"]):
                failures.append(str(found["inspected"]))

    threads = [threading.Thread(target=look) for _ in range(2)]
    writers = [
        threading.Thread(target=lambda name=name: [put(state, 0.5, source=name) for _ in range(500)])
        for name in "ab"
    ]
    for thread in itertools.chain(threads, writers):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert state.snapshot()["inspected"] == 1000


def test_a_verdict_costs_the_inspection_little() -> None:
    state = PageState()
    frame = Frame(np.zeros((1080, 1920, 3), np.uint8), 0, "cam", time.time(), time.monotonic())
    detection = Detection(score=0.5, raw_score=0.5, threshold=1.0)
    durations = []
    for _ in range(300):
        started = time.perf_counter()
        state.put(detection, frame)
        durations.append(time.perf_counter() - started)
    # A copy of the frame alone takes a millisecond.
    assert sorted(durations)[len(durations) // 2] < 2e-4
