"""Run the cells of a reproduction: one base for all its aligners, one aligner for all ways to score.

On disk, below the output folder, shared by all tables::

    <data set>/<base>-seed<n>-<digest>/             the base's run folder
    <data set>/<base>-seed<n>-<digest>/<aligner>/   the checkpoint of one aligner, and
        top-<fraction>.json                         what was measured: a cell that is not run again
        examples-<alignment>.npz                    heat-maps of a few images, for the figures

The digests stand for everything that changes a figure: configuration and list of images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cada_edge.benchmarks.examples import first_of_each_kind
from cada_edge.benchmarks.paper import HEADINGS, Method
from cada_edge.benchmarks.reproduction_plan import Cell, describe_departures
from cada_edge.errors import ConfigError
from cada_edge.files import sha256_file, write_atomic
from cada_edge.runtime.datasets import DatasetIndex, Sample
from cada_edge.runtime.evaluate import evaluate
from cada_edge.runtime.evaluate_model import require_test_images
from cada_edge.trainer.base_method import configure
from cada_edge.trainer.checkpoint import Checkpoint, load_checkpoint, package_versions
from cada_edge.trainer.config import PER_MACHINE, TrainConfig
from cada_edge.trainer.evaluate_checkpoint import score_batches
from cada_edge.trainer.fit import choose_device, fit
from cada_edge.trainer.realign import discard_features, realign
from cada_edge.trainer.run_folder import CHECKPOINT
from cada_edge.trainer.scoring import top_count, top_mean

__all__ = [
    "Settings",
    "cell_config",
    "cell_file",
    "list_departures",
    "read_cell",
    "read_example_maps",
    "run_cells",
]

_log = logging.getLogger(__name__)

Progress = Callable[[str, int, int, float], None]

_FORMAT = "cada-edge-reproduction-1"

_WITHOUT_REGRESSOR = ("none", "class-aware")
"""Alignments that a base's own checkpoint gives."""

_FIXED = ("base", "recipe", "alignment", "top_fraction", "seed", "device")
"""What the table or an option of the command sets."""

_NO_FIGURE = (*PER_MACHINE, "false_alarm_rate")
"""What changes no figure of a table: where it runs, and the threshold."""

_PIXEL_METRICS = ("p_auroc", "p_ap", "aupro")


@dataclass(frozen=True)
class Settings:
    """How the cells are run."""

    out: Path
    """Folder of all runs."""
    overrides: Mapping[str, Any]
    """Configuration values that stand in for the paper's recipe."""
    device: str
    """'auto', 'cpu', 'cuda' or 'cuda:N'."""

    def __post_init__(self) -> None:
        fixed = sorted(set(self.overrides) & set(_FIXED))
        if fixed:
            raise ConfigError(
                f"The configuration sets {', '.join(fixed)}; in a reproduction the table and the command's "
                "options set them. Remove them from the file."
            )


def cell_config(method: Method, seed: int, settings: Settings) -> TrainConfig:
    """Return what a cell is trained with: the base's recipe, then the overrides, then the row.

    Raises:
        ConfigError: An unknown or impossible value among the overrides.
    """
    overrides = dict(settings.overrides)
    aligner = overrides.pop("aligner", {})
    # An aligner that is no mapping is left to from_dict, which names it.
    if isinstance(aligner, Mapping):
        body = {"convolutions": method.convolutions, "linears": method.linears, "dropout": method.dropout}
        aligner = {**aligner, **body}
    return configure(
        {
            # auto would mean bf16 on one machine and fp32 on another.
            "amp": "off",
            "resize": "pil-bilinear",
            **overrides,
            "base": method.base,
            "recipe": "paper",
            "alignment": "none" if method.alignment in _WITHOUT_REGRESSOR else method.alignment,
            "aligner": aligner,
            "top_fraction": method.top_fraction,
            "seed": seed,
            "device": settings.device,
        }
    )


def list_departures(method: Method, settings: Settings) -> list[str]:
    """Name every configuration value of a cell that is not the recipe's; weights from a file are the same."""
    used, recipe = (
        cell_config(method, 0, chosen).to_dict()
        for chosen in (settings, dataclasses.replace(settings, overrides={}))
    )
    hidden = [*_NO_FIGURE, *(["encoder_weights"] if used["encoder_weights"] != "random" else [])]
    return describe_departures({name: value for name, value in used.items() if name not in hidden}, recipe)


