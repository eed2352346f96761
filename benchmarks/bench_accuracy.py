"""Accuracy of the very file that was timed, beside the paper's figures and the checkpoint's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cada_edge.benchmarks.paper import HEADINGS, PaperDataset, PaperRow, load_datasets, load_tables
from cada_edge.errors import ConfigError
from cada_edge.extras import require_extra
from cada_edge.files import sha256_file
from cada_edge.manifest import Manifest
from cada_edge.runtime.datasets import DatasetIndex, index_dataset
from cada_edge.runtime.evaluate_model import evaluate_model

__all__ = ["PAPER_SETUP", "measure_accuracy", "paper_row", "require_checkpoint"]

READINGS = ("mixed", "averaged")
"""All kinds ranked together, as one threshold sees them; and the mean over kinds."""

PAPER_SETUP: dict[str, tuple[str, tuple[int, int]]] = {
    "revdist": ("wide_resnet50_2", (256, 256)),
    "recontrast": ("wide_resnet50_2", (256, 256)),
    "uniad": ("tf_efficientnet_b4", (224, 224)),
}
"""Base method -> the paper's encoder, and its images' height and width (section 4.2)."""

_TOP_FRACTION = 0.01


def measure_accuracy(
    model: str | Path,
    data: str | Path,
    *,
    backend: str = "auto",
    threads: int | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a model file on a data set's test images.

    Args:
        model: The file that was timed.
        data: Folder of the data set.
        backend: The engine that it was timed on.
        threads: Likewise.
        checkpoint: What the file was exported from (evaluated with PyTorch), or the JSON that
            ``cada-edge eval CHECKPOINT DATA --json`` has printed elsewhere.
        progress: Called after each image with how many are done and how many there are.

    Returns:
        mixed and averaged (metric -> percent), precision, protocol_line, engine, data, paper (table, row,
        figures, the reasons why they are not comparable), exported (what the manifest says of the export's
        own drift), and drift (reading -> metric -> points, ours minus the checkpoint's) where there is a
        checkpoint.

    Raises:
        DatasetError: The data set cannot be used.
        ConfigError: The checkpoint's figures are of another model or of other images.
    """
    index = index_dataset(data)
    manifest = Manifest.read(model)
    evaluation = evaluate_model(model, index, backend=backend, threads=threads, progress=progress)
    figures = evaluation.to_dict()
    parity = manifest.parity
    return {
        "mixed": figures["mixed"],
        "averaged": figures["averaged"],
        "images": figures["images"],
        "precision": manifest.precision,
        "false_positive_rate": figures["false_positive_rate"],
        "true_positive_rate": figures["true_positive_rate"],
        "threshold": figures["threshold"],
        "protocol_line": figures["protocol_line"],
        "reasons": figures["reasons"],
        "engine": evaluation.protocol["engine"],
        "data": _describe(index),
        "paper": _beside_the_paper(manifest, index),
        "exported": None
        if parity is None
        else {
            "auroc_drift": parity.auroc_drift,
            "auroc_drift_reason": parity.auroc_drift_reason,
            "max_score_difference": parity.max_score_difference,
            "score_limit": parity.score_limit,
        },
        "drift": None if checkpoint is None else _drift(figures, Path(checkpoint), index, manifest),
    }


def require_checkpoint(checkpoint: Path, manifests: Iterable[Manifest] = ()) -> None:
    """Check, before minutes of measuring, that figures of a checkpoint can be had.

    Args:
        checkpoint: The file, or the JSON of its evaluation.
        manifests: Of the files that are to be held against it.

    Raises:
        ConfigError: It is not there, a JSON file that holds no evaluation, or not what a file was exported
            from.
        MissingExtraError: It has to be evaluated, and PyTorch is not installed.
    """
    if checkpoint.suffix.lower() == ".json":
        found = _read_figures(checkpoint)
        for manifest in manifests:
            _require_origin(checkpoint, found["model_sha256"], manifest)
    elif not checkpoint.is_file():
        raise ConfigError(
            f"There is no {checkpoint}; wanted the checkpoint that the file was exported from, or the JSON "
            "of its eval. Correct --checkpoint."
        )
    else:
        require_extra("Evaluating a checkpoint", "torch", "train")
        sha256 = sha256_file(checkpoint)
        for manifest in manifests:
            _require_origin(checkpoint, sha256, manifest)


def _require_origin(checkpoint: Path, sha256: str | None, manifest: Manifest) -> None:
    """Refuse another training's checkpoint: its difference would be taken for the export's."""
    if sha256 is not None and sha256 != manifest.checkpoint_sha256:
        raise ConfigError(
            f"{checkpoint} is of the checkpoint {sha256[:12]}; wanted {manifest.checkpoint_sha256[:12]}, "
            f"which the {manifest.format} file of {manifest.base} was exported from. Correct --checkpoint, "
            "or export this checkpoint and measure that file."
        )


def _describe(index: DatasetIndex) -> dict[str, Any]:
    return {
        "name": index.root.name,
        "layout": index.layout,
        "kinds": len(index.categories),
        "training_images": len(index.train),
        "test_images": len(index.test),
    }


