"""Millions of scores of one class, appended as they come and ranked exactly, at two bytes a score.

The bits of a float32 can be turned into an unsigned integer that orders as the score does. Its upper half
puts a score into one of 65,536 buckets, its lower half orders it within the bucket. Scores are kept as
*runs*: blocks whose lower halves are grouped by bucket, in memory or in a temporary file. To rank scores
against the runs, a few buckets at a time are merged from all runs, and their lower halves are sorted.

Both steps are radix sorts of 16-bit integers, which NumPy does in linear time on every processor. Its sort of
float32 is not as even: on AMD's Zen 4 it takes four times as long with AVX-512, which NumPy chooses there, as
with AVX2.

``-0.0`` ties with ``0.0``, infinities rank like any other score, NaN is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import InputError
from cada_edge.runtime.score_memory import ScoreMemory, StoredArray

__all__ = ["RUN_LENGTH", "ScoreRuns", "count_ranks", "nan_error", "ordered_keys", "tally"]

RUN_LENGTH = 1 << 18
"""Scores in one run: few enough that grouping them stays in a processor's cache."""
_WINDOW = 1 << 20
"""Scores merged at once, about 40 bytes each while that lasts: 40 MiB."""
_THREADS = min(4, os.cpu_count() or 1)
"""Threads that group and merge: NumPy sorts without the interpreter's lock."""
_BUCKETS = 1 << 16
_SIGN = np.uint32(1 << 31)
_NEGATIVE_ZERO = np.uint32((1 << 31) - 1)
_HALF = np.uint32(16)


@dataclass
class _Run:
    """Scores grouped by bucket."""

    buckets: NDArray[np.uint16]
    """(B,): the buckets with scores in them, ascending."""
    starts: NDArray[np.int32]
    """(B + 1,): where in `lower` each of them starts, and the end."""
    lower: NDArray[np.uint16] | StoredArray
    """(N,): lower halves of the keys, in any order within a bucket."""


class ScoreRuns:
    """Scores of one class.

    Memory: two bytes a score, six more for each bucket that a run has (a few thousand where scores spread
    over some orders of magnitude; at most 65,536, which is 1.5 bytes a score), and four bytes for each of up
    to `run_length` scores that do not fill a run yet.

    Args:
        memory: What bounds it together with others, by moving runs to a file; None keeps all in memory.
        run_length: Scores in one run.
    """

    def __init__(self, *, memory: ScoreMemory | None = None, run_length: int = RUN_LENGTH) -> None:
        self._memory = memory if memory is not None else ScoreMemory()
        self._memory.join(self)
        self._run_length = run_length
        self._runs: list[_Run] = []
        self._waiting: list[NDArray[np.float32]] = []
        self._waiting_length = 0
        self._length = 0
        self._held_in_runs = 0

    def __len__(self) -> int:
        return self._length

    @property
    def held_bytes(self) -> int:
        """Bytes of scores in memory."""
        return self._held_in_runs + 4 * self._waiting_length

    def append(self, scores: NDArray[np.float32]) -> None:
        """Add scores.

        Args:
            scores: float32, any shape; copied.

        Raises:
            InputError: There is a NaN among them.
            OutputError: The temporary file cannot be written.
        """
        scores = scores.ravel()
        if _has_nan(scores):
            raise nan_error(scores)
        self._length += scores.size
        self._waiting.append(scores.copy())
        self._waiting_length += scores.size
        if self._waiting_length >= self._run_length:
            self._group_waiting(leave=self._waiting_length % self._run_length)
        self._memory.settle()

    @classmethod
    def of(cls, scores: NDArray[np.float32]) -> ScoreRuns:
        """Make runs of an array on several cores.

        Args:
            scores: float32, any shape; left as they are.

        Raises:
            InputError: There is a NaN among them.
        """
        flat = scores.reshape(-1)
        blocks = [flat[start : start + RUN_LENGTH] for start in range(0, flat.size, RUN_LENGTH)]
        parts = cls()
        with ThreadPoolExecutor(_THREADS) as pool:
            if any(pool.map(_has_nan, blocks)):
                raise nan_error(flat)
            parts._runs = list(pool.map(_group, blocks))
        parts._length = flat.size
        return parts

    def runs(self) -> list[_Run]:
        """Return all runs; scores may be appended afterwards."""
        self._group_waiting(leave=0)
        return self._runs

    def spill(self) -> None:
        """Move all scores from memory to the file."""
        self._group_waiting(leave=0)
        for run in self._runs:
            if isinstance(run.lower, np.ndarray):
                run.lower = self._memory.store(run.lower)
        self._held_in_runs = 0

    def _group_waiting(self, *, leave: int) -> None:
        """Make runs of the scores that wait, but for the last few."""
        if self._waiting_length == leave:
            return
        scores = np.concatenate(self._waiting)
        grouped = scores.size - leave
        for start in range(0, grouped, self._run_length):
            self._runs.append(_group(scores[start : min(start + self._run_length, grouped)]))
        self._held_in_runs += 2 * grouped
        self._waiting, self._waiting_length = [scores[grouped:].copy()], leave


