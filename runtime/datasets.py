"""Data sets: the index of what a folder holds, and the checked reading of its images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ConfigError, DatasetError, ImageReadError
from cada_edge.files import sha256_file
from cada_edge.runtime.dataset_layouts import LAYOUTS, detect_layout, read_layout
from cada_edge.runtime.dataset_samples import Sample, name_some
from cada_edge.runtime.images import read_image, read_mask
from cada_edge.runtime.preprocess import RESIZE_NAME, preprocess

__all__ = [
    "LAYOUTS",
    "DatasetIndex",
    "Sample",
    "check_images",
    "fingerprint",
    "index_dataset",
    "load_images",
    "require_training_images",
]

_MOST_THREADS = 8


@dataclass(frozen=True)
class DatasetIndex:
    """What a data set's folder holds; its length is the number of images."""

    root: Path
    """The data set's folder."""
    layout: str
    """How it lies on disk: one of `LAYOUTS`."""
    samples: tuple[Sample, ...] = field(repr=False)
    """Every image, sorted by its relative path."""

    @property
    def train(self) -> tuple[Sample, ...]:
        """The images to train on, all of them normal."""
        return tuple(sample for sample in self.samples if sample.split == "train")

    @property
    def test(self) -> tuple[Sample, ...]:
        """The images to evaluate on; a plain folder's normal ones are those of `test_normal/`."""
        return tuple(sample for sample in self.samples if sample.split == "test")

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the kinds of part, sorted."""
        return tuple(sorted({sample.category for sample in self.samples}))

    def __len__(self) -> int:
        return len(self.samples)


def index_dataset(root: str | Path, *, layout: str = "auto") -> DatasetIndex:
    """List the images of a data set with their labels and masks; no image is opened.

    Args:
        root: The data set's folder. For the layouts with categories it may be one category's folder.
        layout: One of `LAYOUTS`, or 'auto' to tell it from the folders.

    Returns:
        The index; it has at least one image.

    Raises:
        ConfigError: The layout's name is unknown.
        DatasetError: The folder cannot be read, fits no layout, or what it holds is incomplete.
    """
    if not isinstance(root, (str, os.PathLike)):
        raise DatasetError(
            f"The data set {root!r} is of type {type(root).__name__}; wanted the path of a folder. "
            "Give the folder that holds the images."
        )
    root = Path(root)
    if layout not in (*LAYOUTS, "auto"):
        raise ConfigError(
            f"The layout '{layout}' is unknown; wanted auto, {', '.join(LAYOUTS)}. Choose one of them."
        )
    try:
        if not root.is_dir():
            raise DatasetError(
                f"The data set {root} is {'a file' if root.is_file() else 'not there'}; wanted a folder. "
                "Give the folder that holds the images, and unpack archives first."
            )
        layout = detect_layout(root) if layout == "auto" else layout
        samples = read_layout(root, layout)
    except OSError as error:
        raise DatasetError(
            f"Cannot read {error.filename} of the data set {root}: {error.strerror or error}. "
            "Wanted folders that this user may list. Check the path and its permissions."
        ) from error
    return DatasetIndex(root, layout, tuple(sorted(samples, key=lambda sample: sample.relative)))


def require_training_images(index: DatasetIndex, minimum: int = 2) -> None:
    """Refuse a data set that has too few images to train on.

    Args:
        index: The data set.
        minimum: The fewest training images that will do.

    Raises:
        DatasetError: There are fewer.
    """
    found = len(index.train)
    if found < minimum:
        raise DatasetError(
            f"{index.root} (layout {index.layout}) has {found} normal training images; wanted "
            f"at least {minimum}, and some hundreds per kind of part for a model of use. "
            "Add images of good parts."
        )


def check_images(samples: Sequence[Sample], *, progress: Callable[[int, int], None] | None = None) -> None:
    """Decode every image and mask once, so that a damaged one is found before the work begins.

    Args:
        samples: What to check.
        progress: Called after each sample with the number done and the number of all.

    Raises:
        DatasetError: Some cannot be read; the message counts them and names the first five.
    """
    damaged: list[str] = []
    with _pool() as pool:
        for done, found in enumerate(pool.map(_find_damage, samples), start=1):
            damaged += found
            if progress is not None:
                progress(done, len(samples))
    if damaged:
        raise DatasetError(
            f"Files that cannot be read, {len(damaged)} in all: {name_some(damaged)}. Wanted whole images "
            "(each is damaged, truncated, empty or no image). Copy them again or remove them."
        )


def _find_damage(sample: Sample) -> list[str]:
    damaged = []
    try:
        read_image(sample.image)
    except ImageReadError:
        damaged.append(str(sample.image))
    if sample.mask is not None:
        try:
            read_mask(sample.mask)
        except ImageReadError:
            damaged.append(str(sample.mask))
    return damaged


def fingerprint(samples: Sequence[Sample]) -> str:
    """Identify a set of images by their relative paths and contents, whatever their order or root.

    Args:
        samples: The images; masks do not count.

    Returns:
        SHA-256 as 64 hexadecimal digits.

    Raises:
        DatasetError: A file cannot be read.
    """
    ordered = sorted(samples, key=lambda sample: sample.relative)
    digest = hashlib.sha256()
    try:
        with _pool() as pool:
            for sample, content in zip(ordered, pool.map(_sha256_image, ordered), strict=True):
                # No file name holds a zero byte, so no two lists give the same text. A name that is not
                # UTF-8 comes with surrogates and goes back to its bytes.
                digest.update(f"{sample.relative}\0{content}\0".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise DatasetError(
            f"Cannot read the image {error.filename}: {error.strerror or error}. "
            "Wanted the files that were indexed. Check that the data set was not moved meanwhile."
        ) from error
    return digest.hexdigest()


def _sha256_image(sample: Sample) -> str:
    return sha256_file(sample.image)


def load_images(
    paths: Sequence[Path], size_hw: tuple[int, int], *, resize_name: str = RESIZE_NAME
) -> NDArray[np.uint8]:
    """Decode and preprocess images, each of its own size, into one array.

    Args:
        paths: Image files.
        size_hw: Height and width wanted, in pixels.
        resize_name: One of `cada_edge.runtime.preprocess.RESIZES`.

    Returns:
        uint8 (N, height, width, 3), BGR, in the order of the paths; N is 0 where there is none.

    Raises:
        ImageReadError: A file cannot be read; the message names it.
    """
    images = np.empty((len(paths), *size_hw, 3), np.uint8)

    def load(position: int) -> None:
        images[position] = preprocess(read_image(paths[position]), size_hw, resize_name=resize_name)

    with _pool() as pool:
        for _ in pool.map(load, range(len(paths))):
            pass
    return images


def _pool() -> ThreadPoolExecutor:
    """Make a pool of threads: OpenCV and hashlib let go of the interpreter while they work."""
    return ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1))
