"""Compare alignments on the procedural line, over several seeds: means and ranges, whoever wins.

Three studies:

* ``variants``: every base method with every alignment variant, mixed and averaged.
* ``noise``: 0, 5, 10 and 20 % of the training images have a defect; cada against cada-sigma (paper, Table 5).
* ``kernel``: the regressor with a 1x1 and with a 3x3 convolution, which the paper leaves open.

    python -m cada_edge.benchmarks.line_study variants --seeds 20,21,22 --out runs/study

A base is trained once for a seed and a share of spoiled images; every aligner learns from its features. What
is finished stays in the folder and is not run again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from cada_edge.benchmarks.line_report import Cell, describe_kernels, describe_noise, noise_table, table
from cada_edge.benchmarks.machine import describe_machine
from cada_edge.errors import ConfigError
from cada_edge.files import write_atomic
from cada_edge.runtime.datasets import DatasetIndex, index_dataset
from cada_edge.trainer.base_method import configure
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.config import BASES, AlignerConfig, TrainConfig
from cada_edge.trainer.evaluate_checkpoint import evaluate_scored, score_samples
from cada_edge.trainer.fit import choose_device, fit
from cada_edge.trainer.progress import ProgressBars
from cada_edge.trainer.realign import discard_features, realign
from cada_edge.trainer.run_folder import CHECKPOINT
from cada_edge.trainer.synthetic import GENERATOR_VERSION, SyntheticConfig, write_line

__all__ = [
    "STUDIES",
    "Study",
    "StudyConfig",
    "Variant",
    "describe_findings",
    "report_text",
    "run_study",
]

Report = Callable[[str, int, int, float], None]

_METRICS: tuple[Literal["i_auroc", "i_ap", "p_auroc", "p_ap"], ...] = ("i_auroc", "i_ap", "p_auroc", "p_ap")


@dataclass(frozen=True)
class Variant:
    """One column: an alignment and its regressor."""

    label: str
    """As the table names it."""
    alignment: str
    """One of `cada_edge.trainer.config.ALIGNMENTS`."""
    kernel: int = 1
    """Side of the regressor's convolution."""


@dataclass(frozen=True)
class Study:
    """What is compared."""

    bases: tuple[str, ...]
    """Base methods, each trained once for a seed and share."""
    variants: tuple[Variant, ...]
    """Alignments on each."""
    shares: tuple[float, ...] = (0.0,)
    """Of the training images that have a defect, 0-0.5."""


_NONE, _CADA, _SIGMA = Variant("none", "none"), Variant("cada", "cada"), Variant("cada-sigma", "cada-sigma")
_TOLD = Variant("class-aware", "class-aware")

STUDIES = {
    "variants": Study(
        tuple(BASES), (_NONE, _CADA, _SIGMA, Variant("class-predicted", "class-predicted"), _TOLD)
    ),
    "noise": Study(("revdist",), (_NONE, _CADA, _SIGMA), (0.0, 0.05, 0.1, 0.2)),
    "kernel": Study(("revdist",), (Variant("1x1", "cada"), Variant("3x3", "cada", kernel=3))),
}
"""Name -> study."""


@dataclass(frozen=True)
class StudyConfig:
    """How large a study is."""

    size: int = 128
    """Side of the images, in pixels."""
    iterations: int = 600
    """Steps of each base method."""
    batch_size: int = 16
    """Images in a step, of every base alike."""
    encoder: str = "resnet18_procedural"
    """timm name and tag, or the one that comes with cada-edge."""
    encoder_weights: str | None = None
    """A file for it, or 'random'."""
    train_per_kind: int = 60
    """Training images of each kind."""
    test_per_kind: int = 20
    """Good and defective test images of each kind."""
    aligner_iterations: int = AlignerConfig.iterations
    """Steps of each regressor."""
    device: str = "auto"
    """As in `TrainConfig`."""
    amp: str = "auto"
    """As in `TrainConfig`."""


def run_study(
    study: Study,
    seeds: Sequence[int],
    out: str | Path,
    config: StudyConfig | None = None,
    *,
    report: Report | None = None,
) -> Iterator[Cell]:
    """Run a study, giving each cell as it is done.

    Args:
        study: What is compared.
        seeds: Of the lines and of the trainings.
        out: Folder for lines and runs; what is finished there is taken as it is.
        config: Its size.
        report: Called with the stage's name, what is done, how many there are, and the loss.

    Raises:
        ConfigError: The folder holds a study of another configuration.
    """
    out, config = Path(out), config or StudyConfig()
    report = report or (lambda stage, done, total, loss: None)
    _claim(out, config)
    for seed in seeds:
        for share in study.shares:
            line = SyntheticConfig(
                size=config.size,
                train_per_kind=config.train_per_kind,
                test_normal_per_kind=config.test_per_kind,
                test_anomalous_per_kind=config.test_per_kind,
                seed=seed,
                spoiled_fraction=share,
            )
            place = out / f"seed{seed}-spoiled{share:g}"
            index = index_dataset(write_line(place / "line", line))
            for base in study.bases:
                yield from _cells(study, base, index, place / base, share, seed, config, report)