def nan_error(scores: NDArray[np.floating]) -> InputError:
    """Make the error for scores with NaN among them."""
    return InputError(
        f"{int(np.isnan(scores).sum())} of {scores.size} scores are NaN; wanted numbers, since NaN has no "
        "rank. Find the image they come from with `cada-edge predict`, and the cause with `cada-edge verify`."
    )


def ordered_keys(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Turn scores into integers that order, and tie, as they do.

    Args:
        scores: float32 (N,) without NaN.
    """
    bits = np.ascontiguousarray(scores).view(np.uint32)
    # Of a negative number all bits are turned, of another the sign alone: no arithmetic that would flush
    # denormals where a library has told the processor to.
    keys = (bits.view(np.int32) >> 31).view(np.uint32)
    keys |= _SIGN
    keys ^= bits
    keys += keys == _NEGATIVE_ZERO
    return keys


def _has_nan(scores: NDArray[np.float32]) -> bool:
    return bool(np.isnan(scores).any())


def _group(scores: NDArray[np.float32]) -> _Run:
    """Make a run of scores.

    Args:
        scores: float32 (N,), N >= 1, without NaN; left as they are.
    """
    keys = ordered_keys(scores)
    lower = keys.astype(np.uint16)
    keys >>= _HALF
    upper = keys.astype(np.uint16)
    counts = np.bincount(upper, minlength=_BUCKETS)
    buckets = np.flatnonzero(counts)
    return _Run(
        buckets=buckets.astype(np.uint16),
        starts=_starts(counts[buckets]).astype(np.int32),
        lower=lower[np.argsort(upper, kind="stable")],
    )


def tally(parts: Sequence[ScoreRuns]) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int64]]]:
    """Count how often each score occurs.

    Args:
        parts: The scores.

    Yields:
        Distinct keys of scores (M,), ascending from one to the next as well, and the count (M,) of each.
    """
    runs = [run for part in parts for run in part.runs()]
    ends = _starts(_bucket_sizes(runs))
    first = 0
    while ends[first] < ends[-1]:
        # Past empty buckets, so that there is something in every window.
        first = int(np.searchsorted(ends, ends[first], "right")) - 1
        last = _window_end(ends, first)
        if ends[last] - ends[first] <= _WINDOW:
            (keys,) = _merged(runs, first, last)
            begins = np.concatenate(([0], np.flatnonzero(keys[1:] != keys[:-1]) + 1))
            yield keys[begins], np.diff(begins, append=keys.size)
        else:
            # One bucket of any size: it has no more than 65,536 distinct scores.
            counts = np.zeros(_BUCKETS, np.int64)
            for keys in _merged(runs, first, last):
                counts += np.bincount(keys.astype(np.uint16), minlength=_BUCKETS)
            lower = np.flatnonzero(counts)
            yield (lower + first * _BUCKETS).astype(np.uint32), counts[lower]
        first = last


def count_ranks(
    parts: Sequence[ScoreRuns], keys: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the scores that lie below each of some others, and those that equal it.

    Args:
        parts: The scores to count.
        keys: (M,), sorted: `ordered_keys` of the others.

    Returns:
        Two int64 (M,): how many lie below, and how many are equal.
    """
    runs = [run for part in parts for run in part.runs()]
    ends = _starts(_bucket_sizes(runs))
    below = np.zeros(len(keys), np.int64)
    equal = np.zeros(len(keys), np.int64)
    upper = keys >> _HALF

    def rank(window: tuple[int, int]) -> None:
        begin, end = window
        first, last = int(upper[begin]), int(upper[end - 1]) + 1
        asked = keys[begin:end]
        below[begin:end] = ends[first]
        for merged in _merged(runs, first, last):
            place = np.searchsorted(merged, asked)
            below[begin:end] += place
            # Ties are rare: the second search is made for them alone.
            tied = np.flatnonzero(merged[np.minimum(place, merged.size - 1)] == asked)
            equal[begin + tied] += np.searchsorted(merged, asked[tied], "right") - place[tied]

    windows = list(_windows(ends, upper))
    if len(windows) > 1:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(rank, windows))
    else:
        for window in windows:
            rank(window)
    return below, equal


