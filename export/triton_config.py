"""The config.pbtxt of a Triton model: what the server must know about our graph, in protobuf's text format.

The schema is `inference.ModelConfig` of Triton's published model_config.proto. Here it is written as text, so
that no export needs protobuf; the tests read it back with the published schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cada_edge.manifest import Manifest
from cada_edge.runtime.backend import OUTPUT_NAMES

__all__ = ["MODEL_FILES", "frame_size", "model_config", "text_format"]

MODEL_FILES = {"onnx": "model.onnx", "engine": "model.engine"}
"""Format of the model -> its file in a version's folder. The endings are those by which `Detector` and
`cada-edge verify` choose a backend; the config tells Triton, whose own default for engines is model.plan."""

_SERVED_BY = {
    "onnx": {"backend": "onnxruntime", "platform": "onnxruntime_onnx"},
    "engine": {"backend": "tensorrt", "platform": "tensorrt_plan"},
}

_INPUT_NAME = "frames"


class _Word(str):
    """A value that the text format writes without quotes: a name of an enumeration."""


def frame_size(manifest: Manifest) -> tuple[int, int]:
    """Return height and width of the frames that a model file takes, in pixels."""
    return manifest.input_hw if manifest.frame_hw is None else manifest.frame_hw


def model_config(name: str, manifest: Manifest, *, max_batch: int, queue_delay_us: int) -> dict[str, Any]:
    """Describe a model file to Triton.

    Frames of many cameras are put together to batches on the server. One black frame is run before the model
    is called ready: the first call of an engine is slow.

    Args:
        name: Of the model in the repository.
        manifest: Of the model file.
        max_batch: Most frames of a batch, at least 1.
        queue_delay_us: How long a request may wait for others to share its batch, in microseconds.

    Returns:
        Fields of `inference.ModelConfig`, for `text_format`. No shape holds the batch, which Triton adds.
    """
    height, width = frame_size(manifest)
    dims = [height, width, 3]
    shapes: dict[str, dict[str, Any]] = {
        # One number a frame: Triton has no empty dims, so clients get (N, 1) of the graph's (N,).
        "score": {"dims": [1], "reshape": {"shape": []}},
        "anomaly_map": {"dims": list(manifest.input_hw)},
        "stats": {"dims": [2]},
    }
    black = {"data_type": _Word("TYPE_UINT8"), "dims": dims, "zero_data": True}
    return {
        "name": name,
        **_SERVED_BY[manifest.format],
        "max_batch_size": max_batch,
        "default_model_filename": MODEL_FILES[manifest.format],
        "input": [{"name": _INPUT_NAME, "data_type": _Word("TYPE_UINT8"), "dims": dims}],
        "output": [
            {"name": output, "data_type": _Word("TYPE_FP32"), **shapes[output]} for output in OUTPUT_NAMES
        ],
        "dynamic_batching": {"max_queue_delay_microseconds": queue_delay_us},
        "model_warmup": [
            {"name": "black", "batch_size": 1, "inputs": [{"key": _INPUT_NAME, "value": black}]}
        ],
    }


def text_format(fields: Mapping[str, Any], indent: str = "") -> str:
    """Write fields in protobuf's text format.

    Args:
        fields: Name -> text, number, truth, mapping (a message), or a list of these (a repeated field).
        indent: Put before each line.

    Example:
        >>> print(text_format({"name": "a", "input": [{"dims": [2, 3], "zero": True}]}), end="")
        name: "a"
        input {
          dims: [2, 3]
          zero: true
        }
    """
    lines = []
    for name, value in fields.items():
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        if is_list and not any(isinstance(item, Mapping) for item in value):
            lines.append(f"{indent}{name}: [{', '.join(map(_scalar, value))}]\n")
            continue
        for item in value if is_list else [value]:
            if isinstance(item, Mapping):
                lines.append(f"{indent}{name} {{\n{text_format(item, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # JSON's escapes are among those of the text format, and no name of ours has a character that differs.
    return json.dumps(value) if isinstance(value, str) and not isinstance(value, _Word) else str(value)
