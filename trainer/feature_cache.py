"""Bottleneck features on disk: what the aligner trains on, computed by one pass of the frozen base."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cada_edge.errors import OutputError
from cada_edge.files import write_atomic
from cada_edge.trainer.aligner import Statistics

__all__ = ["FeatureCache"]


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
        except (OSError, ValueError, KeyError):
            return None
        mean, maximum = torch.tensor(targets["mean"]), torch.tensor(targets["maximum"])
        return Statistics(torch.from_numpy(features), mean, maximum) if len(features) == len(mean) else None

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
        file: np.memmap[Any, Any] | None = None
        means: list[float] = []
        maxima: list[float] = []
        try:
            for maps, bottleneck in passes:
                rows = bottleneck.float().cpu().numpy()
                if file is None:
                    file = np.lib.format.open_memmap(
                        self._features, "w+", np.float32, (images, *rows.shape[1:])
                    )
                file[len(means) : len(means) + len(rows)] = rows
                means += maps.float().mean((1, 2)).tolist()
                maxima += maps.float().amax((1, 2)).tolist()
            if file is not None:
                file.flush()
        except OSError as error:
            self.delete()
            raise OutputError(
                f"Cannot write the feature cache {self._features}: {error}. "
                "Free some space; 'train --resume' goes on."
            ) from error
        write_atomic(self._targets, json.dumps({"key": self._key, "mean": means, "maximum": maxima}).encode())
        loaded = self.load()
        assert loaded is not None
        return loaded

    def delete(self) -> None:
        """Remove the files; harmless without any."""
        self._targets.unlink(missing_ok=True)
        self._features.unlink(missing_ok=True)