def _windows(ends: NDArray[np.int64], upper: NDArray[np.uint32]) -> Iterator[tuple[int, int]]:
    """Divide keys so that the scores of the buckets of each part can be merged at once.

    Args:
        ends: Where each bucket starts among all scores, and the end.
        upper: (M,), sorted: the bucket of each key.

    Yields:
        First key of a part, and the one after its last.
    """
    begin = 0
    while begin < len(upper):
        last = _window_end(ends, int(upper[begin]))
        end = int(np.searchsorted(upper, np.uint32(last)))
        yield begin, end
        begin = end


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of some consecutive parts starts, and the end."""
    return np.concatenate(([0], np.cumsum(counts)))


def _bucket_sizes(runs: Sequence[_Run]) -> NDArray[np.int64]:
    sizes = np.zeros(_BUCKETS, np.int64)
    for run in runs:
        sizes[run.buckets] += np.diff(run.starts)
    return sizes


def _window_end(ends: NDArray[np.int64], first: int) -> int:
    """Return where a window from a bucket on ends: with what can be merged at once, or after one bucket."""
    return max(first + 1, int(np.searchsorted(ends, ends[first] + _WINDOW, "right")) - 1)


def _merged(runs: Sequence[_Run], first: int, last: int) -> Iterator[NDArray[np.uint32]]:
    """Sort the scores of some buckets.

    Args:
        runs: All runs.
        first: The first bucket.
        last: The bucket after the last.

    Yields:
        Sorted keys, not empty; all at once unless they are more than a window.
    """
    waiting: list[tuple[_Run, int, int]] = []
    size = 0
    # Of the buckets' own type: NumPy would convert all of them for a number of another.
    lowest, highest = np.uint16(first), np.uint16(last - 1)
    for run in runs:
        begin = int(np.searchsorted(run.buckets, lowest))
        end = int(np.searchsorted(run.buckets, highest, "right"))
        length = int(run.starts[end] - run.starts[begin])
        if not length:
            continue
        if waiting and size + length > _WINDOW:
            yield _merge(waiting)
            waiting, size = [], 0
        waiting.append((run, begin, end))
        size += length
    if waiting:
        yield _merge(waiting)


def _merge(parts: Sequence[tuple[_Run, int, int]]) -> NDArray[np.uint32]:
    """Sort scores of several runs, each from one of its buckets to another."""
    lower = np.concatenate([run.lower[int(run.starts[b]) : int(run.starts[e])] for run, b, e in parts])
    buckets = np.concatenate([run.buckets[b:e] for run, b, e in parts])
    sizes = np.concatenate([np.diff(run.starts[b : e + 1]) for run, b, e in parts])
    if len(parts) > 1 and buckets.min() != buckets.max():
        # Pieces of a bucket lie apart, one in each run: move each to its place, as one gather. Large arrays
        # are few here: what the allocator hands back to the system costs more to get again than the sorting.
        order = np.argsort(buckets, kind="stable")
        lie_at = _starts(sizes)[order]
        buckets, sizes = buckets[order], sizes[order]
        source = np.ones(lower.size, np.intp)
        source[0] = lie_at[0]
        source[_starts(sizes)[1:-1]] = lie_at[1:] - lie_at[:-1] - sizes[:-1] + 1
        lower = lower[np.cumsum(source, out=source)]
        del source
    change = np.flatnonzero(buckets[1:] != buckets[:-1]) + 1
    begin = 0
    for end in [*_starts(sizes)[change].tolist(), lower.size]:
        lower[begin:end].sort(kind="stable")
        begin = end
    keys: NDArray[np.uint32] = np.repeat(buckets.astype(np.uint32) << _HALF, sizes)
    keys |= lower
    return keys