def _base_config(cell: Cell, settings: Settings) -> TrainConfig:
    """Return the base's own configuration: the same for every aligner and every way to score."""
    plain = TrainConfig()
    return dataclasses.replace(
        cell_config(cell.method, cell.seed, settings),
        alignment="none",
        aligner=plain.aligner,
        top_fraction=plain.top_fraction,
    )


def _base_run(cell: Cell, index: DatasetIndex, settings: Settings) -> Path:
    values = _base_config(cell, settings).to_dict()
    kept = {name: value for name, value in values.items() if name not in _NO_FIGURE}
    images = [(sample.relative, sample.split, sample.image.stat().st_size) for sample in index.samples]
    name = f"{cell.method.base}-seed{cell.seed}-{_digest([kept, images])}"
    return settings.out / cell.dataset / name


def _run_folder(cell: Cell, index: DatasetIndex, settings: Settings) -> Path:
    method = cell.method
    base_run = _base_run(cell, index, settings)
    if method.alignment in _WITHOUT_REGRESSOR:
        return base_run / method.alignment
    aligner = dataclasses.asdict(cell_config(method, cell.seed, settings).aligner)
    body = f"{method.convolutions}conv-{method.linears}linear-dropout{method.dropout:g}"
    return base_run / f"{method.alignment}-{body}-{_digest(aligner)}"


def _digest(values: object) -> str:
    """Stand for plain values in a folder's name: ten hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def cell_file(cell: Cell, index: DatasetIndex, settings: Settings) -> Path:
    """Return where a cell's figures are kept."""
    return _run_folder(cell, index, settings) / f"top-{cell.method.top_fraction:g}.json"


