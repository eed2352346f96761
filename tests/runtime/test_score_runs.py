from __future__ import annotations

import numpy as np
import pytest

from cada_edge.errors import InputError
from cada_edge.runtime import score_runs
from cada_edge.runtime.score_runs import RUN_LENGTH, ScoreRuns, count_ranks, ordered_keys, tally

VALUES = [-np.inf, -3e38, -1.0, -1e-45, 0.0, 1e-45, 1e-38, 1.0, 1.0000001, 1e6, np.inf]


def test_keys_order_and_tie_as_scores_do() -> None:
    scores = np.array(VALUES, np.float32)
    keys = ordered_keys(scores).tolist()
    assert keys == sorted(set(keys))
    zeros = ordered_keys(np.array([-0.0, 0.0], np.float32))
    assert zeros[0] == zeros[1] == ordered_keys(scores)[4]


def test_tally_counts_each_distinct_score(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).choice(np.array(VALUES, np.float32), 5000)
    wanted, counts = np.unique(scores, return_counts=True)
    for window in (1, 700, 1 << 20):
        monkeypatch.setattr(score_runs, "_WINDOW", window)
        parts = [ScoreRuns(run_length=300), ScoreRuns(run_length=90)]
        parts[0].append(scores[:3000])
        parts[1].append(scores[3000:])
        found = list(tally(parts))
        np.testing.assert_array_equal(np.concatenate([keys for keys, _ in found]), ordered_keys(wanted))
        np.testing.assert_array_equal(np.concatenate([count for _, count in found]), counts)


@pytest.mark.parametrize("window", [1, 64, 5000, 1 << 21])
def test_ranks_equal_a_search_in_all_scores(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_runs, "_WINDOW", window)
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.normal(size=3000), rng.normal(1e6, 1.0, 2000), np.zeros(900)])
    scores = rng.permutation(scores).astype(np.float32)
    # Some that occur, some that do not, some outside, some twice.
    asked = np.sort(np.concatenate([scores[:50], scores[:9], rng.normal(size=40), [-9e9, 9e9, -0.0]]))
    asked = asked.astype(np.float32)
    runs = ScoreRuns(run_length=256)
    runs.append(scores)
    below, equal = count_ranks([runs], ordered_keys(asked))
    ordered = np.sort(scores)
    np.testing.assert_array_equal(below, np.searchsorted(ordered, asked, "left"))
    np.testing.assert_array_equal(below + equal, np.searchsorted(ordered, asked, "right"))


def test_scores_are_counted_and_may_be_appended_after_a_look() -> None:
    runs = ScoreRuns(run_length=1000)
    for _ in range(25):
        runs.append(np.ones((10, 10), np.float32))
    assert len(runs) == 2500
    assert [int(run.starts[-1]) for run in runs.runs()] == [1000, 1000, 500]
    # Two bytes for each score that lies in a run.
    assert runs.held_bytes == 5000
    runs.append(np.zeros(7, np.float32))
    assert runs.held_bytes == 5000 + 4 * 7
    below, equal = count_ranks([runs], ordered_keys(np.ones(1, np.float32)))
    assert (below.tolist(), equal.tolist()) == ([7], [2500])


def test_an_array_in_threads_gives_the_same_as_appended() -> None:
    scores = np.random.default_rng(2).normal(size=RUN_LENGTH + 1000).astype(np.float32)
    whole, appended = ScoreRuns.of(scores.reshape(2, -1)), ScoreRuns()
    appended.append(scores)
    assert len(whole) == len(appended) == scores.size
    asked = ordered_keys(np.sort(scores[:100]))
    for one, other in zip(count_ranks([whole], asked), count_ranks([appended], asked), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nan_is_refused() -> None:
    scores = np.array([0.1, np.nan], np.float32)
    for call in (ScoreRuns.of, ScoreRuns().append):
        with pytest.raises(InputError, match=r"1 of 2 scores are NaN; wanted numbers, since .*cada-edge"):
            call(scores)
