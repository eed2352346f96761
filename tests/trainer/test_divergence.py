from __future__ import annotations

import math

import numpy as np
import pytest

from cada_edge.trainer.divergence import LossWatch


def _feed(watch: LossWatch, losses: list[float]) -> int | None:
    """Return the number of the loss at which divergence was told, None for never."""
    for number, loss in enumerate(losses):
        if watch.diverged(loss):
            return number
    return None


def _falling(count: int, start: float, end: float) -> list[float]:
    """An exponential fall with 20 % noise."""
    noise = np.random.default_rng(0).lognormal(0, 0.2, count)
    share = np.exp(-np.arange(count) / (count / 8))
    return [float(value) for value in (end + (start - end) * share) * noise]


def test_ten_times_the_median_for_fifty_iterations_is_a_divergence() -> None:
    watch = LossWatch()
    assert _feed(watch, [1.0] * 150) is None
    assert _feed(watch, [10.1] * 49) is None
    assert watch.is_high
    assert watch.diverged(10.1)


def test_just_below_it_is_none() -> None:
    assert _feed(LossWatch(), [1.0] * 150 + [9.9] * 300) is None


def test_a_rise_that_ends_in_time_starts_the_count_again() -> None:
    assert _feed(LossWatch(), [1.0] * 150 + ([50.0] * 49 + [1.0] * 100) * 3) is None


def test_a_collapse_to_the_beginnings_loss_is_one_where_losses_are_bounded() -> None:
    """RevDist's loss of three cosine distances cannot grow tenfold from 0.4."""
    losses = [3.0] * 20 + [1.0] * 200 + [0.4] * 200
    assert _feed(LossWatch(), [*losses, *[3.01] * 200]) == len(losses) + 49
    # Half as bad as the beginning is bad, and no proof.
    assert _feed(LossWatch(), [*losses, *[2.9] * 50]) is None


@pytest.mark.parametrize(("start", "end"), [(3.0, 0.05), (1.0, 0.9), (200.0, 0.01), (0.5, 0.5)])
def test_an_ordinary_run_is_left_alone(start: float, end: float) -> None:
    assert _feed(LossWatch(), _falling(3000, start, end)) is None


def test_a_warm_up_that_rises_is_left_alone() -> None:
    rise = [float(value) for value in np.linspace(0.01, 5.0, 99)]
    assert _feed(LossWatch(), rise + _falling(2000, 5.0, 0.1)) is None


def test_nothing_is_said_before_a_hundred_iterations() -> None:
    watch = LossWatch()
    assert _feed(watch, [0.001] * 30 + [1000.0] * 69) is None
    assert LossWatch().limit() == math.inf


def test_a_resumed_watch_decides_as_an_uninterrupted_one() -> None:
    losses = _falling(400, 3.0, 0.1) + [8.0] * 60
    told = _feed(LossWatch(), losses)
    assert told == 449
    for cut in (5, 150, 420):
        watch = LossWatch()
        assert _feed(watch, losses[:cut]) is None
        assert _feed(LossWatch(watch.state()), losses[cut:]) == told - cut


@pytest.mark.parametrize("state", [None, 3, {"recent": "no list", "high": 60}, {"recent": [1.0] * 150}])
def test_a_state_of_another_kind_is_none(state: object) -> None:
    watch = LossWatch(state)
    assert watch.limit() == math.inf
    assert not watch.diverged(1.0)