def read_cell(path: Path) -> dict[str, Any] | None:
    """Read a finished cell; None where there is none, or none that can be used."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        figures = content["figures"]
        whole = content["format"] == _FORMAT and all(
            set(HEADINGS) <= set(figures[reading]) for reading in ("mixed", "averaged")
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return content if whole else None


def read_example_maps(cell: Cell, index: DatasetIndex, settings: Settings) -> dict[str, NDArray[np.float32]]:
    """Read the kept maps of a finished cell: an image's place in the data set -> float32 (S, S), aligned.

    Empty where none were kept, or none that can be used.
    """
    path = _examples_file(_run_folder(cell, index, settings), cell)
    try:
        with np.load(path) as maps:
            return {name: maps[name].astype(np.float32) for name in maps.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return {}


def _examples_file(folder: Path, cell: Cell) -> Path:
    return folder / f"examples-{cell.method.alignment}.npz"


def _write_example_maps(path: Path, maps: Mapping[str, NDArray[np.float16]]) -> None:
    buffer = io.BytesIO()
    # Not savez(**maps): a file's name may be that of one of its parameters.
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, values in maps.items():
            with archive.open(f"{name}.npy", "w") as entry:
                np.save(entry, values)
    write_atomic(path, buffer.getvalue())


def run_cells(
    cells: Sequence[Cell], index: DatasetIndex, settings: Settings, *, progress: Progress | None = None
) -> Iterator[Cell]:
    """Run the cells of one base with one seed on one data set that are not finished yet.

    Args:
        cells: They differ in alignment, regressor and top fraction only.
        index: Their data set.
        settings: How.
        progress: Called with the stage's name, what is done, how many there are, and the loss.

    Yields:
        Each cell that was run, as soon as its figures are on disk.

    Raises:
        CadaEdgeError: As `cada_edge.trainer.fit.fit` and `cada_edge.trainer.realign.realign`.
    """
    pending = [cell for cell in cells if read_cell(cell_file(cell, index, settings)) is None]
    if not pending:
        return
    samples = require_test_images(index)
    base_run = _base_run(pending[0], index, settings)
    if not (base_run / CHECKPOINT).is_file():
        needs_features = any(cell.method.alignment not in _WITHOUT_REGRESSOR for cell in pending)
        fit(
            index,
            base_run,
            _base_config(pending[0], settings),
            resume=True,
            keep_features=needs_features,
            progress=progress,
        )
    groups: dict[Path, list[Cell]] = {}
    for cell in pending:
        groups.setdefault(_run_folder(cell, index, settings), []).append(cell)
    for folder, group in groups.items():
        path = _aligned(group[0], base_run, folder, index, settings, progress)
        checkpoint = load_checkpoint(path)
        figures, maps = _evaluate(checkpoint, samples, group, settings, progress)
        _write_example_maps(_examples_file(folder, group[0]), maps)
        for cell in group:
            content = {
                "format": _FORMAT,
                **dataclasses.asdict(cell),
                "config": cell_config(cell.method, cell.seed, settings).to_dict(),
                "checkpoint": {"file": path.name, "sha256": sha256_file(path)},
                "training_data_sha256": checkpoint.data_fingerprint,
                "versions": package_versions("torch", "torchvision", "timm", "numpy"),
                "figures": figures[cell.method.top_fraction],
            }
            write_atomic(cell_file(cell, index, settings), (json.dumps(content, indent=1) + "\n").encode())
            yield cell
    discard_features(base_run)


def _aligned(
    cell: Cell,
    base_run: Path,
    folder: Path,
    index: DatasetIndex,
    settings: Settings,
    progress: Progress | None,
) -> Path:
    """Return the checkpoint to score with, trained when it is not there yet."""
    if cell.method.alignment in _WITHOUT_REGRESSOR:
        return base_run / CHECKPOINT
    path = folder / CHECKPOINT
    if not path.is_file():
        config = cell_config(cell.method, cell.seed, settings)
        realign(
            base_run,
            folder,
            index,
            alignment=config.alignment,
            aligner=config.aligner,
            device=settings.device,
            progress=progress,
        )
    return path


def _evaluate(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    cells: Sequence[Cell],
    settings: Settings,
    progress: Progress | None,
) -> tuple[dict[float, dict[str, Any]], dict[str, NDArray[np.float16]]]:
    """Evaluate one aligner under every top fraction: one pass of the model, one ranking of the pixels.

    Returns:
        Top fraction -> the evaluation as plain values; and an example's file -> its map.
    """
    size = checkpoint.config.size
    alignment = cells[0].method.alignment
    fractions = [cell.method.top_fraction for cell in cells]
    scores: dict[float, list[float]] = {fraction: [] for fraction in fractions}
    device = choose_device(settings.device)
    shown = set(first_of_each_kind(samples))
    examples: dict[str, NDArray[np.float16]] = {}

    def predictions() -> Iterator[tuple[float, NDArray[np.float32]]]:
        for part in score_batches(checkpoint, samples, [alignment], device):
            maps = part[alignment].maps
            start = len(scores[fractions[0]])
            for row in shown & set(range(start, start + len(maps))):
                examples[samples[row].relative] = maps[row - start].astype(np.float16)
            for fraction in fractions:
                scores[fraction] += top_mean(torch.from_numpy(maps), top_count(size, fraction)).tolist()
            yield from zip(scores[fractions[0]][-len(maps) :], maps, strict=True)
            if progress is not None:
                progress("evaluate", len(scores[fractions[0]]), len(samples), float("nan"))

    def protocol(fraction: float) -> dict[str, Any]:
        return {
            "base": checkpoint.config.base,
            "encoder": checkpoint.config.encoder,
            "images": checkpoint.config.resize,
            "encoder_weights_sha256": checkpoint.encoder_fingerprint,
            "alignment": alignment,
            "image_score": f"mean of the highest {100 * fraction:g} % of the pixels"
            if fraction
            else "maximum",
            "seed": cells[0].seed,
            "training": "fp32" if checkpoint.config.amp == "off" else f"amp {checkpoint.config.amp}",
            "engine": f"torch {torch.__version__} on {device.type}",
        }

    whole = evaluate(
        samples, predictions(), threshold=None, map_hw=(size, size), protocol=protocol(fractions[0])
    ).to_dict()
    results = {fractions[0]: whole}
    for fraction in fractions[1:]:
        images = evaluate(
            samples,
            ((score, None) for score in scores[fraction]),
            threshold=None,
            map_hw=(size, size),
            protocol=protocol(fraction),
            pixel=False,
        ).to_dict()
        results[fraction] = _with_pixels(images, whole)
    for fraction, result in results.items():
        result["scores"] = {
            sample.relative: score for sample, score in zip(samples, scores[fraction], strict=True)
        }
    return results, examples


def _with_pixels(images: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Take the pixel metrics from another evaluation of the same maps: they do not depend on the score."""
    groups = ["mixed", "averaged", "averaged_over"]
    merged = {**images, **{group: dict(images[group]) for group in groups}}
    merged["per_kind"] = {kind: dict(figures) for kind, figures in images["per_kind"].items()}
    for metric in _PIXEL_METRICS:
        for group in groups:
            merged[group][metric] = whole[group][metric]
        for kind, figures in merged["per_kind"].items():
            figures[metric] = whole["per_kind"][kind][metric]
    merged["reasons"] = {
        **{path: why for path, why in images["reasons"].items() if not path.endswith(_PIXEL_METRICS)},
        **{path: why for path, why in whole["reasons"].items() if path.endswith(_PIXEL_METRICS)},
    }
    return merged
