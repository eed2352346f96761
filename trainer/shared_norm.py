"""Batch normalisation over the whole batch where several processes hold a part of it each.

With statistics of its own part a process would compute another function than one process with the whole
batch does: 8 images normalised by themselves are not 16. So the sums go through all processes, forward and
backward, and a run's losses do not depend on how many there are, up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["SharedBatchNorm2d", "share_batch_norm"]


class _Sum(torch.autograd.Function):
    """Sum over the processes; each one's loss depends on all of them, so gradients sum up too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _summed(tensor: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(tensor)
    return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose batch is that of all processes, equal parts each; for the CPU, as torch has none."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise.

        Args:
            input: (N, C, H, W), this process's part.

        Returns:
            The same shape and dtype.
        """
        if not self.training:
            return super().forward(input)
        x = input.float()
        channels = (1, -1, 1, 1)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _summed(x.sum((0, 2, 3))) / count
        centred = x - mean.view(channels)
        variance = _summed(centred.square().sum((0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach() * (count / (count - 1)))
        y = centred * (variance + self.eps).rsqrt().view(channels)
        if self.affine:
            y = y * self.weight.view(channels) + self.bias.view(channels)
        return y.to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics; their variance is the unbiased one, as torch's."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def share_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Put batch normalisation over all processes in place of every BatchNorm2d that is in training mode.

    Parameters, buffers and their names stay. Frozen encoders stay as they are, since they are in eval mode;
    so do subclasses of BatchNorm2d, such as timm's, which do more than normalise.

    Args:
        module: In training mode.
        device: The module's: torch's SyncBatchNorm on CUDA.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d and child.training:
                setattr(parent, name, _shared(child, device))


def _shared(norm: nn.BatchNorm2d, device: torch.device) -> nn.Module:
    kind = nn.SyncBatchNorm if device.type == "cuda" else SharedBatchNorm2d
    shared = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    shared.weight, shared.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers():
        setattr(shared, name, buffer)
    return shared.train()
