"""The layers of an engine as it was built, told by the engine inspector where a GPU can open it."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

from cada_edge.runtime.cuda_calls import choose_calls
from cada_edge.runtime.cuda_device import CudaDevice
from cada_edge.runtime.engine_check import engine_of, rebuild_command
from cada_edge.runtime.tensorrt_engine import TensorRTEngine

__all__ = ["EngineLayer", "layers_of", "precision_share", "read_layers"]

_log = logging.getLogger(__name__)

# The inspector writes formats as 'Channel major FP16 format where channel % 8 == 0', 'Row major linear FP32',
# or, for generated kernels, 'Half' and 'Float': names as NVIDIA's TensorRT Engine Explorer knows them.
_PRECISIONS = {
    "fp16": re.compile(r"\b(FP16|Half)\b"),
    "fp32": re.compile(r"\b(FP32|Float)\b"),
    "int8": re.compile(r"\b(INT8|Int8)\b"),
}


class EngineLayer(NamedTuple):
    """One layer of an engine, often several of the graph in one."""

    name: str
    """As the library made it from the graph's names."""
    kind: str | None
    """As 'CaskConvolution'; None where the engine keeps names alone."""
    precisions: tuple[str, ...]
    """Of its outputs, each one of 'fp16', 'fp32', 'int8'; empty for others, or where it is not told."""


def layers_of(information: str) -> list[EngineLayer]:
    """Read the engine inspector's JSON.

    Args:
        information: What `TensorRTEngine.layer_information` gave.

    Returns:
        The layers; none where the text is not of the form that TensorRT 10 documents.
    """
    try:
        rows: list[Any] = json.loads(information)["Layers"]
        return [_layer_of(row) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.debug("the inspector's text cannot be read (%s): %.200s", error, information)
        return []


def _layer_of(row: Any) -> EngineLayer:
    if isinstance(row, str):
        return EngineLayer(row, None, ())
    formats = [str(tensor.get("Format/Datatype", "")) for tensor in row.get("Outputs", [])]
    found = [name for name, form in _PRECISIONS.items() if any(form.search(text) for text in formats)]
    return EngineLayer(str(row["Name"]), str(row.get("LayerType", "")) or None, tuple(found))


def precision_share(layers: list[EngineLayer], precision: str) -> float | None:
    """Return the share of layers with an output in a precision, of those whose precision is told.

    Args:
        layers: Of one engine.
        precision: 'fp16', 'fp32' or 'int8'.

    Returns:
        0-1; None where no layer tells it.
    """
    known = [layer.precisions for layer in layers if layer.precisions]
    return sum(precision in precisions for precisions in known) / len(known) if known else None


def read_layers(path: Path, *, binding: str = "auto") -> list[EngineLayer]:
    """Open an engine on this machine's GPU and ask for its layers; nothing is run.

    Args:
        path: The engine; its manifest lies beside it, and `cada_edge.runtime.engine_check.why_not` finds
            nothing against it.
        binding: Package that drives the GPU, one of `cada_edge.runtime.cuda_calls.BINDINGS`.

    Raises:
        BackendError: The library or the driver refuses.
    """
    build = engine_of(path)
    device = CudaDevice(choose_calls(binding))
    device.open()
    try:
        with device.current():
            rebuild = rebuild_command(path, build, device.compute_capability)
            engine = TensorRTEngine(build.target, path, rebuild=rebuild)
            try:
                return layers_of(engine.layer_information())
            finally:
                engine.close()
    finally:
        device.close()
