"""The line that shows how far a build is, on a terminal and in a file."""

from __future__ import annotations

import io

import pytest

from cada_edge.status_line import StatusLine


class Terminal(io.StringIO):
    """Double of a terminal: text that says it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("cada_edge.status_line.time.perf_counter", lambda: now[0])
    return now


def test_a_terminals_line_is_overwritten_and_wiped(clock: list[float]) -> None:
    stream = Terminal()
    with StatusLine("build", stream) as line:
        line.update("Timing every kernel", 3, 10)
        clock[0] += 7
        line.update("Done", 0, 0)
    long, short = "build    0 s  Timing every kernel 3/10", "build    7 s  Done"
    assert stream.getvalue() == f"\r{long}\r{short.ljust(len(long))}\r{' ' * len(short)}\r"


def test_a_file_gets_a_line_each_half_minute(clock: list[float]) -> None:
    stream = io.StringIO()
    with StatusLine("build", stream) as line:
        for _ in range(70):
            clock[0] += 1
            line.update("Timing", 1, 2)
    assert stream.getvalue() == "build   30 s  Timing 1/2\nbuild   60 s  Timing 1/2\n"


def test_a_short_one_leaves_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with StatusLine("build") as line:
        line.update("Timing", 1, 2)
    assert capsys.readouterr() == ("", "")
