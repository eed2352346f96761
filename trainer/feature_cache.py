"""Bottleneck features on disk: what the aligner trains on, computed by one pass of the frozen base."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cada_edge.files import write_atomic
from cada_edge.trainer.aligner import Statistics
from cada_edge.trainer.array_file import write_rows

__all__ = ["FeatureCache"]

_TARGETS = ("mean", "maximum", "deviation")
"""Of `Statistics`, in its order."""


class FeatureCache:
    """A memory-mapped float32 file of features, with the targets beside, valid for one key only."""

    def __init__(self, folder: Path, key: str) -> None:
        """Name the files.

        Args:
            folder: The run folder.
            key: Changes with the base's weights and with the data.
        """
        self._features = folder / "aligner_features.npy"
        self._targets = folder / "aligner_targets.json"
        self._key = key

    def load(self) -> Statistics | None:
        """Return the cached statistics, or None where there are none for this key."""
        try:
            targets = json.loads(self._targets.read_text(encoding="utf-8"))
            if targets["key"] != self._key:
                return None
            features = np.load(self._features, mmap_mode="c")
            if any(len(targets[name]) != len(features) for name in _TARGETS):
                return None
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            return None
        return Statistics(torch.from_numpy(features), *(torch.tensor(targets[name]) for name in _TARGETS))

    def fill(self, passes: Iterable[tuple[Tensor, Tensor]], images: int) -> Statistics:
        """Run one pass over the training images and keep what the aligner needs.

        Args:
            passes: Unsmoothed maps (B, S, S) and bottleneck features (B, C, h, w), in the images' order.
            images: Their number.

        Returns:
            The statistics, features mapped from the file.

        Raises:
            OutputError: The disk does not take them.
        """
        self.delete()
        targets: dict[str, list[float]] = {name: [] for name in _TARGETS}

        def features() -> Iterator[NDArray[np.float32]]:
            for maps, bottleneck in passes:
                maps = maps.float()
                targets["mean"] += maps.mean((1, 2)).tolist()
                targets["maximum"] += maps.amax((1, 2)).tolist()
                targets["deviation"] += maps.std((1, 2), correction=0).tolist()
                yield bottleneck.float().cpu().numpy()

        write_rows(self._features, features(), images)
        write_atomic(self._targets, json.dumps({"key": self._key, **targets}).encode())
        loaded = self.load()
        assert loaded is not None
        return loaded

    def delete(self) -> None:
        """Remove the files; harmless without any."""
        self._targets.unlink(missing_ok=True)
        self._features.unlink(missing_ok=True)
