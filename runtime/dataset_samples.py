"""One image of a data set, and how its files are found and paired: by stem, never by sorted position."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cada_edge.errors import DatasetError
from cada_edge.runtime.images import is_image

__all__ = [
    "Sample",
    "anomalies_in_training",
    "find_mask",
    "index_by_stem",
    "list_folders",
    "list_images",
    "list_images_below",
    "name_some",
    "require_masks",
]

_NAMED_AT_MOST = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a data set and what the data set says about it."""

    image: Path
    """The image file."""
    category: str
    """Kind of part, for reports only: nothing that is trained sees it. 'part' where none is given."""
    split: Literal["train", "test"]
    """What the data set wants the image for; every training image is normal."""
    anomalous: bool
    """Whether the part is defective."""
    defect: str
    """Name of the defect; 'good' for normal images."""
    mask: Path | None
    """Ground-truth mask; None for normal images and where the data set has none."""
    relative: str
    """Path from the data set's root with forward slashes: the same on every machine."""


def name_some(names: Iterable[str]) -> str:
    """Join names for a message: at most five, then how many are left out."""
    names = list(names)
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def list_folders(base: Path) -> list[Path]:
    """List a folder's visible folders, sorted; none where there is no such folder."""
    if not base.is_dir():
        return []
    return sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))


def list_images(folder: Path) -> list[Path]:
    """List a folder's visible image files, sorted; other files (Thumbs.db, notes) are passed over."""
    return sorted(
        path
        for path in folder.iterdir()
        if is_image(path) and not path.name.startswith(".") and path.is_file()
    )


def list_images_below(folder: Path) -> list[Path]:
    """List the visible image files at any depth, through links to folders as well."""
    found: list[Path] = []
    entered: set[str] = set()

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, _ in os.walk(folder, followlinks=True, onerror=refuse):
        # A link to a folder above must not be followed for ever.
        real = os.path.realpath(parent)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += list_images(Path(parent))
    return found


def index_by_stem(paths: Sequence[Path], root: Path) -> dict[Path, Path]:
    """Index files by their path without the extension.

    Args:
        paths: Files of any folders below the root.
        root: The data set's folder, for the message.

    Raises:
        DatasetError: Two files of one folder differ in nothing but the extension.
    """
    indexed: dict[Path, Path] = {}
    twice: list[str] = []
    for path in paths:
        stem = path.with_suffix("")
        if stem in indexed:
            twice.append(f"{indexed[stem].relative_to(root).as_posix()} and {path.name}")
        indexed[stem] = path
    if twice:
        raise DatasetError(
            f"{root} has {len(twice)} names that come twice: {name_some(twice)}. "
            "Wanted one file per stem: masks are paired by it, and an image kept in two formats would be "
            "trained on and tested on. Remove or rename one of each."
        )
    return indexed


def anomalies_in_training(root: Path, found: Iterable[str], instead: str) -> DatasetError:
    """Make the error for anomalous images among those to train on.

    Args:
        root: The data set's folder.
        found: What holds them.
        instead: What to use.
    """
    return DatasetError(
        f"{root} has anomalous images to train on, as VisA's 2cls splits have ({name_some(found)}); "
        f"wanted normal ones only. Use {instead}."
    )


def find_mask(stem: Path, masks: dict[Path, Path], root: Path) -> Path | None:
    """Find the mask of an image, named like it with or without `_mask`.

    Args:
        stem: Where the mask would lie, without extension.
        masks: Masks by their path without extension.
        root: The data set's folder, for the message.

    Raises:
        DatasetError: There is one of either name.
    """
    found = [masks[key] for key in (stem.with_name(f"{stem.name}_mask"), stem) if key in masks]
    if len(found) > 1:
        names = name_some(path.relative_to(root).as_posix() for path in found)
        raise DatasetError(
            f"{root} has two masks for one image: {names}. "
            "Wanted one, named like the image with or without _mask. Remove the other."
        )
    return found[0] if found else None


def require_masks(samples: Sequence[Sample], root: Path, wanted: str) -> None:
    """Refuse anomalous images without mask, in a data set that has masks.

    Args:
        samples: All samples of the data set.
        root: The data set's folder, for the message.
        wanted: Where its layout keeps the masks.

    Raises:
        DatasetError: At least one mask is missing; the message names the images.
    """
    missing = sorted(sample.relative for sample in samples if sample.anomalous and sample.mask is None)
    if missing:
        raise DatasetError(
            f"{root} has anomalous images without mask, {len(missing)} in all: {name_some(missing)}. "
            f"Wanted {wanted}. Add the masks or remove the images."
        )
