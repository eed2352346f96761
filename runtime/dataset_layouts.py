"""The layouts in which data sets lie on disk: how each is told from the others and read.

A person's own parts are the layout `folder`: `normal/` to train on and, where there are any, `anomalous/`
with `masks/`, and `test_normal/`, to evaluate on; images at any depth in each. All of `normal/` is trained
on, so only `test_normal/` gives an I-AUROC.

No image is opened here: what is wrong inside the files is found by `cada_edge.runtime.datasets.check_images`.
"""

from __future__ import annotations

from pathlib import Path

from cada_edge.errors import DatasetError
from cada_edge.runtime.dataset_samples import (
    Sample,
    anomalies_in_training,
    find_mask,
    index_by_stem,
    list_folders,
    list_images,
    list_images_below,
    name_some,
    require_masks,
)
from cada_edge.runtime.dataset_visa import read_visa

__all__ = ["LAYOUTS", "detect_layout", "read_layout"]

_WANTED = {
    "mvtec": "<category>/train/good, <category>/test/<defect>, <category>/ground_truth/<defect>",
    "visa": "split_csv/1cls.csv beside the folders of the categories",
    "visa-mvtec": "[1cls/]<category>/train/good, <category>/test/{good,bad}, <category>/ground_truth/bad",
    "btad": "<category>/train/ok, <category>/test/{ok,ko}, <category>/ground_truth/ko",
    "folder": "normal/ and, where there are any, anomalous/, masks/ and test_normal/ (good ones to test on)",
}

LAYOUTS = tuple(_WANTED)
"""Names of the layouts."""


def detect_layout(root: Path) -> str:
    """Tell the layout of a data set from its folders.

    Args:
        root: The data set's folder.

    Returns:
        One of `LAYOUTS`.

    Raises:
        DatasetError: None fits; the message says what is there and what each layout looks like.
    """
    layout = _detect(root)
    if layout is not None:
        return layout
    inner = next((folder for folder in list_folders(root) if _detect(folder) is not None), None)
    raise DatasetError(
        f"{root} holds {_content(root)}, which fits no data set layout. "
        f"Wanted one of: {'; '.join(f'{name} ({wanted})' for name, wanted in _WANTED.items())}. "
        + (
            f"Did you mean {inner}?"
            if inner
            else f"Put images of good parts of your own into {root / 'normal'}."
        )
    )


def read_layout(root: Path, layout: str) -> list[Sample]:
    """List the samples of a data set of a known layout.

    Args:
        root: The data set's folder.
        layout: One of `LAYOUTS`.

    Returns:
        The samples, in no particular order; never none.

    Raises:
        DatasetError: The content does not fit the layout.
    """
    if layout == "visa":
        if not (root / "split_csv").is_dir():
            raise _misfit(root, layout)
        return read_visa(root)
    if layout == "folder":
        return _read_folder(root)
    base = root
    if layout == "visa-mvtec" and (root / "1cls").is_dir():
        base = root / "1cls"
    elif splits := sorted(folder.name for folder in root.glob("2cls_*")):
        raise anomalies_in_training(root, splits, "the official split, in a folder 1cls")
    return _read_categories(root, base, layout)


def _detect(root: Path) -> str | None:
    if any((root / "split_csv").glob("*.csv")):
        return "visa"
    if _any_holds(root / "1cls", "train/good") or any(
        _any_holds(split, "train") for split in root.glob("2cls_*")
    ):
        return "visa-mvtec"
    if (root / "train" / "good").is_dir() or _any_holds(root, "train/good"):
        # VisA's conversion names its one kind of defect `bad`; both are read alike.
        tests = [folder / "test" for folder in (root, *list_folders(root))]
        defects = {folder.name for test in tests for folder in list_folders(test)}
        return "visa-mvtec" if "bad" in defects and defects <= {"good", "bad"} else "mvtec"
    if (root / "train" / "ok").is_dir() or _any_holds(root, "train/ok"):
        return "btad"
    return "folder" if (root / "normal").is_dir() else None


def _any_holds(base: Path, inner: str) -> bool:
    return any((folder / inner).is_dir() for folder in list_folders(base))


def _content(root: Path) -> str:
    names = sorted(
        path.name + "/" * path.is_dir() for path in root.iterdir() if not path.name.startswith(".")
    )
    return name_some(names) if names else "nothing"


def _misfit(root: Path, layout: str) -> DatasetError:
    return DatasetError(
        f"{root} holds {_content(root)}; wanted the layout {layout}: {_WANTED[layout]}. "
        "Correct the folder, or leave the layout to be detected ('auto')."
    )


