"""What a check of a GPU box can end with, and how the whole of them is written down."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cada_edge.benchmarks.machine import describe_machine
from cada_edge.errors import CudaError
from cada_edge.runtime.cuda_driver import gpus, require_gpu

__all__ = ["NotPossible", "Outcome", "describe_gpu_machine", "exit_code", "markdown", "outcome_of", "perform"]

_PACKAGES = ("tensorrt", "tensorrt-rtx", "cuda-bindings", "pycuda", "onnxruntime-gpu")
"""Beside those of `describe_machine`."""

_SMI_TIMEOUT_S = 20


class NotPossible(Exception):
    """This machine cannot run the check; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What one check ended with."""

    name: str
    """Of the check."""
    state: str
    """'ok', 'failed' or 'not possible'."""
    reason: str = ""
    """The error, or why it was not possible."""
    figures: dict[str, Any] = field(default_factory=dict)
    """What was measured, JSON-safe; units are in the names."""
    seconds: float = 0.0
    """How long it took."""


def perform(name: str, check: Callable[[], Mapping[str, Any]]) -> Outcome:
    """Run a check and tell how it ended; no exception of it goes further.

    Args:
        name: Of the check.
        check: Returns its figures, or raises `NotPossible` where the machine lacks something.
    """
    try:
        return Outcome(name, "ok", figures=dict(check()))
    except NotPossible as reason:
        return Outcome(name, "not possible", str(reason))
    except Exception as error:  # broad: a failing check must not stop the others
        return Outcome(name, "failed", f"{type(error).__name__}: {error}")


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return 0 where something ran and nothing failed, 1 where a check failed, 3 where none could run."""
    states = {outcome.state for outcome in outcomes}
    return 1 if "failed" in states else 0 if "ok" in states else 3


def describe_gpu_machine() -> dict[str, Any]:
    """Describe machine, GPUs and driver; `gpus` is empty, with the reason beside, where there are none."""
    machine = describe_machine()
    for package in _PACKAGES:
        try:
            machine["packages"][package] = version(package)
        except PackageNotFoundError:
            continue
    found: list[str] = []
    cuda, reason = None, None
    try:
        info = require_gpu()
        cuda = "{}.{}".format(*info.cuda_version)
        found = [f"{name} (compute capability {major}.{minor})" for name, (major, minor) in gpus()]
    except CudaError as error:
        reason = str(error)
    return {**machine, "gpus": found, "no_gpu": reason, "driver": _driver_version(), "driver_cuda": cuda}


def _driver_version() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SMI_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None  # a Jetson has none
    return done.stdout.split("\n")[0].strip() or None if done.returncode == 0 else None


def markdown(date: str, machine: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Write the record as a section of a Markdown page.

    Args:
        date: When it was measured, ISO 8601.
        machine: Of `describe_gpu_machine`.
        outcomes: In the order of the checks.
    """
    packages = ", ".join(f"{name} {number}" for name, number in sorted(machine["packages"].items()))
    commit = f"`{machine['commit'][:7]}`" if machine["commit"] else "unknown"
    changed = ", with changes" if machine["commit_modified"] else ""
    lines = [
        f"## GPU check, {date}",
        "",
        f"* card: {', '.join(machine['gpus']) or 'none: ' + _cell(str(machine['no_gpu']))}",
        f"* driver: {machine['driver'] or 'unknown'}, CUDA up to {machine['driver_cuda'] or 'unknown'}",
        f"* machine: {machine['cpu']}, {machine['cores']} cores, {machine['system']}, {machine['python']}",
        f"* versions: {packages}",
        f"* commit: {commit}{changed}",
        "",
        "| check | result | figures | s |",
        "|---|---|---|---|",
    ]
    for outcome in outcomes:
        text = outcome.reason or ", ".join(
            f"{name} {_figure(value)}" for name, value in outcome.figures.items()
        )
        lines.append(f"| {outcome.name} | {outcome.state} | {_cell(text)} | {outcome.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def _figure(value: Any) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else json.dumps(value)
        if isinstance(value, dict)
        else str(value)
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def outcome_of(record: Mapping[str, Any]) -> Outcome:
    """Make an outcome of parsed JSON."""
    return Outcome(**{item.name: record[item.name] for item in dataclasses.fields(Outcome)})
