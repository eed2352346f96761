"""The part of `cada-edge export` that writes a Triton model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cada_edge.errors import ConfigError
from cada_edge.extras import require_extra
from cada_edge.options import format_number, print_result, size_hw

__all__ = ["export_to_triton"]

_OF_CHECKPOINTS = (
    "precision", "calibration", "calibration_images", "backend", "alignment", "frame_size", "data",
)  # fmt: skip
"""Options that say how a checkpoint is exported."""


def export_to_triton(
    source: Path,
    repository: Path,
    *,
    model_name: str | None,
    max_batch: int | None,
    precision: str,
    quantizing: dict[str, Any],
    backend: str,
    alignment: str | None,
    frame_size: str | None,
    data: Path | None,
    layout: str,
    as_json: bool,
) -> None:
    """Write SOURCE into a repository and print where it is; the arguments are the options of `export`.

    `quantizing` holds those of int8 that were given.

    Raises:
        ConfigError: An option of checkpoints came with a file that is exported already.
        MissingExtraError: A checkpoint came, and PyTorch is not installed.
    """
    from cada_edge.export.to_triton import TritonConfig, export_triton
    from cada_edge.runtime.datasets import index_dataset

    export = None
    if source.suffix in (".onnx", ".engine"):
        context = click.get_current_context()
        given = [
            f"--{name.replace('_', '-')}"
            for name in _OF_CHECKPOINTS
            if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        ]
        if given:
            raise ConfigError(
                f"{', '.join(given)} came with {source}, which is exported already and is copied as it is. "
                "Leave the option away, or give the checkpoint."
            )
    else:
        require_extra("Exporting", "torch", "train")
        from cada_edge.export.to_onnx import ExportConfig

        export = ExportConfig(
            precision=precision,
            backend=backend,
            alignment=alignment,
            frame_hw=None if frame_size is None else size_hw(frame_size),
            **quantizing,
        )
    config = TritonConfig(name=model_name or TritonConfig.name, max_batch=max_batch)
    result = export_triton(
        source,
        repository,
        config,
        export=export,
        data=None if data is None else index_dataset(data, layout=layout),
    )
    kept = "" if result.config_written else " (kept as it was)"
    print_result(
        result,
        as_json=as_json,
        text=lambda: (
            f"model      {result.model}, version {result.version} of {result.model_name}\n"
            f"config     {result.config}{kept}\nmanifest   {result.manifest}\n"
            f"threshold  {format_number(result.threshold)}"
        ),
    )
