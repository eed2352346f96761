"""The command line: each command reads its options, calls one function and prints its result.

Results go to stdout, logs and progress to stderr. Exit codes: 0 fine; 1 a check failed; 2 usage or bad input;
3 the model is damaged or does not fit this machine; 4 source lost; 5 a missing extra; 130 interrupted by
Ctrl-C; 143 by SIGTERM, which is 0 for `predict` once it inspects.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click

from cada_edge import __version__
from cada_edge.cli_bench import bench
from cada_edge.cli_export import export
from cada_edge.cli_predict import predict
from cada_edge.cli_reproduce import reproduce
from cada_edge.cli_training import demo, train
from cada_edge.console import discard_stdout
from cada_edge.errors import CadaEdgeError, ConfigError
from cada_edge.extras import require_extra
from cada_edge.files import sha256_file
from cada_edge.options import (
    backend_option,
    format_parity,
    json_option,
    layout_option,
    print_result,
    read_bytes,
    threads_option,
)

__all__ = ["main"]


class _Terminated(KeyboardInterrupt):
    """SIGTERM came: it ends a command as Ctrl-C does, so that what is unfinished is removed."""


@contextmanager
def _ended_in_order_by_sigterm() -> Iterator[None]:
    """Raise `_Terminated` when SIGTERM comes; what a command has set for it, as predict does, goes first."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    # Workers of torchrun end at once, also where they wait for each other; signals are the main thread's; and
    # what an application, or a shell that has them ignored, has set for them stays.
    if (
        "TORCHELASTIC_RUN_ID" in os.environ
        or threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Group(click.Group):
    """Turns our errors into a message and an exit code, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _ended_in_order_by_sigterm():
                return super().invoke(ctx)
        except CadaEdgeError as error:
            _say(f"error: {error}")
            ctx.exit(error.exit_code)
        except _Terminated:
            _say("terminated")
            ctx.exit(143)
        except (KeyboardInterrupt, click.Abort):
            _say("interrupted")
            ctx.exit(130)
        except BrokenPipeError:
            # The reader of our output went away, as `| head` does: no error of ours.
            discard_stdout(for_good=True)
            ctx.exit(0)


def _say(text: str) -> None:
    """Print on stderr, and keep to the exit code where nobody reads that."""
    with suppress(OSError):
        click.echo(text, err=True)


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


@main.command("eval")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--alignment",
    default=None,
    show_default="the model's own",
    help="For a checkpoint: its own, none or class-aware.",
)
@click.option(
    "--masks", "mask_convention", default="pil-bilinear>0", show_default=True, help="How masks are resized."
)
@click.option(
    "--resize",
    "resize_name",
    default=None,
    show_default="the model's own",
    help="For a checkpoint: how images are resized, cv2-area-linear or pil-bilinear.",
)
@click.option(
    "--threshold", type=float, default=None, show_default="the model's own", help="Of the aligned score."
)
@click.option(
    "--device", default="auto", show_default=True, help="For a checkpoint: auto, cpu, cuda or cuda:N."
)
@click.option(
    "--max-memory",
    callback=read_bytes,
    default=None,
    metavar="SIZE",
    show_default="no limit",
    help="For pixel scores, as 2GiB; more goes to a temporary file in TMPDIR.",
)
@click.option(
    "--save-maps",
    type=click.Path(path_type=Path),
    default=None,
    help="New folder for the anomaly maps: IMAGE.npy, float32, below the image's own path.",
)
@backend_option
@threads_option
@layout_option
@json_option
def evaluate(model: Path, data: Path, layout: str, as_json: bool, **options: Any) -> None:
    """Evaluate MODEL (a checkpoint, or an exported file) on the test images of DATA."""
    from cada_edge.runtime.datasets import index_dataset

    is_checkpoint = model.suffix in (".pt", ".pth")
    _refuse_unused(model, options, is_checkpoint=is_checkpoint)
    index = index_dataset(data, layout=layout)
    if is_checkpoint:
        require_extra("Evaluating a checkpoint", "torch", "train")
        from cada_edge.trainer.evaluate_checkpoint import evaluate_checkpoint

        run = partial(evaluate_checkpoint, resize_name=options["resize_name"], device=options["device"])
    else:
        from cada_edge.runtime.evaluate_model import evaluate_model

        run = partial(evaluate_model, backend=options["backend"], threads=options["threads"])
    with click.progressbar(length=len(index.test), label="evaluate", show_pos=True, file=sys.stderr) as bar:
        evaluation = run(
            model,
            index,
            alignment=options["alignment"],
            threshold=options["threshold"],
            mask_convention=options["mask_convention"],
            max_memory_bytes=options["max_memory"],
            save_maps=options["save_maps"],
            progress=lambda done, total: bar.update(1),
        )
    # The file's own fingerprint tells a later reader of which model these figures are.
    result = {**evaluation.to_dict(), "model_sha256": sha256_file(model)}
    print_result(result, as_json=as_json, text=evaluation.to_text)


def _refuse_unused(model: Path, options: dict[str, Any], *, is_checkpoint: bool) -> None:
    """Refuse options of `eval` that would change nothing: a figure must not seem to come from them."""
    kind, runs_in, other = "a checkpoint", "PyTorch", "an exported model"
    unused = {"--backend": options["backend"] != "auto", "--threads": options["threads"] is not None}
    if not is_checkpoint:
        where = "TensorRT on the GPU" if model.suffix.lower() == ".engine" else "an engine on the CPU"
        kind, runs_in, other = "an exported model", where, "a checkpoint"
        unused = {
            "--device": options["device"] != "auto",
            "--resize": options["resize_name"] is not None,
        }
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
@backend_option
@threads_option
@json_option
def calibrate(model: Path, images: Path, as_json: bool, **options: Any) -> None:
    """Set MODEL's threshold from normal IMAGES it has not seen; only the manifest changes."""
    from cada_edge.runtime.calibrate import calibrate as run

    result = run(model, images, **options)
    print_result(result, as_json=as_json, text=result.to_text)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@backend_option
@threads_option
@json_option
def verify(model: Path, backend: str, threads: int | None, as_json: bool) -> None:
    """Replay MODEL's reference frames on this machine and write the figures into its manifest."""
    from cada_edge.runtime.parity import verify as run

    parity = run(model, backend=backend, threads=threads)
    print_result(parity, as_json=as_json, text=lambda: f"parity  {format_parity(parity)}")


main.add_command(predict)
main.add_command(predict, "stream")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@json_option
def inspect(model: Path, as_json: bool) -> None:
    """Show what MODEL is, checked against its file, and whether it runs on this machine."""
    from cada_edge.runtime.model_report import report_on

    report = report_on(model)
    print_result(report.to_dict(), as_json=as_json, text=report.to_text)


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show what this machine has for running models, and how to get what is missing."""
    from cada_edge.runtime.doctor import examine

    findings = examine()
    print_result(
        {"findings": [dataclasses.asdict(finding) for finding in findings]},
        as_json=as_json,
        text=lambda: "\n".join(map(str, findings)),
    )


for _command in (train, export, demo, reproduce, bench):
    main.add_command(_command)
