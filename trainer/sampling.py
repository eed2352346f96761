"""Random numbers without state: each iteration's batch and noise follow from (seed, stream, iteration) alone.

So a resumed run draws what an uninterrupted one would have drawn, and nothing random needs to be saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

__all__ = ["batch_indices", "seeded"]


def batch_indices(images: int, batch_size: int, iteration: int, *, seed: int, stream: int) -> Tensor:
    """Return the image numbers of one iteration's batch.

    Each epoch is a permutation of its own; an incomplete last batch is dropped. With fewer images than a
    batch holds, they are drawn with replacement.

    Args:
        images: Number of images.
        batch_size: Images in a batch.
        iteration: From 0.
        seed: The run's seed.
        stream: Keeps several samplers of one run apart.

    Returns:
        int64 (batch_size,).
    """
    if images < batch_size:
        rows = np.random.default_rng([seed, stream, iteration]).integers(0, images, batch_size)
        return torch.from_numpy(rows)
    batches = images // batch_size
    epoch, position = divmod(iteration, batches)
    order = np.random.default_rng([seed, stream, epoch]).permutation(images)
    return torch.from_numpy(order[position * batch_size : (position + 1) * batch_size])


@contextmanager
def seeded(seed: int, stream: int, iteration: int, *, process: int = 0) -> Iterator[None]:
    """Run a block with torch's generators seeded for this iteration; the CPU's is put back afterwards.

    Args:
        seed: The run's seed.
        stream: Keeps several consumers of one run apart.
        iteration: From 0.
        process: Rank of the process, so that shares of one batch do not get the same noise.
    """
    state = torch.random.get_rng_state()
    words = [seed, stream, iteration, process] if process else [seed, stream, iteration]
    torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1)))
    try:
        yield
    finally:
        torch.random.set_rng_state(state)
