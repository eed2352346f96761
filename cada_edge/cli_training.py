"""The commands that train: train and the demo."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import click

from cada_edge.extras import require_extra
from cada_edge.options import (
    config_options,
    format_number,
    given,
    json_option,
    layout_option,
    named_values,
    print_result,
    threads_option,
)
from cada_edge.runtime.preprocess import RESIZES
from cada_edge.trainer.config import BASES, RECIPES, AlignerConfig, TrainConfig

__all__ = ["BY_BASE", "demo", "train"]

BY_BASE = (
    *("encoder", "size", "iterations", "batch_size", "learning_rate", "weight_decay"),
    *("schedule", "gradient_clip"),
)
"""Fields of `TrainConfig` that a base method's recipe may set; named here, as help loads no torch."""

_OR_ITS_OWN = ", or --base's own"


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("runs/train"),
    show_default=True,
    help="Run folder.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=None,
    help="YAML file of values; flags win.",
)
@click.option("--resume", is_flag=True, help="Go on from the run folder's last state.")
@click.option("--overwrite", is_flag=True, help="Start again in a folder that holds an earlier run.")
@click.option("--keep-features", is_flag=True, help="Keep the aligner's cached features.")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard's scalars into the run folder too.")
@config_options(
    TrainConfig,
    {
        "recipe": f"One of {', '.join(RECIPES)}; 'paper' holds out no images.",
        "base": f"Base method: {', '.join(BASES)}.",
        "encoder": "timm name and tag, or resnet18_procedural, which comes with cada-edge.",
        "encoder_weights": "A .safetensors or .pth file for the encoder, or 'random'.",
        "size": "Side of the network input, in pixels.",
        "resize": f"How images come to that size: {' or '.join(RESIZES)} (the paper's; not exported).",
        "iterations": "Steps of the base method.",
        "batch_size": "Images in a step.",
        "learning_rate": "Of AdamW.",
        "weight_decay": "Of AdamW.",
        "schedule": "constant, step or cosine.",
        "gradient_clip": "Largest norm of the gradient, 0 for no limit.",
        "alignment": "cada, cada-sigma, class-predicted or none.",
        "upsampling": "centred, corners (the authors' code), or auto: corners under the recipe paper.",
        "top_fraction": "Share of the highest pixels whose mean is the score.",
        "holdout_fraction": "Share of the normal images kept for the threshold.",
        "false_alarm_rate": "Wanted rate of false alarms at the threshold.",
        "seed": "Of weights, sampling and dropout.",
        "device": "auto, cpu, cuda or cuda:N.",
        "amp": "bf16 mixed precision: auto (on CUDA), on or off.",
        "threads": "CPU threads.",
        "cache_features": "Keep the encoder's features in memory: auto, on or off.",
        "compile": "Compile the base's loss with torch.compile; needs a compiler.",
        "save_every": "Iterations between two resumable states.",
        "log_every": "Iterations between two rows of log.jsonl.",
    },
    notes=dict.fromkeys(BY_BASE, _OR_ITS_OWN),
)
@click.option(
    "--base-option",
    "base_options",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of the base method, as activation=relu; may be given again.",
)
@click.option(
    "--aligner-iterations",
    type=int,
    default=None,
    show_default=f"{AlignerConfig.iterations}{_OR_ITS_OWN}",
    help="Steps of the regressor.",
)
@layout_option
@json_option
def train(
    data: Path,
    out: Path,
    config_file: Path | None,
    resume: bool,
    overwrite: bool,
    keep_features: bool,
    tensorboard: bool,
    base_options: tuple[str, ...],
    aligner_iterations: int | None,
    layout: str,
    as_json: bool,
    **values: Any,
) -> None:
    """Train on the good parts in DATA, all kinds mixed, no labels.

    Under torchrun several processes share each batch: torchrun --nproc-per-node 4 -m cada_edge train DATA
    """
    require_extra("Training", "torch", "train")
    from cada_edge.runtime.datasets import index_dataset
    from cada_edge.trainer.base_method import configure
    from cada_edge.trainer.config import load_yaml
    from cada_edge.trainer.fit import fit
    from cada_edge.trainer.processes import launched_place
    from cada_edge.trainer.progress import ProgressBars

    leads = launched_place().leads
    if not leads:
        # What the first process says is said once.
        logging.getLogger("cada_edge").setLevel(logging.ERROR)
    merged = {**({} if config_file is None else load_yaml(config_file)), **given(values)}
    # An aligner that is no mapping is left to the configuration, which names it.
    if aligner_iterations is not None and isinstance(merged.get("aligner", {}), dict):
        merged["aligner"] = {**merged.get("aligner", {}), "iterations": aligner_iterations}
    if base_options and isinstance(merged.get("base_options", {}), dict):
        merged["base_options"] = {**merged.get("base_options", {}), **named_values(base_options)}
    config = configure(merged)
    with ProgressBars(images_per_step=config.batch_size) as bars:
        result = fit(
            index_dataset(data, layout=layout),
            out,
            config,
            resume=resume,
            overwrite=overwrite,
            keep_features=keep_features,
            tensorboard=tensorboard,
            progress=bars.update,
        )
    if not leads:
        return
    print_result(
        result,
        as_json=as_json,
        text=lambda: (
            f"checkpoint  {result.checkpoint}\ntrained on  {result.training_images} images\n"
            f"threshold   {format_number(result.threshold)} from {result.held_out_images} held-out images"
            + (f"\nwarning     {result.warning}" if result.warning else "")
        ),
    )


@click.command()
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder to write.",
)
@click.option("--size", type=int, default=128, show_default=True, help="Side of the images, in pixels.")
@click.option(
    "--iterations",
    type=int,
    default=None,
    show_default="what ten minutes allow",
    help="Steps of the base method.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the drawn line and the training.")
@click.option(
    "--encoder", default=None, show_default="the one that comes with cada-edge", help="timm name and tag."
)
@click.option("--encoder-weights", default=None, help="A .safetensors or .pth file for it, or 'random'.")
@click.option("--device", default=None, show_default="cpu", help="Where to train: auto, cpu, cuda or cuda:N.")
@click.option(
    "--amp", default=None, show_default="auto: on CUDA", help="bf16 in the base's training: auto, on or off."
)
@click.option(
    "--require-gain/--no-require-gain",
    default=None,
    show_default="required",
    help="Exit with 1 unless the alignment raises mixed I-AUROC.",
)
@threads_option
@json_option
def demo(out: Path, as_json: bool, **options: Any) -> None:
    """Draw a mixed line, train, export, stream, and write a report."""
    require_extra("The demo", "torch", "train")
    from cada_edge.benchmarks.demo import DemoConfig, run_demo
    from cada_edge.trainer.progress import ProgressBars

    with ProgressBars(images_per_step=TrainConfig.batch_size) as bars:
        summary = run_demo(out, DemoConfig(**given(options)), progress=bars.update)
    print_result(summary, as_json=as_json, text=lambda: json.dumps(summary, indent=2, default=str))
