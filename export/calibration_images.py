"""The good parts from which the ranges of an INT8 model are taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ConfigError, DatasetError
from cada_edge.runtime.dataset_layouts import detect_layout
from cada_edge.runtime.dataset_samples import Sample, list_images_below
from cada_edge.runtime.datasets import check_images, fingerprint, index_dataset, load_images

__all__ = ["FEWEST_IMAGES", "CalibrationImages", "calibration_images"]

FEWEST_IMAGES = 16
"""Ranges of fewer images depend on which they are."""

_DEFECTIVE = {"anomalous", "bad", "ground_truth", "ko", "masks"}
"""Folders of the layouts that hold no good parts."""


@dataclass(frozen=True)
class CalibrationImages:
    """Which good parts are used; their number is its length."""

    source: Path
    """The folder that was given."""
    found: int
    """Good parts in it."""
    paths: tuple[Path, ...]
    """Those that are used."""
    data_fingerprint: str
    """SHA-256 over their names and bytes."""

    def __len__(self) -> int:
        return len(self.paths)

    def frames(self, size_hw: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
        """Read one image after the other as the runtime does, uint8 (1, H, W, 3), BGR.

        Args:
            size_hw: Height and width of the graph's frames, in pixels.
        """
        for path in self.paths:
            yield load_images([path], size_hw)


def calibration_images(source: str | Path, *, most: int, layout: str = "auto") -> CalibrationImages:
    """Choose good parts from a folder, evenly over the sorted paths and so over the kinds of part.

    Args:
        source: A data set in any of the layouts, of which the training images are taken, or a folder of
            images of good parts, at any depth.
        most: Images to use; all where there are fewer.
        layout: One of the layouts' names, or 'auto'.

    Raises:
        ConfigError: `most` is below what ranges can be taken from.
        DatasetError: There are too few images, one cannot be read, or the folder holds defective parts.
    """
    if most < FEWEST_IMAGES:
        raise ConfigError(
            f"{most} calibration images came; wanted at least {FEWEST_IMAGES}. "
            "Leave --calibration-images out, or pass more."
        )
    source = Path(source)
    samples = _good_parts(source, layout)
    if len(samples) < FEWEST_IMAGES:
        raise DatasetError(
            f"{source} has {len(samples)} images of good parts to calibrate with; wanted at least "
            f"{FEWEST_IMAGES}, better {most}, of every kind. Pass a folder of good parts, or the data set "
            "that the model was trained on, with --calibration."
        )
    rows = np.unique(np.linspace(0, len(samples) - 1, min(most, len(samples))).round().astype(int))
    chosen = [samples[row] for row in rows]
    check_images(chosen)
    return CalibrationImages(
        source, len(samples), tuple(sample.image for sample in chosen), fingerprint(chosen)
    )


def _good_parts(source: Path, layout: str) -> list[Sample]:
    """List the good parts of a folder, sorted by their relative paths."""
    if layout != "auto" or not source.is_dir() or _has_layout(source):
        return list(index_dataset(source, layout=layout).train)
    try:
        images = sorted(list_images_below(source))
    except OSError as error:
        raise DatasetError(
            f"Cannot read {error.filename} of the calibration images {source}: {error.strerror or error}. "
            "Wanted folders that this user may list. Check the path and its permissions."
        ) from error
    relatives = [path.relative_to(source) for path in images]
    if any(_DEFECTIVE & set(relative.parts[:-1]) for relative in relatives):
        # A folder of data sets, say: this raises the error that names what is inside.
        return list(index_dataset(source).train)
    return [
        Sample(path, "part", "train", False, "good", None, relative.as_posix())
        for path, relative in zip(images, relatives, strict=True)
    ]


def _has_layout(source: Path) -> bool:
    try:
        detect_layout(source)
    except DatasetError:
        return False
    return True
