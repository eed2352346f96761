"""What the pretext asks of the encoder: linear heads on its feature maps, their loss and their accuracy."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_edge.trainer.encoders import IMAGENET_MEAN, IMAGENET_STD, STRIDES
from cada_edge.trainer.pretext import MARKS, Scene

__all__ = ["DenseHeads", "evaluate", "to_tensors"]

_CHANNELS = (64, 128, 256)


class DenseHeads(nn.Module):
    """Linear heads on the three feature maps, and the loss that they share."""

    def __init__(self, recipes: int) -> None:
        super().__init__()
        self.recipes = recipes
        self.recipe = nn.ModuleList(nn.Linear(channels, recipes) for channels in _CHANNELS)
        self.marks = nn.ModuleList(nn.Conv2d(channels, len(MARKS), 1) for channels in _CHANNELS)
        self.colour = nn.ModuleList(nn.Conv2d(channels, 3, 1) for channels in _CHANNELS)

    def loss(
        self,
        images: Tensor,
        features: list[Tensor],
        recipe: Tensor,
        marks: Tensor,
        *,
        picks: torch.Generator,
        labels: int,
    ) -> Tensor:
        """Sum cross-entropies of material and marks and the colour error over the maps.

        Args:
            images: float (B, 3, S, S), normalised.
            features: three maps (B, C, S / stride, S / stride).
            recipe: int64 (B, S, S).
            marks: float (B, 6, S, S), 0 or 1.
            picks: chooses the positions at which the material is asked for.
            labels: how many positions of a map that are.
        """
        total = images.new_zeros(())
        for level, (stride, feature) in enumerate(zip(STRIDES, features, strict=True)):
            flat, targets = flatten(feature), recipes_at(recipe, stride)
            chosen = torch.randperm(len(targets), generator=picks)[:labels]
            total = total + F.cross_entropy(self.recipe[level](flat[chosen]).float(), targets[chosen])
            present = marks_at(marks, stride)
            logits = self.marks[level](feature).float()
            total = total + len(MARKS) * F.binary_cross_entropy_with_logits(logits, present)
            colour = F.avg_pool2d(images, stride + 1, stride, stride // 2, count_include_pad=False)
            total = total + 0.2 * F.mse_loss(self.colour[level](feature).float(), colour)
        return total


def flatten(feature: Tensor) -> Tensor:
    """Turn a feature map into one row a position."""
    return feature.permute(0, 2, 3, 1).flatten(0, 2)  # (B, C, h, w) -> (B*h*w, C)


def recipes_at(recipe: Tensor, stride: int) -> Tensor:
    """Take the materials at the centres of a map's receptive fields: the multiples of its stride."""
    return recipe[:, ::stride, ::stride].flatten()  # (B, S, S) -> (B*h*w,)


def marks_at(marks: Tensor, stride: int) -> Tensor:
    """Say for each position of a map which marks lie anywhere in its cell."""
    return F.max_pool2d(marks, stride + 1, stride, stride // 2)


def to_tensors(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Turn a batch of scenes into normalised images, materials and marks as the heads take them."""
    pixels = torch.from_numpy(scene.image).permute(0, 3, 1, 2).float()  # (B, S, S, 3) -> (B, 3, S, S)
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    images = ((pixels / 255 - mean) / deviation).contiguous(memory_format=torch.channels_last)
    marks = torch.from_numpy(scene.marks).permute(0, 3, 1, 2).float()  # (B, S, S, 6) -> (B, 6, S, S)
    return images, torch.from_numpy(scene.recipe).long(), marks


@torch.no_grad()
def evaluate(
    encoder: nn.Module, heads: DenseHeads, batches: Iterable[Scene], *, labels: int
) -> dict[str, object]:
    """Measure the heads on batches of scenes that they have not seen, in %.

    Returns:
        For each stride, how often the material is the first or among the first five guesses, and for each
        mark the AUROC of finding the cells that hold it.
    """
    encoder.eval()
    found: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in STRIDES]
    for scene in batches:
        images, recipe, marks = to_tensors(scene)
        for level, (stride, feature) in enumerate(zip(STRIDES, encoder(images), strict=True)):
            targets = recipes_at(recipe, stride)
            chosen = slice(None, None, max(1, len(targets) // labels))
            guesses = heads.recipe[level](flatten(feature)[chosen]).topk(min(5, heads.recipes)).indices
            logits, present = heads.marks[level](feature), marks_at(marks, stride)
            found[level].append((guesses == targets[chosen, None], flatten(logits), flatten(present)))
    figures: dict[str, object] = {}
    for stride, parts in zip(STRIDES, found, strict=True):
        is_right, logits, present = (torch.cat(part) for part in zip(*parts, strict=True))
        aurocs = [_auroc(logits[:, mark].numpy(), present[:, mark].numpy() > 0) for mark in range(len(MARKS))]
        figures[f"stride_{stride}"] = {
            "material_top1": round(100 * is_right[:, 0].float().mean().item(), 1),
            "material_top5": round(100 * is_right.any(dim=1).float().mean().item(), 1),
            "marks_auroc": dict(zip(MARKS, aurocs, strict=True)),
        }
    return figures


def _auroc(scores: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> float | None:
    negatives, positives = np.sort(scores[~truth]), scores[truth]
    if not len(negatives) or not len(positives):
        return None
    below = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
    return round(float(100 * below.mean() / (2 * len(negatives))), 1)
