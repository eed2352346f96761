"""The fused graph: uint8 BGR frames in; score, anomaly_map and stats out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cada_edge.errors import ConfigError
from cada_edge.export.frame_resize import FrameResize
from cada_edge.export.precision import halve
from cada_edge.trainer.model import TrainedModel

__all__ = ["INPUT_NAME", "FusedGraph"]

INPUT_NAME = "frames"
"""Name of the graph's input."""

_PRECISIONS = ("fp32", "fp16")


class FusedGraph(nn.Module):
    """A trained model as it is exported; with fp16 the networks compute in half, all around them in fp32."""

    def __init__(
        self,
        model: TrainedModel,
        *,
        precision: str = "fp32",
        frame_hw: tuple[int, int] | None = None,
    ) -> None:
        """Copy the model.

        Args:
            model: In eval mode; not changed.
            precision: 'fp32' or 'fp16'; an INT8 file is made from an fp32 one.
            frame_hw: Height and width of the camera's frames, which the graph then resizes; None for frames
                of the network's own size.

        Raises:
            ConfigError: Another precision.
        """
        super().__init__()
        if precision not in _PRECISIONS:
            raise ConfigError(f"precision {precision!r} came; wanted one of {', '.join(_PRECISIONS)}.")
        self.precision = precision
        self.model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        size = self.model.scorer.size
        self.frame_hw = (size, size) if frame_hw is None else frame_hw
        self.resize = FrameResize(self.frame_hw, size)
        self.image_type = halve(self.model) if precision == "fp16" else torch.float32

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score uint8 (N, H, W, 3) BGR: float32 score (N,), anomaly_map (N, S, S) and stats (N, 2)."""
        images = self.model.normalize.of_planes(self.resize(frames)).to(self.image_type)
        maps, bottleneck = self.model.base(images)
        mean, spread = self.model.statistics(bottleneck)
        score, aligned = self.model.scorer(maps, mean, spread)
        return score, aligned, torch.stack([mean, mean + spread], 1)