def paper_row(base: str, alignment: str, dataset: str) -> tuple[int, PaperRow] | None:
    """Find the paper's row of a method: in its main tables first, then in the others.

    Args:
        base: Base method.
        alignment: Of the paper's variants.
        dataset: 'mvtec', 'visa' or 'btad'.

    Returns:
        The table's number and the row; None where the paper has none.
    """
    for number, table in load_tables().items():
        for row in table.rows:
            method = row.method
            if (
                method is not None
                and (method.base, method.alignment, method.top_fraction) == (base, alignment, _TOP_FRACTION)
                and dataset in row.figures
            ):
                return number, row
    return None


def _beside_the_paper(manifest: Manifest, index: DatasetIndex) -> dict[str, Any] | None:
    """Return the paper's figures of the same method, and everything in which ours is another measurement."""
    facts = load_datasets()
    known = next((fact for fact in facts.values() if index.layout in fact.layouts), None)
    dataset = known or facts["mvtec"]
    found = paper_row(manifest.base, manifest.alignment, dataset.name)
    if found is None and dataset.name != "mvtec":
        dataset = facts["mvtec"]
        found = paper_row(manifest.base, manifest.alignment, dataset.name)
    if found is None:
        return None
    number, row = found
    return {
        "table": number,
        "row": row.label,
        "dataset": dataset.title,
        "figures": {reading: dict(row.figures[dataset.name].get(reading, {})) for reading in READINGS},
        "not_comparable": _differences(manifest, index, dataset),
    }


def _differences(manifest: Manifest, index: DatasetIndex, dataset: PaperDataset) -> list[str]:
    """Say in what this measurement is not the paper's; an empty list is a reproduction of its conditions."""
    reasons = []
    wanted = (dataset.categories, dataset.test_images)
    got = (len(index.categories), len(index.test))
    # A layout is no proof: other lines are kept in MVTec's own.
    if index.layout not in dataset.layouts or any(
        want not in (None, have) for want, have in zip(wanted, got, strict=True)
    ):
        images = f" and {wanted[1]} test images" if wanted[1] else ""
        reasons.append(
            f"other data: {index.root.name} with {got[0]} kinds and {got[1]} test images, "
            f"{dataset.title} has {wanted[0]} kinds{images}"
        )
    encoder, size_hw = PAPER_SETUP.get(manifest.base, ("", manifest.input_hw))
    if manifest.encoder.partition(".")[0] != encoder:
        reasons.append(f"another encoder: {manifest.encoder}, the paper has {encoder}")
    if manifest.input_hw != size_hw:
        reasons.append(f"another size: {_size(manifest.input_hw)}, the paper has {_size(size_hw)}")
    if abs(manifest.top_fraction - _TOP_FRACTION) > 1e-9:
        reasons.append(f"another image score: the highest {100 * manifest.top_fraction:g} % of pixels")
    if manifest.recipe != "paper":
        reasons.append(f"another training: the recipe {manifest.recipe}")
    return reasons


def _size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[1]}x{size_hw[0]}"


def _drift(
    figures: Mapping[str, Any], checkpoint: Path, index: DatasetIndex, manifest: Manifest
) -> dict[str, Any]:
    """Return ours minus the checkpoint's, in points."""
    theirs = _figures_of(checkpoint, index, manifest)
    # The engine is another by intent, and the threshold changes none of these figures.
    wanted = {
        name: value for name, value in figures["protocol"].items() if name not in ("engine", "threshold")
    }
    came = {name: theirs["protocol"].get(name) for name in wanted}
    wanted |= {"kinds": sorted(figures["per_kind"]), "images": figures["images"]}
    came |= {"kinds": sorted(theirs["per_kind"]), "images": theirs["images"]}
    other = [
        f"{name} {came[name]} instead of {value}" for name, value in wanted.items() if came[name] != value
    ]
    if other:
        raise ConfigError(
            f"{checkpoint} has figures of {', '.join(other)}; wanted those of what this file was exported "
            "from, on the same images. Make them with: cada-edge eval CHECKPOINT DATA --json"
        )
    return {
        "of": checkpoint.name,
        **{
            reading: {
                metric: None
                if figures[reading][metric] is None or theirs[reading][metric] is None
                else figures[reading][metric] - theirs[reading][metric]
                for metric in HEADINGS
            }
            for reading in READINGS
        },
    }


def _figures_of(checkpoint: Path, index: DatasetIndex, manifest: Manifest) -> dict[str, Any]:
    require_checkpoint(checkpoint, [manifest])
    if checkpoint.suffix.lower() == ".json":
        return _read_figures(checkpoint)
    from cada_edge.trainer.evaluate_checkpoint import evaluate_checkpoint

    return evaluate_checkpoint(checkpoint, index, alignment=manifest.alignment).to_dict()


def _read_figures(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: found[name] for name in (*READINGS, "per_kind", "images", "protocol")}
        return {**kept, "model_sha256": found.get("model_sha256")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no evaluation ({type(error).__name__}: {error}); wanted what "
            "cada-edge eval CHECKPOINT DATA --json prints. Write that to a file, or give the checkpoint."
        ) from error
