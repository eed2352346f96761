"""From distance maps to one aligned, smoothed anomaly map and one score: for evaluation and the export graph.

The order is upsample, mean over the maps, align, smooth, top-k mean (the CADA author's public evaluation
code). Upsampling, mean and smoothing are linear and separable, so each is a product with constant matrices
and no full-size intermediate exists: with S the smoothing along one axis and A_k the upsampling of map k,

    S ((mean_k A_k m_k A_k^T - u) / r) S^T  =  (mean_k (S A_k) m_k (S A_k)^T  -  u * (S 1)(S 1)^T) / r.

The last product is 1 except near the border when the smoothing pads with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cada_edge.errors import ConfigError
from cada_edge.trainer.config import SmoothingConfig

__all__ = [
    "TOP_K_LIMIT",
    "MapScorer",
    "smoothing_matrix",
    "top_count",
    "top_mean",
    "top_mean_by_bisection",
    "upsampling_matrix",
]

TOP_K_LIMIT = 3840
"""Largest k that TensorRT's TopK layer takes: the top 1 % of a side of 619 pixels."""

_BISECTIONS = 40
"""They leave 2^-40 of a map's range: 1e-6 with an outlier of 1e6, and in fp32 nothing at all without one."""


def upsampling_matrix(inputs: int, outputs: int, *, offset: float | None = None) -> Tensor:
    """Return bilinear interpolation along one axis as a matrix.

    Args:
        inputs: Positions of the map.
        outputs: Pixels of the image.
        offset: Pixel on which the first position is centred; position i lies at offset + i * outputs / inputs
            and pixels beyond the outer positions repeat them. None aligns the corners, as the authors do.

    Returns:
        float64 (outputs, inputs); each row sums to 1.
    """
    matrix = torch.zeros(outputs, inputs, dtype=torch.float64)
    if inputs == 1:
        return matrix + 1
    pixels = torch.arange(outputs, dtype=torch.float64)
    if offset is None:
        position = pixels * (inputs - 1) / max(outputs - 1, 1)
    else:
        position = ((pixels - offset) * inputs / outputs).clamp(0, inputs - 1)
    lower = position.floor().long().clamp(max=inputs - 2)
    share = position - lower
    rows = torch.arange(outputs)
    matrix[rows, lower] += 1 - share
    matrix[rows, lower + 1] += share
    return matrix


def smoothing_matrix(size: int, smoothing: SmoothingConfig) -> Tensor:
    """Return Gaussian smoothing along one axis as a banded matrix.

    Args:
        size: Pixels along the axis.
        smoothing: Kernel, sigma and padding.

    Returns:
        float64 (size, size).

    Raises:
        ConfigError: The kernel reaches further than the image.
    """
    radius = smoothing.kernel // 2
    if radius >= size:
        raise ConfigError(
            f"A smoothing kernel of {smoothing.kernel} pixels came for maps of {size}; "
            "wanted a kernel smaller than the image. Pass a smaller kernel."
        )
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / smoothing.sigma) ** 2)
    kernel /= kernel.sum()
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for offset, weight in zip(offsets.long().tolist(), kernel.tolist(), strict=True):
        for row in range(size):
            column = row + offset
            if smoothing.padding == "reflect":
                column = -column if column < 0 else column
                column = 2 * (size - 1) - column if column >= size else column
            if 0 <= column < size:
                matrix[row, column] += weight
    return matrix


def top_count(size: int, fraction: float) -> int:
    """Return how many pixels the score averages: int(fraction * size * size), at least one."""
    return max(1, int(fraction * size * size))


def top_mean(maps: Tensor, count: int) -> Tensor:
    """Average the highest pixels of each map; NaN where a pixel is NaN.

    Up to `TOP_K_LIMIT` pixels are sorted out by one TopK. Beyond it, where TensorRT has none, a bisection
    finds the threshold (`top_mean_by_bisection`): the same operators then run in evaluation and in the graph.

    Args:
        maps: float32 (N, H, W), of at most 2^24 pixels each.
        count: Pixels to average, 1 to H * W.

    Returns:
        float32 (N,).
    """
    if count > TOP_K_LIMIT:
        return top_mean_by_bisection(maps, count)
    return maps.flatten(1).topk(count, dim=1, sorted=False).values.mean(1)


