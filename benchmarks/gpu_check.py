"""What an NVIDIA box can do with cada-edge, checked for real: ``python -m cada_edge.benchmarks.gpu_check``.

A box without PyTorch, as a Jetson, is checked with an exported file of one's own: ``--model model.onnx``.

Each check runs in a process of its own, with a time limit: one that fails, hangs or crashes leaves the others
alone, and a GPU context that an error has spoiled goes with its process. It ends as ok, as failed with the
error, or as not possible here with the reason. Without a GPU each says so.

Exit code: 0 something ran and nothing failed, 1 a check failed, 3 none was possible on this machine.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from cada_edge.benchmarks import gpu_device_checks, gpu_engine_checks, gpu_torch_checks
from cada_edge.benchmarks.gpu_outcomes import (
    NotPossible,
    Outcome,
    describe_gpu_machine,
    exit_code,
    markdown,
    outcome_of,
    perform,
)
from cada_edge.errors import CadaEdgeError, CudaError
from cada_edge.files import write_atomic
from cada_edge.manifest import Manifest
from cada_edge.runtime.cuda_calls import BINDINGS
from cada_edge.runtime.cuda_driver import require_gpu

__all__ = ["checks", "main", "run_apart", "run_checks"]

_log = logging.getLogger(__name__)

_LIMIT_S = 180
"""Of one check: torch.compile and an engine's build are the longest."""

_ERROR_LINES = 3


def checks(
    work: Path, *, quick: bool, model: Path | None = None
) -> dict[str, Callable[[], Mapping[str, Any]]]:
    """Return every check by its name, in the order of their worth: what time is left for comes last.

    Args:
        work: Folder that they share; trainings leave the checkpoints there that the others use.
        quick: Less of everything: whether it runs, with rough figures.
        model: ONNX file of ours that engines are built from; None for the one that the check of the training
            leaves, which takes PyTorch.
    """
    seconds, iterations = (0.5, 10) if quick else (3.0, 60)
    batch_size = 8 if quick else 16

    def trained(base: str, function: Callable[[Path], Mapping[str, Any]]) -> Callable[[], Mapping[str, Any]]:
        """Make a check of a function of the checkpoint that the base's training leaves."""
        return lambda: function(gpu_torch_checks.checkpoint_in(work, base))

    def of_onnx(function: Callable[[Path], Mapping[str, Any]]) -> Callable[[], Mapping[str, Any]]:
        """Make a check of a function of an ONNX file."""
        if model is not None:
            return partial(function, model)

        def of_trained(checkpoint: Path) -> Mapping[str, Any]:
            return function(gpu_engine_checks.exported(checkpoint, work))

        return trained("revdist", of_trained)

    bases = tuple(gpu_torch_checks.PAPER)
    found: dict[str, Callable[[], Mapping[str, Any]]] = {
        f"device.{binding}": partial(gpu_device_checks.check_binding, binding)
        for binding in BINDINGS
        if binding != "auto"
    }
    steps = {"iterations": iterations, "batch_size": batch_size}
    for base in bases:
        found[f"train.{base}"] = partial(gpu_torch_checks.train, base, work, device="cuda", **steps)
        found[f"fp16.{base}"] = trained(base, partial(gpu_torch_checks.numerics, device="cuda"))
    for target in ("tensorrt", "rtx"):
        engine = partial(gpu_engine_checks.check_engine, target=target, work=work, seconds=seconds)
        found[f"engine.{target}"] = of_onnx(engine)
    found["engine.onnxruntime"] = of_onnx(partial(gpu_engine_checks.check_onnxruntime, seconds=seconds))
    for mode in gpu_torch_checks.MODES:
        timed = partial(gpu_torch_checks.latency, mode=mode, device="cuda", seconds=seconds)
        for base in bases[:1] if quick else bases:
            found[f"latency.{base}.{mode}"] = trained(base, timed)
    # A GPU is asked for first: without one a checkpoint is not what is missing.
    return {
        name: _on_cuda(check) if name.startswith(("train.", "fp16.", "latency.")) else _on_gpu(check)
        for name, check in found.items()
    }


def _on_gpu(check: Callable[[], Mapping[str, Any]]) -> Callable[[], Mapping[str, Any]]:
    def checked() -> Mapping[str, Any]:
        try:
            require_gpu()
        except CudaError as error:
            raise NotPossible(str(error)) from error
        return check()

    return checked


def _on_cuda(check: Callable[[], Mapping[str, Any]]) -> Callable[[], Mapping[str, Any]]:
    return lambda: {"device": gpu_torch_checks.require_cuda(), **check()}


