"""What the base's loss is computed from: the frozen encoder's features of each batch."""

from __future__ import annotations

import contextlib
import logging
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cada_edge.trainer.config import TrainConfig
from cada_edge.trainer.data import MEMORY_LIMIT_BYTES
from cada_edge.trainer.model import TrainedModel

__all__ = ["FrozenFeatures", "autocast", "is_mixed"]

_log = logging.getLogger(__name__)

_PASS_BATCH = 32


def is_mixed(amp: str, device: torch.device) -> bool:
    """Tell whether to compute in bf16: asked for, or on a CUDA device that has it (since Ampere).

    Args:
        amp: 'auto', 'on' or 'off'.
        device: Where to compute.
    """
    if amp == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return amp == "on"


def autocast(device: torch.device, *, mixed: bool) -> AbstractContextManager[object]:
    """Compute the block in bf16 where that is exact enough, or change nothing."""
    return torch.autocast(device.type, torch.bfloat16) if mixed else contextlib.nullcontext()


class FrozenFeatures:
    """The features of image numbers: from memory where that pays, else computed from the frames.

    In two halves, so that the first may run ahead in a thread: `gather` on the CPU, `finish` on the device.
    """

    def __init__(
        self,
        model: TrainedModel,
        frames: NDArray[np.uint8],
        config: TrainConfig,
        device: torch.device,
        *,
        sharers: int = 1,
    ) -> None:
        """Prepare; fills the memory with one pass over all images where features are kept.

        Args:
            model: On the device.
            frames: uint8 (N, S, S, 3), BGR.
            config: Says whether to keep the features, and the precision.
            device: The model's.
            sharers: Processes of this machine, which each keep their own.
        """
        self._model = model
        self._frames = frames
        self._device = device
        self._mixed = is_mixed(config.amp, device)
        self._kept: list[Tensor] | None = None
        one = self._encode(torch.from_numpy(frames[:1]))
        total = sum(feature.numel() * feature.element_size() for feature in one) * len(frames)
        if config.cache_features == "on" or (
            config.cache_features == "auto" and device.type == "cpu" and total * sharers <= MEMORY_LIMIT_BYTES
        ):
            self._kept = self._encode_all(one)
            _log.info("encoder features of %d images kept in memory: %.0f MiB", len(frames), total / 2**20)

    def gather(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Copy what is needed of some images together, on the CPU: features, or frames to compute them of.

        Args:
            rows: Image numbers, int64 (B,).
        """
        if self._kept is None:
            return (torch.from_numpy(self._frames[rows.numpy()]),)
        return tuple(kept[rows] for kept in self._kept)

    def finish(self, gathered: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Turn what `gather` gave into features on the device, as `BaseMethod.encode` returns them."""
        if self._kept is None:
            return self._encode(gathered[0])
        return tuple(feature.to(self._device, non_blocking=True) for feature in gathered)

    def _encode(self, frames: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), autocast(self._device, mixed=self._mixed):
            batch = frames.to(self._device, non_blocking=True)
            return self._model.base.encode(self._model.normalize(batch))

    def _encode_all(self, one: tuple[Tensor, ...]) -> list[Tensor]:
        kept = [torch.empty(len(self._frames), *part.shape[1:], dtype=part.dtype) for part in one]
        for start in range(0, len(self._frames), _PASS_BATCH):
            stop = min(start + _PASS_BATCH, len(self._frames))
            features = self._encode(torch.from_numpy(self._frames[start:stop]))
            for store, feature in zip(kept, features, strict=True):
                store[start:stop] = feature.cpu()
        return kept
