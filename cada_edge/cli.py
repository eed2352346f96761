"""The command line: each command reads its options, calls one function and prints its result.

Results go to stdout, logs and progress to stderr. Exit codes: 0 fine; 1 a check failed; 2 usage or bad input;
3 the model is damaged or does not fit this machine; 4 source lost; 5 a missing extra; 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cada_edge import __version__
from cada_edge.errors import CadaEdgeError, ConfigError
from cada_edge.extras import require_extra
from cada_edge.options import config_options, given
from cada_edge.trainer.config import RECIPES, TrainConfig

__all__ = ["main"]


class _Group(click.Group):
    """Turns our errors into a message and an exit code, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CadaEdgeError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            # The reader of our output went away, as `| head` does: no error of ours.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="cada-edge")
@click.option("-v", "--verbose", is_flag=True, help="Say more about what happens, on stderr.")
def main(verbose: bool) -> None:
    """One anomaly detector, one threshold, every product on the line."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        stream=sys.stderr,
        format="%(levelname)s: %(message)s",
    )


_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_backend = click.option(
    "--backend", default="auto", show_default=True, metavar="NAME", help="auto, openvino or onnxruntime."
)
_threads = click.option(
    "--threads", type=int, default=None, show_default="the engine's choice", help="CPU threads."
)
_layout = click.option(
    "--layout",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, mvtec, visa, visa-mvtec, btad or folder.",
)


def _print(result: Any, *, as_json: bool, text: Callable[[], str]) -> None:
    """Print a result object: its fields as JSON, or a text for people."""
    if as_json:
        fields = result if isinstance(result, dict) else dataclasses.asdict(result)
        click.echo(json.dumps(fields, indent=2, default=str, allow_nan=False))
    else:
        click.echo(text())


@main.command()
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
@config_options(
    TrainConfig,
    {
        "recipe": f"One of {', '.join(RECIPES)}; 'paper' holds out no images.",
        "base": "Base method: revdist.",
        "encoder": "timm name and tag, or resnet18_procedural, which comes with cada-edge.",
        "encoder_weights": "A .safetensors or .pth file for the encoder, or 'random'.",
        "decoder_activation": "gelu (the paper) or relu (RD4AD).",
        "size": "Side of the network input, in pixels.",
        "iterations": "Steps of the base method.",
        "batch_size": "Images in a step.",
        "learning_rate": "Of AdamW.",
        "weight_decay": "Of AdamW.",
        "schedule": "constant or cosine.",
        "alignment": "cada or none.",
        "upsampling": "centred, corners (the authors' code), or auto: corners under the recipe paper.",
        "top_fraction": "Share of the highest pixels whose mean is the score.",
        "holdout_fraction": "Share of the normal images kept for the threshold.",
        "false_alarm_rate": "Wanted rate of false alarms at the threshold.",
        "seed": "Of weights, sampling and dropout.",
        "device": "auto, cpu, cuda or cuda:N.",
        "amp": "bf16 mixed precision: auto (on CUDA), on or off.",
        "threads": "CPU threads.",
        "cache_features": "Keep the encoder's features in memory: auto, on or off.",
        "save_every": "Iterations between two resumable states.",
    },
)
@click.option(
    "--aligner-iterations", type=int, default=None, show_default="5000", help="Steps of the regressor."
)
@_layout
@_json
def train(
    data: Path,
    out: Path,
    config_file: Path | None,
    resume: bool,
    overwrite: bool,
    keep_features: bool,
    aligner_iterations: int | None,
    layout: str,
    as_json: bool,
    **values: Any,
) -> None:
    """Train on the good parts in DATA, all kinds mixed, no labels."""
    require_extra("Training", "torch", "train")
    from cada_edge.runtime.datasets import index_dataset
    from cada_edge.trainer.config import from_dict, load_yaml
    from cada_edge.trainer.fit import fit
    from cada_edge.trainer.progress import ProgressBars

    merged = {**({} if config_file is None else load_yaml(config_file)), **given(values)}
    if aligner_iterations is not None:
        merged["aligner"] = {**merged.get("aligner", {}), "iterations": aligner_iterations}
    config = from_dict(merged)
    with ProgressBars(images_per_step=config.batch_size) as bars:
        result = fit(
            index_dataset(data, layout=layout),
            out,
            config,
            resume=resume,
            overwrite=overwrite,
            keep_features=keep_features,
            progress=bars.update,
        )
    _print(
        result,
        as_json=as_json,
        text=lambda: (
            f"checkpoint  {result.checkpoint}\ntrained on  {result.training_images} images\n"
            f"threshold   {_number(result.threshold)} from {result.held_out_images} held-out images"
            + (f"\nwarning     {result.warning}" if result.warning else "")
        ),
    )


@main.command("eval")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--alignment",
    default=None,
    show_default="the model's own",
    help="For a checkpoint: none, cada or class-aware.",
)
@click.option(
    "--masks", "mask_convention", default="pil-bilinear>0", show_default=True, help="How masks are resized."
)
@click.option(
    "--threshold", type=float, default=None, show_default="the model's own", help="Of the aligned score."
)
@click.option(
    "--device", default="auto", show_default=True, help="For a checkpoint: auto, cpu, cuda or cuda:N."
)
@_backend
@_threads
@_layout
@_json
def evaluate(model: Path, data: Path, layout: str, as_json: bool, **options: Any) -> None:
    """Evaluate MODEL (a checkpoint, or an exported file) on the test images of DATA."""
    from cada_edge.runtime.datasets import index_dataset

    is_checkpoint = model.suffix in (".pt", ".pth")
    _refuse_unused(model, options, is_checkpoint=is_checkpoint)
    index = index_dataset(data, layout=layout)
    if is_checkpoint:
        require_extra("Evaluating a checkpoint", "torch", "train")
        from cada_edge.trainer.evaluate_checkpoint import evaluate_checkpoint

        evaluation = evaluate_checkpoint(
            model,
            index,
            alignment=options["alignment"],
            threshold=options["threshold"],
            mask_convention=options["mask_convention"],
            device=options["device"],
        )
    else:
        from cada_edge.runtime.evaluate_model import evaluate_model

        evaluation = evaluate_model(
            model,
            index,
            alignment=options["alignment"],
            threshold=options["threshold"],
            mask_convention=options["mask_convention"],
            backend=options["backend"],
            threads=options["threads"],
        )
    _print(evaluation.to_dict(), as_json=as_json, text=evaluation.to_text)


def _refuse_unused(model: Path, options: dict[str, Any], *, is_checkpoint: bool) -> None:
    """Refuse options of `eval` that would change nothing: a figure must not seem to come from them."""
    kind, runs_in, other = "a checkpoint", "PyTorch", "an exported model"
    unused = {"--backend": options["backend"] != "auto", "--threads": options["threads"] is not None}
    if not is_checkpoint:
        kind, runs_in, other = "an exported model", "an engine on the CPU", "a checkpoint"
        unused = {"--device": options["device"] != "auto"}
    found = " and ".join(name for name, was_given in unused.items() if was_given)
    if found:
        raise ConfigError(
            f"{found} came with {model}, which is {kind} and runs in {runs_in}; "
            f"wanted {found} with {other} only. Leave it out, or evaluate {other}."
        )


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.option(
    "--false-alarm-rate", type=float, default=0.005, show_default=True, help="Wanted rate of false alarms."
)
@click.option(
    "--pixel-quantile",
    type=float,
    default=None,
    show_default="the threshold",
    help="Set the mask's threshold to this quantile of the normal pixels.",
)
@_backend
@_threads
@_json
def calibrate(model: Path, images: Path, as_json: bool, **options: Any) -> None:
    """Set MODEL's threshold from normal IMAGES it has not seen; only the manifest changes."""
    from cada_edge.runtime.calibrate import calibrate as run

    result = run(model, images, **options)
    _print(result, as_json=as_json, text=result.to_text)


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["onnx"]),
    default="onnx",
    show_default=True,
    help="Kind of file.",
)
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("model.onnx"),
    show_default=True,
    help="File to write.",
)
@click.option("--precision", default="fp32", show_default=True, help="Of the networks: fp32 or fp16.")
@click.option(
    "--backend", default="auto", show_default=True, metavar="NAME", help="Engine of the parity check."
)
@click.option(
    "--data", type=click.Path(path_type=Path), default=None, help="Data set to measure the AUROC drift on."
)
@_layout
@_json
def export(
    checkpoint: Path,
    file_format: str,
    out: Path,
    precision: str,
    backend: str,
    data: Path | None,
    layout: str,
    as_json: bool,
) -> None:
    """Export CHECKPOINT to one file with everything fused in, and check it against PyTorch."""
    require_extra("Exporting", "torch", "train")
    from cada_edge.export.to_onnx import ExportConfig, export_onnx
    from cada_edge.runtime.datasets import index_dataset

    result = export_onnx(
        checkpoint,
        out,
        ExportConfig(precision=precision, backend=backend),
        data=None if data is None else index_dataset(data, layout=layout),
    )
    _print(
        result,
        as_json=as_json,
        text=lambda: (
            f"model      {result.model}\nmanifest   {result.manifest}\nreference  {result.reference}\n"
            f"parity     {_parity(result.parity)}\nthreshold  {_number(result.threshold)}"
        ),
    )


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@_backend
@_threads
@_json
def verify(model: Path, backend: str, threads: int | None, as_json: bool) -> None:
    """Replay MODEL's reference frames on this machine and write the figures into its manifest."""
    from cada_edge.runtime.parity import verify as run

    parity = run(model, backend=backend, threads=threads)
    _print(parity, as_json=as_json, text=lambda: f"parity  {_parity(parity)}")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("source")