def _claim(out: Path, config: StudyConfig) -> None:
    wanted = {"generator_version": GENERATOR_VERSION, **dataclasses.asdict(config)}
    note = out / "study.json"
    if note.is_file():
        found = json.loads(note.read_text("utf-8"))
        moved = ("device", "amp")
        differing = sorted(key for key in wanted if key not in moved and found.get(key) != wanted[key])
        if differing:
            raise ConfigError(
                f"{out} holds a study with another {', '.join(differing)}. "
                "Choose another folder (--out) or delete it."
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(note, json.dumps(wanted, indent=2).encode())


def _cells(
    study: Study,
    base: str,
    index: DatasetIndex,
    place: Path,
    share: float,
    seed: int,
    config: StudyConfig,
    report: Report,
) -> Iterator[Cell]:
    trained = place / "base"
    if not (trained / CHECKPOINT).is_file():
        fit(index, trained, train_config(base, seed, config), resume=True, progress=report)
    for variant in study.variants:
        done = place / f"{variant.label}.json"
        if not done.is_file():
            cell = _measure(variant, base, index, place, share, seed, config, report)
            write_atomic(done, json.dumps(dataclasses.asdict(cell)).encode())
        yield Cell(**json.loads(done.read_text("utf-8")))
    discard_features(trained)


def train_config(base: str, seed: int, config: StudyConfig) -> TrainConfig:
    """Return how a base is trained: its recipe at the study's size."""
    return configure(
        {
            "base": base,
            "encoder": config.encoder,
            "encoder_weights": config.encoder_weights,
            "size": config.size,
            "iterations": config.iterations,
            "batch_size": config.batch_size,
            "schedule": "cosine",
            "alignment": "none",
            "aligner": {"iterations": config.aligner_iterations},
            "seed": seed,
            "device": config.device,
            "amp": config.amp,
        }
    )


def _measure(
    variant: Variant,
    base: str,
    index: DatasetIndex,
    place: Path,
    share: float,
    seed: int,
    config: StudyConfig,
    report: Report,
) -> Cell:
    path = place / "base" / CHECKPOINT
    if variant.alignment not in ("none", "class-aware"):
        aligner = dataclasses.replace(train_config(base, seed, config).aligner, kernel=variant.kernel)
        path = realign(
            place / "base",
            place / variant.label,
            index,
            alignment=variant.alignment,
            aligner=aligner,
            device=config.device,
            overwrite=True,
            progress=report,
        ).checkpoint
    checkpoint = load_checkpoint(path)
    device = choose_device(config.device)
    scored = score_samples(checkpoint, index.test, [variant.alignment], device=device)[variant.alignment]
    result = evaluate_scored(checkpoint, index.test, scored, alignment=variant.alignment, threshold=None)
    mixed: dict[str, float | None] = {name: result.mixed[name] for name in _METRICS}
    averaged: dict[str, float | None] = {name: result.averaged[name] for name in _METRICS}
    return Cell(base, variant.label, share, seed, mixed, averaged)


def describe_findings(study: str, cells: Sequence[Cell]) -> list[str]:
    """Answer a study's question in sentences.

    Args:
        study: A key of `STUDIES`; 'variants' has its table alone.
        cells: What was measured.
    """
    describe = {"noise": describe_noise, "kernel": describe_kernels}.get(study)
    return describe(cells) if describe else []


def report_text(study: str, cells: Sequence[Cell]) -> str:
    """Write a study's table and what it found, as Markdown."""
    tables = [table(cells), noise_table(cells) if study == "noise" else ""]
    sentences = "\n".join(f"- {sentence}" for sentence in describe_findings(study, cells))
    return "\n\n".join(part for part in (*tables, sentences) if part)


_DEFAULT = StudyConfig()


@click.command()
@click.argument("study", type=click.Choice(list(STUDIES)))
@click.option("--seeds", default="20,21,22", show_default=True, help="Comma-separated.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/study"), show_default=True, help="Folder."
)
@click.option("--size", default=_DEFAULT.size, show_default=True, help="Side of the images, in pixels.")
@click.option("--iterations", default=_DEFAULT.iterations, show_default=True, help="Steps of each base.")
@click.option(
    "--aligner-iterations",
    default=_DEFAULT.aligner_iterations,
    show_default=True,
    help="Steps of each regressor.",
)
@click.option("--bases", default=None, show_default="the study's", help="Comma-separated.")
@click.option("--device", default=_DEFAULT.device, show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--amp", default=_DEFAULT.amp, show_default=True, help="bf16 in the bases' training: auto, on, off."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(study: str, seeds: str, out: Path, bases: str | None, as_json: bool, **options: Any) -> None:
    """Run a STUDY and print its table, and what it found."""
    chosen = STUDIES[study]
    if bases is not None:
        chosen = dataclasses.replace(chosen, bases=tuple(bases.split(",")))
    config = StudyConfig(**options)
    try:
        numbers = [int(text) for text in seeds.split(",")]
    except ValueError as error:
        raise click.UsageError(f"--seeds {seeds!r} came; wanted whole numbers with commas.") from error
    try:
        for base in chosen.bases:
            train_config(base, numbers[0], config)
        with ProgressBars(images_per_step=config.batch_size) as bars:
            cells = list(run_study(chosen, numbers, out, config, report=bars.update))
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        figures = [dataclasses.asdict(cell) for cell in cells]
        described = {
            "config": dataclasses.asdict(config),
            "machine": describe_machine(),
            "generator_version": GENERATOR_VERSION,
            "findings": describe_findings(study, cells),
        }
        click.echo(json.dumps({**described, "cells": figures}, indent=2))
    else:
        click.echo(report_text(study, cells))


if __name__ == "__main__":
    main()