def run_apart(name: str, command: list[str], record: Path, *, limit_s: float) -> Outcome:
    """Run one check in a process of its own.

    Args:
        name: Of the check.
        command: Runs it and writes its outcome to the record.
        record: JSON file.
        limit_s: When the process is ended, in seconds.
    """
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
    except subprocess.TimeoutExpired:
        taken = time.perf_counter() - started
        return Outcome(
            name, "failed", f"it had not ended after {limit_s:.0f} s and was stopped.", seconds=taken
        )
    taken = time.perf_counter() - started
    if record.is_file():
        outcome = outcome_of(json.loads(record.read_text(encoding="utf-8")))
        return dataclasses.replace(outcome, seconds=taken)
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    last = " / ".join(done.stderr.strip().splitlines()[-_ERROR_LINES:])
    return Outcome(name, "failed", f"its process ended with {ended}. {last}".strip(), seconds=taken)


def run_checks(
    names: list[str], *, work: Path, quick: bool, seconds: float, model: Path | None = None
) -> list[Outcome]:
    """Run checks one after the other until the time is used up.

    Args:
        names: Of `checks`.
        work: Folder that they share.
        quick: As for `checks`.
        seconds: For all of them; what it does not reach is not possible.
        model: As for `checks`.
    """
    end = time.monotonic() + seconds
    outcomes = []
    for name in names:
        left = end - time.monotonic()
        if left <= 0:
            outcomes.append(Outcome(name, "not possible", f"the {seconds:.0f} s are used up; see --seconds."))
            continue
        record = work / f"{name}.json"
        command = [sys.executable, "-m", "cada_edge.benchmarks.gpu_check", "--one", name]
        command += ["--work", str(work), "--out", str(record), *(["--quick"] if quick else [])]
        command += [] if model is None else ["--model", str(model)]
        outcome = run_apart(name, command, record, limit_s=min(_LIMIT_S, left))
        _log.info("%s: %s %s", name, outcome.state, outcome.reason)
        click.echo(f"{name:28} {outcome.state:13} {outcome.seconds:6.1f} s  {outcome.reason}", err=True)
        outcomes.append(outcome)
    return outcomes


def _require_onnx(model: Path) -> None:
    """Refuse a file that no engine can be built from, before any check."""
    try:
        manifest = Manifest.read(model)
        manifest.check_model_file(model)
    except CadaEdgeError as error:
        raise click.UsageError(str(error)) from error
    if manifest.format != "onnx":
        raise click.UsageError(
            f"--model {model} is of the format {manifest.format!r}; wanted the ONNX file that engines are "
            "built from. Make one with: cada-edge export checkpoint.pt --precision fp16 --out model.onnx"
        )


@click.command(epilog="Exit code: 0 nothing failed, 1 a check failed, 3 none was possible on this machine.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="JSON file to write; the Markdown table lies beside it, ending in .md.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=None,
    show_default="one that is trained here, with PyTorch",
    help="ONNX file of an export, its manifest and reference file beside it: engines are built from it.",
)
@click.option("--quick", is_flag=True, help="Rough figures, a few minutes.")
@click.option("--seconds", type=float, default=540.0, show_default=True, help="Most time for all checks.")
@click.option("--only", multiple=True, metavar="NAME", help="A check, or the first part of its name.")
@click.option("--one", hidden=True, default=None)
@click.option("--work", hidden=True, type=click.Path(path_type=Path), default=None)
def main(
    out: Path,
    model: Path | None,
    quick: bool,
    seconds: float,
    only: tuple[str, ...],
    one: str | None,
    work: Path | None,
) -> None:
    """Check what this NVIDIA box can do, and write the figures as JSON and as a Markdown table."""
    if one is not None and work is not None:
        outcome = perform(one, checks(work, quick=quick, model=model)[one])
        write_atomic(out, json.dumps(dataclasses.asdict(outcome), default=str).encode())
        return
    if model is not None:
        _require_onnx(model)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        known = list(checks(Path(folder), quick=quick, model=model))
        names = [name for name in known if not only or name.startswith(only)]
        if not names:
            raise click.UsageError(f"--only {', '.join(only)} names no check; there are {', '.join(known)}.")
        machine = describe_gpu_machine()
        outcomes = run_checks(names, work=Path(folder), quick=quick, seconds=seconds, model=model)
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    record = {
        "date": date,
        "quick": quick,
        "machine": machine,
        "checks": [dataclasses.asdict(outcome) for outcome in outcomes],
    }
    write_atomic(out, (json.dumps(record, indent=2) + "\n").encode())
    table = write_atomic(out.with_suffix(".md"), markdown(date, machine, outcomes).encode())
    click.echo(table.read_text(encoding="utf-8"), nl=False)
    sys.exit(exit_code(outcomes))


if __name__ == "__main__":
    main()