def top_mean_by_bisection(maps: Tensor, count: int) -> Tensor:
    """Average the highest pixels without sorting, as `top_mean` does.

    The mean of the k highest of the values x is the least value over t of t + sum(max(x - t, 0)) / k, and the
    k-th highest is such a t (Rockafellar and Uryasev, Optimization of conditional value-at-risk, 2000). The
    formula hardly feels an error of t: its slope there is 1 - (pixels above t) / k, next to nothing but in a
    tie.
    """
    # Rows (N, 1, 1) that broadcast. Counts stay exact in fp32 up to 2^24 pixels.
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    largest = high
    for _ in range(_BISECTIONS):
        middle = (low + high) * 0.5
        are_enough = (maps > middle).float().sum((1, 2), keepdim=True) >= count
        low, high = torch.where(are_enough, middle, low), torch.where(are_enough, high, middle)
    # Fewer than `count` pixels are above `high`: the largest that is not is the k-th highest, or one so near
    # to it that the bisection could not part them. A pixel's own value makes ties exact.
    threshold = torch.where(maps > high, low, maps).amax((1, 2), keepdim=True)
    excess = _twice_positive(maps - threshold)
    # What exceeds 2^-10 of the range is summed apart: in one sum, engines that add one by one would lose the
    # ordinary pixels beside an outlier.
    far = _twice_positive(maps - threshold - (largest - threshold) * 2**-10)
    total = far.sum((1, 2)) + (excess - far).sum((1, 2))
    return threshold[:, 0, 0] + total * (0.5 / count)


def _twice_positive(values: Tensor) -> Tensor:
    """Return 2 * max(values, 0) as a + |a|: engines differ in what the maximum of NaN and 0 is."""
    return values + values.abs()


class MapScorer(nn.Module):
    """Turn distance maps and the statistics (u, range) into aligned anomaly maps and scores."""

    edge: Tensor

    def __init__(
        self,
        sides: Sequence[int],
        size: int,
        *,
        smoothing: SmoothingConfig,
        top_fraction: float,
        offsets: Sequence[float] | None = None,
    ) -> None:
        """Prepare the constant matrices.

        Args:
            sides: Side of each distance map, in positions.
            size: Side of the image, in pixels.
            smoothing: Of the aligned map.
            top_fraction: Share of the highest pixels whose mean is the score; 0 is the maximum.
            offsets: Pixel on which each map's first position is centred; None aligns the corners.
        """
        super().__init__()
        self.size = size
        self.count = top_count(size, top_fraction)
        self.sides = tuple(sides)
        smooth = smoothing_matrix(size, smoothing)
        for index, side in enumerate(self.sides):
            upsampling = upsampling_matrix(side, size, offset=None if offsets is None else offsets[index])
            self.register_buffer(f"upsample_{index}", upsampling.float(), persistent=False)
            self.register_buffer(f"smooth_{index}", (smooth @ upsampling).float(), persistent=False)
        edge = smooth.sum(1)
        self.register_buffer("edge", torch.outer(edge, edge).float(), persistent=False)

    def _expand(self, maps: Sequence[Tensor], kind: str) -> Tensor:
        total: Tensor | None = None
        for index, distance in enumerate(maps):
            matrix = getattr(self, f"{kind}_{index}")
            # (S, h) @ (N, h, h) @ (h, S) -> (N, S, S)
            expanded = torch.matmul(torch.matmul(matrix, distance.float()), matrix.t())
            total = expanded if total is None else total + expanded
        assert total is not None
        return total / len(maps)

    def raw_map(self, maps: Sequence[Tensor]) -> Tensor:
        """Upsample and average: the unsmoothed map, whose mean and maximum are the regressor's targets.

        Args:
            maps: Distance maps (N, h_k, h_k).

        Returns:
            float32 (N, S, S).
        """
        return self._expand(maps, "upsample")

    def forward(self, maps: Sequence[Tensor], mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """Align, smooth and score (Eq. 5, then the top-k mean).

        Args:
            maps: Distance maps (N, h_k, h_k).
            mean: u^, float32 (N,).
            spread: g^ - u^, guarded, float32 (N,), above 0.

        Returns:
            Scores float32 (N,) and aligned, smoothed anomaly maps float32 (N, S, S).
        """
        smoothed = self._expand(maps, "smooth")
        aligned = (smoothed - mean[:, None, None] * self.edge) / spread[:, None, None]
        return top_mean(aligned, self.count), aligned
