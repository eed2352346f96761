"""Anomaly maps as files, one for each image, for a researcher's own analysis.

The map of `bottle/test/broken/000.png` lies in `DIR/bottle/test/broken/000.png.npy`: the image's path below
the data set's root, its extension included, so that `000.png` and `000.bmp` do not meet. It is float32 (H, W)
at the model's size, aligned and smoothed, the very numbers that the metrics are computed from; `numpy.load`
reads it.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import InputError, OutputError
from cada_edge.files import atomic_path
from cada_edge.runtime.dataset_samples import name_some

__all__ = ["MapFolder"]


class MapFolder:
    """A folder that maps are written to as they come.

    Args:
        folder: New or empty: maps of two models must not lie in one.

    Raises:
        OutputError: It holds something already, or is no folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        if self._folder.is_dir():
            found = sorted(entry.name for entry in self._folder.iterdir())
        else:
            found = ["no folder, but a file"] if self._folder.exists() else []
        if found:
            raise OutputError(
                f"For the anomaly maps came {self._folder}, which holds {name_some(found)}; wanted a new or "
                "an empty folder, so that maps of two models do not mix. Name another one, or empty it."
            )

    def write(self, relative: str, anomaly_map: NDArray[np.float32]) -> Path:
        """Write one map, whole or not at all.

        Args:
            relative: The image's path from the data set's root, with forward slashes.
            anomaly_map: float32 (H, W).

        Returns:
            The file.

        Raises:
            InputError: The path leads out of the folder.
            OutputError: The file cannot be written.
        """
        parts = PurePosixPath(relative)
        if parts.is_absolute() or ".." in parts.parts:
            raise InputError(
                f"The image path {relative!r} came for an anomaly map; wanted one below the data set's root. "
                "Move the image there, or leave out --save-maps."
            )
        path = self._folder / parts.with_name(f"{parts.name}.npy")
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.asarray(anomaly_map, np.float32))
        return path