@click.option("--save", type=click.Path(path_type=Path), default=None, help="Folder for annotated images.")
@click.option(
    "--threshold", type=float, default=None, show_default="the model's own", help="Of the aligned score."
)
@click.option("--skip-unreadable", is_flag=True, help="Go on after an image that cannot be read.")
@_backend
@_threads
@_json
def predict(
    model: Path,
    source: str,
    save: Path | None,
    threshold: float | None,
    skip_unreadable: bool,
    backend: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Inspect SOURCE (image, folder, glob or video) with MODEL, one line per frame."""
    from cada_edge.runtime.detector import Detector
    from cada_edge.runtime.draw import draw
    from cada_edge.runtime.images import write_image
    from cada_edge.runtime.sources import open_source

    with (
        Detector(model, backend=backend, threshold=threshold, threads=threads) as detector,
        open_source(source, on_error="skip" if skip_unreadable else "raise") as frames,
    ):
        for frame in frames:
            detection = detector(frame)
            click.echo(json.dumps(detection.to_dict()) if as_json else repr(detection))
            if save is not None:
                stem = frame.path.stem if frame.path is not None else "frame"
                write_image(save / f"{frame.index:06d}_{stem}.jpg", draw(frame.image, detection))


main.add_command(predict)
main.add_command(predict, "stream")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@_json
def inspect(model: Path, as_json: bool) -> None:
    """Show what MODEL is: its manifest, checked against the file."""
    from cada_edge.manifest import Manifest

    manifest = Manifest.read(model)
    manifest.check_model_file(model)
    _print(
        manifest,
        as_json=as_json,
        text=lambda: "\n".join(f"{name:20}{value}" for name, value in dataclasses.asdict(manifest).items()),
    )


@main.command()
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
@click.option(
    "--require-gain/--no-require-gain",
    default=None,
    show_default="required",
    help="Exit with 1 unless the alignment raises mixed I-AUROC.",
)
@_threads
@_json
def demo(out: Path, as_json: bool, **options: Any) -> None:
    """Draw a mixed line, train, export, stream, and write a report."""
    require_extra("The demo", "torch", "train")
    from cada_edge.benchmarks.demo import DemoConfig, run_demo
    from cada_edge.trainer.progress import ProgressBars

    with ProgressBars(images_per_step=TrainConfig.batch_size) as bars:
        summary = run_demo(out, DemoConfig(**given(options)), progress=bars.update)
    _print(summary, as_json=as_json, text=lambda: json.dumps(summary, indent=2, default=str))


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _parity(parity: Any) -> str:
    drift = "" if parity.auroc_drift is None else f", AUROC drift {parity.auroc_drift:.3f} points"
    return (
        f"{parity.images} frames on {parity.backend}: "
        f"largest score difference {parity.max_score_difference:.2g} "
        f"(limit {parity.score_limit:.2g}), largest map difference {parity.max_map_difference:.2g}{drift}"
    )