def _read_categories(root: Path, base: Path, layout: str) -> list[Sample]:
    """Read MVTec AD and its followers; a base that is itself a category counts as the only one."""
    normal = "ok" if layout == "btad" else "good"
    single = (base / "train" / normal).is_dir()
    categories = [base] if single else [path for path in list_folders(base) if _has_split(path)]
    if not categories:
        raise _misfit(root, layout)
    samples: list[Sample] = []
    empty: list[str] = []
    for category in categories:
        name = base.resolve().name if single else category.name
        train = category / "train" / normal
        if not train.is_dir():
            raise DatasetError(
                f"The category {name} of {root} has no folder train/{normal}; wanted them there. "
                "Add its normal images or remove the category."
            )
        others = [path for path in list_folders(train.parent) if path != train and list_images(path)]
        if others:
            found = [path.relative_to(root).as_posix() for path in others]
            raise anomalies_in_training(root, found, f"train/{normal} alone")
        for folder in (train, *list_folders(category / "test")):
            images = list_images(folder)
            index_by_stem(images, root)
            if not images:
                empty.append(folder.relative_to(root).as_posix())
            anomalous = folder.name != normal
            truth = category / "ground_truth" / folder.name
            masks = index_by_stem(list_images(truth), root) if anomalous and truth.is_dir() else {}
            samples += [
                Sample(
                    image=image,
                    category=name,
                    split="train" if folder == train else "test",
                    anomalous=anomalous,
                    defect=folder.name if anomalous else "good",
                    mask=find_mask(truth / image.stem, masks, root),
                    relative=image.relative_to(root).as_posix(),
                )
                for image in images
            ]
    if empty:
        raise DatasetError(
            f"{root} has folders without images, {len(empty)} in all: {name_some(empty)}. "
            "Wanted at least one image in each: a copy may have been cut short. "
            "Copy them again or remove the folders."
        )
    if any((category / "ground_truth").is_dir() for category in categories):
        require_masks(samples, root, "ground_truth/<defect>/<stem>_mask.png or <stem>.png beside test/")
    return samples


def _has_split(folder: Path) -> bool:
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def _read_folder(root: Path) -> list[Sample]:
    """Read a person's own parts: what lies in `normal/` is for training, all else for testing."""
    normal, unseen, anomalous, truth = (
        root / name for name in ("normal", "test_normal", "anomalous", "masks")
    )
    if not normal.is_dir():
        raise _misfit(root, "folder")
    samples: list[Sample] = []
    for image in index_by_stem(list_images_below(normal), root).values():
        folders = image.parent.relative_to(normal).parts
        category = folders[0] if folders else "part"
        samples.append(
            Sample(image, category, "train", False, "good", None, image.relative_to(root).as_posix())
        )
    if not samples:
        raise DatasetError(
            f"{normal} holds no image; wanted images of good parts, at any depth. Put some there."
        )
    categories = {sample.category for sample in samples}
    for image in index_by_stem(list_images_below(unseen), root).values() if unseen.is_dir() else ():
        folders = image.parent.relative_to(unseen).parts
        category = folders[0] if folders and folders[0] in categories else "part"
        samples.append(
            Sample(image, category, "test", False, "good", None, image.relative_to(root).as_posix())
        )
    masks = index_by_stem(list_images_below(truth), root) if truth.is_dir() else {}
    paired: set[Path] = set()
    for image in index_by_stem(list_images_below(anomalous), root).values() if anomalous.is_dir() else ():
        inner = image.relative_to(anomalous)
        folders = inner.parent.parts
        # Below anomalous/ people sort by kind of part, by defect or both: normal/ knows the kinds.
        known = bool(folders) and folders[0] in categories
        mask = find_mask(truth / inner.with_suffix(""), masks, root)
        if mask is not None:
            paired.add(mask)
        samples.append(
            Sample(
                image=image,
                category=folders[0] if known else "part",
                split="test",
                anomalous=True,
                defect="/".join(folders[1:] if known else folders) or "anomalous",
                mask=mask,
                relative=image.relative_to(root).as_posix(),
            )
        )
    stray = sorted(mask.relative_to(root).as_posix() for mask in masks.values() if mask not in paired)
    if stray:
        raise DatasetError(
            f"{root} has masks without image, {len(stray)} in all: {name_some(stray)}. "
            "Wanted each at its image's place: anomalous/a/1.jpg has masks/a/1.png or masks/a/1_mask.png. "
            "Move, rename or remove them."
        )
    return samples
