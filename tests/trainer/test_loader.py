from __future__ import annotations

import threading
from contextlib import closing

import pytest
import torch
from torch import Tensor

from cada_edge.trainer.loader import prefetched

CPU = torch.device("cpu")


def _batches(count: int) -> list[Tensor]:
    return [torch.tensor([number]) for number in range(count)]


@pytest.mark.parametrize("ahead", [0, 1, 2, 9])
def test_every_batch_comes_once_and_in_order(ahead: int) -> None:
    found = prefetched(lambda rows: (rows * 2, rows + 1), _batches(5), ahead=ahead, device=CPU)
    assert [(int(double), int(more)) for double, more in found] == [(2 * n, n + 1) for n in range(5)]


def test_it_runs_ahead_by_as_many_as_it_may_and_no_more() -> None:
    fetched: list[int] = []
    waits = threading.Semaphore(0)

    def fetch(rows: Tensor) -> tuple[Tensor, ...]:
        fetched.append(int(rows))
        waits.release()
        return (rows,)

    with closing(prefetched(fetch, _batches(10), ahead=2, device=CPU)) as found:
        assert int(next(found)[0]) == 0
        for _ in range(3):
            assert waits.acquire(timeout=60)
        assert fetched == [0, 1, 2]


@pytest.mark.parametrize("ahead", [0, 2])
def test_an_error_comes_out_at_its_batch(ahead: int) -> None:
    def fetch(rows: Tensor) -> tuple[Tensor, ...]:
        if int(rows) == 2:
            raise OSError("the drive is gone")
        return (rows,)

    found = prefetched(fetch, _batches(5), ahead=ahead, device=CPU)
    assert [int(next(found)[0]) for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="the drive is gone"):
        next(found)


def test_its_thread_ends_when_it_is_closed() -> None:
    def loaders() -> list[str]:
        return [thread.name for thread in threading.enumerate() if "cada-edge-loader" in thread.name]

    found = prefetched(lambda rows: (rows,), _batches(100), ahead=2, device=CPU)
    next(found)
    assert len(loaders()) == 1
    found.close()
    assert loaders() == []


@pytest.mark.gpu
def test_batches_for_a_gpu_are_pinned() -> None:
    found = prefetched(lambda rows: (rows,), _batches(4), ahead=2, device=torch.device("cuda:0"))
    for number, (rows,) in enumerate(found):
        assert rows.is_pinned()
        assert rows.to("cuda:0", non_blocking=True).item() == number
