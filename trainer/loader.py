"""Batches fetched ahead of their use, in memory that a GPU can read directly."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

__all__ = ["prefetched"]


def prefetched(
    fetch: Callable[[Tensor], tuple[Tensor, ...]],
    batches: Iterable[Tensor],
    *,
    ahead: int,
    device: torch.device,
) -> Generator[tuple[Tensor, ...], None, None]:
    """Fetch batches in a thread while the ones before them are worked on, in order.

    Close the generator (`contextlib.closing`) to end the thread before the last batch.

    Args:
        fetch: Gives CPU tensors for image numbers (B,); called in the thread, by one thread at a time.
        batches: Image numbers of each batch.
        ahead: Batches to hold ready; 0 fetches each when it is asked for, without a thread.
        device: Where they will be used. For CUDA they are pinned, so that a copy with `non_blocking` runs
            beside the computation; torch's allocator keeps each until its copy is done.

    Returns:
        What `fetch` gave; its exceptions come out here.
    """
    pin = device.type == "cuda"

    def work(rows: Tensor) -> tuple[Tensor, ...]:
        tensors = fetch(rows)
        return tuple(tensor.pin_memory() for tensor in tensors) if pin else tensors

    if ahead == 0:
        yield from map(work, batches)
        return

    def enter() -> None:
        # A new thread is on the first GPU: pinning would make a context there.
        if pin:
            torch.cuda.set_device(device)

    waiting: deque[Future[tuple[Tensor, ...]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="cada-edge-loader", initializer=enter) as pool:
        try:
            for rows in batches:
                waiting.append(pool.submit(work, rows))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
