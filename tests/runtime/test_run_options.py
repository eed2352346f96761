from __future__ import annotations

import pytest

from cada_edge.runtime.run_options import recent_rate


def every(interval_s: float, count: int) -> list[float]:
    return [number * interval_s for number in range(count)]


@pytest.mark.parametrize(
    ("times_s", "now_s", "rate"),
    [
        ([], 1.0, 0.0),
        ([0.5], 1.0, 0.0),
        ([0.5, 0.5], 0.5, 0.0),
        (every(0.25, 100), 24.75, 4.0),
        (every(0.25, 100), 24.9, 4.0),  # the next one is not late yet
        (every(0.25, 100), 25.0, 4.0),
        (every(0.25, 100), 27.25, 2.2),  # 10 of 5 s, and an interval that goes on
        (every(0.25, 100), 29.5, 0.4),  # of the last two
        (every(0.25, 100), 124.5, 0.02),
        (every(10.0, 4), 30.0, 0.1),  # a slow line
        (every(10.0, 4), 39.0, 0.1),
        ([0.0, 1.0, 2.0, *(100 + each for each in every(0.5, 20))], 109.5, 2.0),  # a pause long ago
    ],
)
def test_the_rate_is_of_late_and_falls_while_nothing_comes(
    times_s: list[float], now_s: float, rate: float
) -> None:
    assert recent_rate(times_s, now_s) == pytest.approx(rate)
