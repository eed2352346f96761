from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from cada_edge.errors import OutputError
from cada_edge.trainer.run_log import RunLog, read_log

HEADER: dict[str, Any] = {"config": {"seed": 3}, "device": {"type": "cpu"}}


def _steps(log: RunLog, first: int, last: int, *, total: int = 10, stage: str = "base") -> None:
    for done in range(first, last + 1):
        log.step(stage, done, total, 1 / done, learning_rate=0.5, images=4)


def _curve(path: Path, stage: str = "base") -> list[tuple[int, float]]:
    steps = [row for row in read_log(path) if row["row"] == "step" and row["stage"] == stage]
    return [(row["iteration"], row["loss"]) for row in steps]


def test_rows_of_a_whole_run(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RunLog(path, HEADER, every=4) as log:
        log.start(0)
        _steps(log, 1, 10)
        log.finish(threshold=None)
    header, *rows = read_log(path)
    assert (header["row"], header["format"], header["version"]) == ("header", "cada-edge-log", 1)
    assert header["config"] == {"seed": 3}
    assert header["started_at"].endswith("+00:00")
    assert [row["row"] for row in rows] == ["step", "step", "step", "finished"]
    assert _curve(path) == [(4, 1 / 4), (8, 1 / 8), (10, 1 / 10)]
    assert all(row["learning_rate"] == 0.5 and row["images_per_s"] > 0 for row in rows[:3])
    assert rows[0]["seconds"] <= rows[2]["seconds"]
    assert rows[3]["threshold"] is None


def test_a_stage_that_reports_some_iterations_only_gets_rows_too(tmp_path: Path) -> None:
    """The aligner reports its iterations 1, 26, 51, ..."""
    path = tmp_path / "log.jsonl"
    with RunLog(path, HEADER, every=25) as log:
        log.start(0)
        _steps(log, 1, 50, total=50)
        for done in (1, 26, 51, 60):
            log.step("aligner", done, 60, 0.25, learning_rate=0.1, images=4)
    assert [iteration for iteration, _ in _curve(path, "aligner")] == [26, 51, 60]


def test_the_log_of_a_resumed_run_is_one_curve(tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    with RunLog(whole, HEADER, every=2) as log:
        log.start(0)
        _steps(log, 1, 10)
    with RunLog(resumed, HEADER, every=2) as log:
        log.start(0)
        _steps(log, 1, 9)
        log.step("aligner", 2, 2, 9.0, learning_rate=1.0, images=4)
    # Cut short in the midst of a row, as by a crash, and gone on from the state of iteration 5.
    resumed.write_text(resumed.read_text() + '{"row": "step", "stage": "ba')
    before = read_log(resumed)
    with RunLog(resumed, HEADER, every=2) as log:
        log.start(5)
        _steps(log, 6, 10)
    assert _curve(resumed) == _curve(whole)
    assert _curve(resumed, "aligner") == []
    rows = read_log(resumed)
    assert rows[0] == before[0]
    (again,) = [row for row in rows if row["row"] == "resumed"]
    assert (again["iteration"], again["device"]) == (5, {"type": "cpu"})
    seconds = [row["seconds"] for row in rows if row["row"] == "step"]
    assert seconds == sorted(seconds)


def test_a_resumed_run_without_a_log_begins_one(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("no JSON at all\n[1]\n")
    with RunLog(path, HEADER, every=1) as log:
        log.start(9)
        _steps(log, 10, 10)
    assert [row["row"] for row in read_log(path)] == ["header", "step"]
    assert read_log(tmp_path / "none.jsonl") == []


def test_how_a_run_was_stopped_is_its_last_row(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    def run(error: BaseException) -> None:
        with RunLog(path, HEADER, every=1) as log:
            log.start(0)
            raise error

    with pytest.raises(KeyboardInterrupt):
        run(KeyboardInterrupt())
    assert read_log(path)[-1]["reason"] == "KeyboardInterrupt"
    with pytest.raises(ValueError, match="bad"):
        run(ValueError("bad"))
    assert read_log(path)[-1]["reason"] == "ValueError: bad"


def test_numbers_that_json_lacks_become_texts(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RunLog(path, HEADER, every=1) as log:
        log.start(0)
        log.finish(threshold=float("inf"))
    assert json.loads(path.read_text().splitlines()[-1])["threshold"] == "inf"


def test_nothing_is_written_before_the_start(tmp_path: Path) -> None:
    with RunLog(tmp_path / "log.jsonl", HEADER, every=1) as log:
        _steps(log, 1, 3)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_that_says_what_to_do(
    tmp_path: Path, small_disk: Callable[[int], AbstractContextManager[None]]
) -> None:

    def run() -> None:
        with RunLog(tmp_path / "log.jsonl", HEADER, every=1) as log:
            log.start(0)
            _steps(log, 1, 1000, total=1000)

    wanted = r"Cannot write .*log\.jsonl: .*Free some space .*--resume"
    with small_disk(4096), pytest.raises(OutputError, match=wanted):
        run()


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first, last in ((0, 9), (5, 10)):
        with RunLog(tmp_path / "log.jsonl", HEADER, every=2, tensorboard=tmp_path / "tensorboard") as log:
            log.start(first)
            _steps(log, first + 1, last)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["base/images_per_s", "base/learning_rate", "base/loss"]
    curve = _curve(tmp_path / "log.jsonl")
    shown = events.Scalars("base/loss")
    assert [event.step for event in shown] == [iteration for iteration, _ in curve]
    assert [event.value for event in shown] == pytest.approx([loss for _, loss in curve])
