"""The part of `cada-edge export` that quantises an ONNX file, and what it prints of any ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cada_edge.errors import ConfigError
from cada_edge.options import format_number, format_parity

__all__ = ["onnx_text", "quantize"]

_OF_CHECKPOINTS = {"alignment": "--alignment", "frame_hw": "--frame-size"}


def quantize(
    source: Path,
    out: Path,
    options: Mapping[str, Any],
    *,
    data: Any,
    progress: Callable[[str, int, int], None],
) -> Any:
    """Quantise an fp32 ONNX file.

    Args:
        source: The file.
        out: The file to write.
        options: Fields of `Int8Config`, and those of checkpoints, None where they were not given.
        data: Data set for the AUROC drift, or None.
        progress: As for `export_int8`.

    Raises:
        ConfigError: An option of checkpoints was given.
    """
    from cada_edge.export.to_int8 import Int8Config, export_int8

    for name, flag in _OF_CHECKPOINTS.items():
        if options[name] is not None:
            raise ConfigError(
                f"{flag} came with {source}, whose graph is as it is; wanted it with a checkpoint. Leave it "
                "out, or export the checkpoint with --precision int8."
            )
    fields = {name: value for name, value in options.items() if name not in _OF_CHECKPOINTS}
    return export_int8(source, out, Int8Config(**fields), data=data, progress=progress)


def onnx_text(result: Any) -> str:
    """Write an `ExportResult` for people."""
    lines = [
        f"model      {result.model}",
        f"manifest   {result.manifest}",
        f"reference  {result.reference}",
        f"parity     {format_parity(result.parity)}",
        f"threshold  {format_number(result.threshold)}",
    ]
    record = result.quantization
    if record is not None:
        lines += [
            f"int8       {record.int8_layers} convolutions, {record.int8_share:.0%} of all multiplications; "
            f"{len(record.fp32_layers)} convolutions of the networks stay in fp32",
            f"ranges     {record.method} of {record.images} of {record.images_found} good parts in "
            f"{record.source}",
            *(f"speed      {each.to_text()}" for each in result.speed),
        ]
        if result.threshold is not None:
            lines.append(
                "note       The threshold was set on the fp32 model's scores. Set this file's own with: "
                f"cada-edge calibrate {result.model.name} NEW_GOOD_PARTS"
            )
    return "\n".join(lines)
