"""VisA as its authors give it: one folder per category and a table that says what each image is for."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path, PurePosixPath

from cada_edge.errors import DatasetError
from cada_edge.runtime.dataset_samples import Sample, anomalies_in_training, name_some, require_masks

__all__ = ["read_visa"]

_CSV_COLUMNS = ("object", "split", "label", "image", "mask")


def read_visa(root: Path) -> list[Sample]:
    """List the samples of the official unsupervised split.

    Args:
        root: The data set's folder, which holds `split_csv`.

    Returns:
        The samples, in the order of the table; never none.

    Raises:
        DatasetError: The table is missing, damaged or names files that are not there, or there are only the
            2cls splits, whose training images hold anomalies.
    """
    table = root / "split_csv" / "1cls.csv"
    if not table.is_file():
        tables = sorted(path.name for path in table.parent.glob("2cls_*.csv"))
        if tables:
            raise anomalies_in_training(root, tables, f"the official unsupervised split, {table}")
        raise DatasetError(
            f"{table.parent} has no 1cls.csv; wanted the official unsupervised split. Copy it there."
        )
    samples: list[Sample] = []
    missing: list[str] = []
    for number, row in _read_table(table):
        split, label, relative = row["split"], row["label"], row["image"]
        if split not in ("train", "test") or label not in ("normal", "anomaly"):
            raise DatasetError(
                f"Line {number} of {table} has split '{split}' and label '{label}'; wanted train "
                "or test, and normal or anomaly. Correct the line, or copy the official file again."
            )
        anomalous = label == "anomaly"
        if anomalous and split == "train":
            raise anomalies_in_training(root, [f"line {number} of {table.name}"], f"the official {table}")
        mask = row["mask"] if anomalous else ""
        missing += [name for name in (relative, mask or relative) if not _is_file_below(root, name)]
        samples.append(
            Sample(
                image=root / relative,
                category=row["object"],
                split="train" if split == "train" else "test",
                anomalous=anomalous,
                defect="anomaly" if anomalous else "good",
                mask=root / mask if mask else None,
                relative=relative,
            )
        )
    if missing:
        missing = sorted(set(missing))
        raise DatasetError(
            f"{table} names files that are not there, {len(missing)} in all: {name_some(missing)}. "
            f"Wanted all of them below {root}. Copy the data set again."
        )
    if any(sample.mask for sample in samples):
        require_masks(samples, root, "a mask in the line of every anomalous image of 1cls.csv")
    return samples


def _is_file_below(root: Path, name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and (root / path).is_file()


def _read_table(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the lines of a csv file with their numbers; every line names another image."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            columns = reader.fieldnames or ()
            lines = [
                (reader.line_num, {name: row.get(name, "").strip() for name in _CSV_COLUMNS})
                for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{table} is no csv file ({error}). Wanted VisA's official split; copy it again."
        ) from error
    absent = [name for name in _CSV_COLUMNS if name not in columns]
    if absent:
        raise DatasetError(
            f"{table} has the columns {', '.join(columns) or 'none'}; wanted {', '.join(_CSV_COLUMNS)} "
            f"(missing: {', '.join(absent)}). Copy the official file again."
        )
    uses = Counter(row["image"] for _, row in lines)
    twice = sorted(name for name, count in uses.items() if count > 1)
    if twice or not lines:
        raise DatasetError(
            f"{table} names {len(uses)} images, {len(twice)} of them more than once{': ' * bool(twice)}"
            f"{name_some(twice)}. Wanted at least one, each in one line. Copy the official file again."
        )
    return lines
