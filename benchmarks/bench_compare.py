"""Records beside each other: whether they may be compared, what differs, and by how much."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cada_edge.benchmarks.bench_run import SCHEMA
from cada_edge.errors import ConfigError

__all__ = [
    "Pair",
    "differences",
    "pair_subjects",
    "read_baseline",
    "read_record",
    "require_like",
    "unlike",
    "unlike_config",
]

Pair = tuple[Mapping[str, Any], Mapping[str, Any]]
"""A model's part of two records, the newer one second."""

_OF_CONFIG = (
    ("mode", ("config", "mode")),
    ("camera rate", ("config", "fps")),
    ("streams", ("config", "streams")),
    ("batch", ("config", "batch")),
    ("drop policy", ("config", "drop")),
    ("threads", ("config", "threads")),
)
_OF_RECORD = (
    *_OF_CONFIG,
    ("frame sizes", ("frames", "sizes")),
    ("processor", ("machine", "cpu")),
    ("processors used", ("machine", "cores")),
    ("processors", ("machine", "cores_installed")),
    ("board", ("machine", "board")),
    ("GPUs", ("machine", "gpus")),
    ("power mode", ("machine", "jetson", "power mode")),
)
"""What must be equal for two records to measure the same thing."""

_OF_MODEL = (
    ("engine", ("model", "backend")),
    ("model's input", ("model", "input_hw")),
)

_NOTED_RECORD = (
    ("cada-edge", ("version",)),
    ("commit", ("machine", "commit")),
    ("frames", ("frames", "origin")),
    ("governor", ("machine", "governor")),
    ("system", ("machine", "system")),
    ("kernel", ("machine", "kernel")),
    ("Python", ("machine", "python")),
    ("driver", ("machine", "driver")),
    ("measured time", ("config", "duration_s")),
)
"""What may differ, since it is what a comparison is about; it is named."""

_NOTED_MODEL = (
    ("file", ("model", "file")),
    ("sha256", ("model", "sha256")),
    ("precision", ("model", "precision")),
    ("base", ("model", "base")),
    ("encoder", ("model", "encoder")),
    ("alignment", ("model", "alignment")),
    ("engine", ("model", "engine")),
)


def read_record(path: Path) -> dict[str, Any]:
    """Read what ``cada-edge bench --out FILE.json`` wrote.

    Raises:
        ConfigError: It cannot be read, or is no such record.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The record {path} cannot be read: {error}; wanted JSON of an earlier run. "
            f"Make one with: cada-edge bench MODEL --out {path.name}"
        ) from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise ConfigError(
            f"{path} has the schema {schema!r}; wanted {SCHEMA!r}, as this version of cada-edge writes it. "
            "Measure it again with: cada-edge bench MODEL --out FILE.json"
        )
    return dict(record)


def read_baseline(path: Path) -> dict[str, Any]:
    """Read a record that others are to be held against.

    Raises:
        ConfigError: As `read_record`, and where it was interrupted.
    """
    record = read_record(path)
    if record["interrupted"]:
        raise ConfigError(
            f"The record {path} is of a run that was interrupted; wanted a whole one as baseline. Measure it "
            f"again with: cada-edge bench MODEL --out {path.name}"
        )
    return record


def pair_subjects(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Pair]:
    """Pair the models of two records: by label, or the only one of each.

    Raises:
        ConfigError: A model of the newer one is not in the older one.
    """
    if len(old["subjects"]) == len(new["subjects"]) == 1:
        return [(old["subjects"][0], new["subjects"][0])]
    by_label = {subject["label"]: subject for subject in old["subjects"]}
    missing = [subject["label"] for subject in new["subjects"] if subject["label"] not in by_label]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} came, and the other record has {', '.join(by_label)}; wanted the same "
            "models in both. Measure the same ones, or one model in each."
        )
    return [(by_label[subject["label"]], subject) for subject in new["subjects"]]


def unlike(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return in what two records do not measure the same thing; empty where their figures can be compared."""
    found = _different(_OF_RECORD, old, new)
    for before, after in pair_subjects(old, new):
        found += [f"{after['label']}: {line}" for line in _different(_OF_MODEL, before, after)]
    return found


def unlike_config(old: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return in what a record and a configuration differ: what can be told before anything is measured.

    Args:
        old: The record.
        config: Of `BenchConfig.to_dict`.
    """
    return _different(_OF_CONFIG, old, {"config": config})


def require_like(found: Sequence[str]) -> None:
    """Refuse a baseline that does not measure the same thing.

    Args:
        found: Of `unlike` or `unlike_config`.

    Raises:
        ConfigError: There is a difference.
    """
    if found:
        raise ConfigError(
            f"The baseline is not of the same measurement: {'; '.join(found)} (baseline -> now). Wanted "
            "equal mode, batch, frame sizes, engine, threads and machine. Measure a new baseline with: "
            "cada-edge bench MODEL --out baseline.json"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what else differs between two records: versions, models, settings of the machine."""
    found = _different(_NOTED_RECORD, old, new)
    packages = [record["machine"]["packages"] for record in (old, new)]
    for name in sorted({*packages[0], *packages[1]}):
        before, after = (package.get(name) for package in packages)
        if before != after:
            found.append(f"{name}: {_plain(before)} -> {_plain(after)}")
    for before, after in pair_subjects(old, new):
        found += [f"{after['label']}: {line}" for line in _different(_NOTED_MODEL, before, after)]
    return found


def _different(
    wanted: Sequence[tuple[str, tuple[str, ...]]], old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[str]:
    found = []
    for name, path in wanted:
        before, after = _at(old, path), _at(new, path)
        if before != after:
            found.append(f"{name}: {_plain(before)} -> {_plain(after)}")
    return found


def _at(record: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = record
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    text = str(value)
    # A digest is told apart by its beginning.
    return text[:12] + "…" if len(text) in (40, 64) and text.isalnum() else text
