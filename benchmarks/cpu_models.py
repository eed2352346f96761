"""The architectures that the CPU tables measure, built with random weights: latency does not ask for more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cada_edge import __version__
from cada_edge.benchmarks.machine import describe_machine
from cada_edge.files import write_atomic

__all__ = ["ARCHITECTURES", "Architecture", "export_architecture"]


@dataclass(frozen=True)
class Architecture:
    """One row of the tables."""

    name: str
    """For people, and of its files."""
    base: str
    """Base method."""
    encoder: str
    """timm's name."""
    size: int
    """Side of the input, in pixels."""


ARCHITECTURES = (
    Architecture("RevDist-resnet18", "revdist", "resnet18", 256),
    Architecture("RevDist-WRN50", "revdist", "wide_resnet50_2", 256),
    Architecture("ReContrast-resnet18", "recontrast", "resnet18", 256),
    Architecture("UniAD", "uniad", "tf_efficientnet_b4", 224),
)
"""UniAD with the paper's encoder, RevDist with it and with a small one."""

_IMAGES_PER_KIND = 4


def export_architecture(architecture: Architecture, work: Path, *, alignment: str = "cada") -> Path:
    """Train for one step and export in fp32, unless this code has done so already.

    Args:
        architecture: What to build; its encoder and regressor have random weights, its regressor is 1x1.
        work: Folder for everything.
        alignment: 'cada' or 'none'.

    Returns:
        The model file.

    Raises:
        CheckFailedError: The exported file does not give PyTorch's scores.
    """
    model = work / f"{architecture.name}-{alignment}.onnx"
    # A graph of older code would be measured as if this code had made it.
    made_by = model.with_name(f"{model.name}.commit")
    if model.is_file() and made_by.is_file() and made_by.read_text("utf-8") == _code():
        return model
    from cada_edge.export.to_onnx import ExportConfig, export_onnx

    export_onnx(_checkpoint(architecture, work), model, ExportConfig(alignment=alignment))
    write_atomic(made_by, _code().encode())
    return model


def _code() -> str:
    machine = describe_machine()
    return f"{__version__} {machine['commit']}{' changed' if machine['commit_modified'] else ''}\n"


def _checkpoint(architecture: Architecture, work: Path) -> Path:
    run = work / f"run-{architecture.name}"
    if (run / "checkpoint.pt").is_file():
        return run / "checkpoint.pt"
    from cada_edge.runtime.datasets import index_dataset
    from cada_edge.trainer.base_method import configure
    from cada_edge.trainer.fit import fit
    from cada_edge.trainer.run_folder import STATE
    from cada_edge.trainer.synthetic import KINDS, SyntheticConfig, write_line

    line = SyntheticConfig(
        size=architecture.size,
        train_per_kind=_IMAGES_PER_KIND,
        test_normal_per_kind=1,
        test_anomalous_per_kind=1,
        kinds=KINDS[:2],
    )
    values: dict[str, Any] = {
        "base": architecture.base,
        "encoder": architecture.encoder,
        "encoder_weights": "random",
        "size": architecture.size,
        "iterations": 1,
        "batch_size": 2,
        "aligner": {"iterations": 10, "batch_size": 4},
        "device": "cpu",
    }
    drawn = write_line(work / f"line-{architecture.size}", line)
    checkpoint = fit(index_dataset(drawn), run, configure(values), overwrite=True).checkpoint
    # Up to a gigabyte of optimiser state, for training that is not gone on with.
    (run / STATE).unlink(missing_ok=True)
    return checkpoint
