"""The runtime's resize inside the graph, for files that take the camera's own resolution.

`cada_edge.runtime.preprocess.resize` is done with constant matrices, in whole grey levels after each of
OpenCV's calls as there. OpenCV rounds in ways of its own (modules/imgproc/src/resize.cpp), and they are
followed: a score's parity limit of 1e-4 has no room for a grey level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["FrameResize", "area_matrix"]

_COEFFICIENT = 2048.0
"""OpenCV's bilinear weights on uint8 are whole numbers of 1 / 2048."""


def area_matrix(inputs: int, outputs: int) -> Tensor:
    """Return how much of each input pixel lies in each output pixel, along one axis.

    Args:
        inputs: Pixels of the frame.
        outputs: Pixels wanted, at most as many.

    Returns:
        float64 (outputs, inputs), in input pixels; each row sums to inputs / outputs.
    """
    edges = torch.arange(outputs + 1, dtype=torch.float64) * inputs / outputs
    pixels = torch.arange(inputs, dtype=torch.float64)
    start = torch.maximum(edges[:-1, None], pixels)
    end = torch.minimum(edges[1:, None], pixels + 1)
    return (end - start).clamp_min(0)


def _linear_weights(inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the lower neighbour of each output pixel (it may be -1), and both neighbours' weights."""
    # OpenCV rounds the position to float32 before it takes it apart.
    position = ((torch.arange(outputs, dtype=torch.float64) + 0.5) * inputs / outputs - 0.5).float()
    lower = position.floor()
    share = position - lower
    return lower.long(), ((1 - share) * _COEFFICIENT).round(), (share * _COEFFICIENT).round()


def _placed(columns: Tensor, values: Tensor, inputs: int) -> Tensor:
    """Return a matrix (rows, inputs) with one value a row; columns beyond the border mean the border."""
    matrix = torch.zeros(len(columns), inputs)
    matrix[torch.arange(len(columns)), columns.clamp(0, inputs - 1)] = values
    return matrix


class _Shrink(nn.Module):
    """INTER_AREA: what lies in each output pixel, averaged, and rounded once."""

    rows: Tensor
    columns: Tensor

    def __init__(self, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> None:
        super().__init__()
        factors = [before / after for before, after in zip(from_hw, to_hw, strict=True)]
        # By whole factors OpenCV adds whole numbers and scales their sum; else it weighs each axis.
        self.is_whole = all(factor.is_integer() for factor in factors)
        self.is_half = factors == [2.0, 2.0]
        self.scale = 1 / (factors[0] * factors[1])
        for name, before, after, factor in zip(("rows", "columns"), from_hw, to_hw, factors, strict=True):
            matrix = area_matrix(before, after) / (1 if self.is_whole else factor)
            self.register_buffer(name, matrix.float(), persistent=False)

    def forward(self, planes: Tensor) -> Tensor:
        """Shrink (N, 3, h, w)."""
        # Columns first: frames are wider than high. (N, 3, h, w) @ (w, w') -> (h', h) @ (N, 3, h, w')
        sums = torch.matmul(self.rows, torch.matmul(planes, self.columns.t()))
        if not self.is_whole:
            return sums.round()
        if self.is_half:  # there OpenCV rounds halves up, elsewhere to the even number
            return ((sums + 2) * 0.25).floor()
        return (sums * self.scale).round()


class _Enlarge(nn.Module):
    """INTER_LINEAR on uint8, in OpenCV's fixed point: bits are cut off twice before the last rounding."""

    columns: Tensor
    upper: Tensor
    lower: Tensor

    def __init__(self, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> None:
        super().__init__()
        (height, width), (new_height, new_width) = from_hw, to_hw
        left, near, far = _linear_weights(width, new_width)
        # Beyond the border both neighbours are the same pixel, whose weights add up to 2048.
        columns = _placed(left, near, width) + _placed(left + 1, far, width)
        self.register_buffer("columns", columns, persistent=False)
        top, near, far = _linear_weights(height, new_height)
        # Rows are cut off one by one, so each neighbour has a matrix of its own; 16 bits less.
        self.register_buffer("upper", _placed(top, near, height) / 65536, persistent=False)
        self.register_buffer("lower", _placed(top + 1, far, height) / 65536, persistent=False)

    def forward(self, planes: Tensor) -> Tensor:
        """Enlarge (N, 3, h, w)."""
        # (N, 3, h, w) @ (w, w') -> (N, 3, h, w'), whole numbers up to 255 * 2048, less four bits
        across = (torch.matmul(planes, self.columns.t()) / 16).floor()
        # (h', h) @ (N, 3, h, w') -> (N, 3, h', w')
        parts = [torch.matmul(matrix, across).floor() for matrix in (self.upper, self.lower)]
        return ((parts[0] + parts[1] + 2) * 0.25).floor()


class FrameResize(nn.Module):
    """Bring frames of one resolution to the network's, as `cada_edge.runtime.preprocess.resize` does."""

    def __init__(self, frame_hw: tuple[int, int], size: int) -> None:
        """Prepare the constant matrices.

        Args:
            frame_hw: Height and width of the camera's frames, in pixels.
            size: Side of the network's input, in pixels.
        """
        super().__init__()
        shrunk_hw = (min(frame_hw[0], size), min(frame_hw[1], size))
        steps: list[nn.Module] = []
        if shrunk_hw != frame_hw:
            steps.append(_Shrink(frame_hw, shrunk_hw))
        if shrunk_hw != (size, size):
            steps.append(_Enlarge(shrunk_hw, (size, size)))
        self.steps = nn.Sequential(*steps)

    def forward(self, frames: Tensor) -> Tensor:
        """Resize.

        Args:
            frames: uint8 (N, H, W, 3), BGR.

        Returns:
            float32 (N, 3, S, S), BGR, whole numbers 0-255.
        """
        # The cast comes first: TensorRT takes no transpose of uint8 (NVIDIA/TensorRT#3985).
        resized: Tensor = self.steps(frames.float().permute(0, 3, 1, 2))  # (N, H, W, 3) -> (N, 3, H, W)
        return resized
