"""Our config.pbtxt, read by protobuf into the message type of Triton's published schema."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, text_format

from cada_edge.engine_build import EngineBuild
from cada_edge.export import triton_config
from cada_edge.manifest import Manifest

_SCHEMA = Path(__file__).parents[1] / "data" / "triton" / "model_config-2.73.0.json"


@pytest.fixture(scope="session")
def model_config_type() -> Any:
    """`inference.ModelConfig` of tritonclient 2.73.0."""
    record = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(json_format.ParseDict(record, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def read_config(text: str, model_config_type: Any) -> dict[str, Any]:
    """Parse a config; fields that are not in the schema, or of another type, are errors."""
    message = text_format.Parse(text, model_config_type())
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found


def _manifest(**values: Any) -> Manifest:
    fields: dict[str, Any] = {
        "model_file": "model.onnx", "model_sha256": "0" * 64, "format": "onnx", "precision": "fp16",
        "base": "uniad", "encoder": "resnet18", "input_hw": (224, 224), "resize": "area-linear",
        "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "alignment": "cada", "range_floor": 0.1,
        "upsampling": "centred", "smoothing": {}, "top_fraction": 0.01, "checkpoint_sha256": "0" * 64,
        "data_fingerprint": "0" * 64, "recipe": "industrial", "created_at": "", "versions": {},
    }  # fmt: skip
    return Manifest(**{**fields, **values})


def _expected(name: str, height: int, width: int, **others: Any) -> dict[str, Any]:
    # As protobuf's JSON writes them: 64-bit numbers as texts, and an empty shape left out of its message.
    dims = [str(height), str(width), "3"]
    return {
        "name": name,
        "input": [{"name": "frames", "data_type": "TYPE_UINT8", "dims": dims}],
        "output": [
            {"name": "score", "data_type": "TYPE_FP32", "dims": ["1"], "reshape": {}},
            {"name": "anomaly_map", "data_type": "TYPE_FP32", "dims": ["224", "224"]},
            {"name": "stats", "data_type": "TYPE_FP32", "dims": ["2"]},
        ],
        "model_warmup": [
            {
                "name": "black",
                "batch_size": 1,
                "inputs": {"frames": {"data_type": "TYPE_UINT8", "dims": dims, "zero_data": True}},
            }
        ],
        **others,
    }


def test_every_field_of_an_onnx_models_config(model_config_type: Any) -> None:
    fields = triton_config.model_config("line-3.b", _manifest(), max_batch=16, queue_delay_us=2000)
    assert read_config(triton_config.text_format(fields), model_config_type) == _expected(
        "line-3.b",
        224,
        224,
        backend="onnxruntime",
        platform="onnxruntime_onnx",
        max_batch_size=16,
        default_model_filename="model.onnx",
        dynamic_batching={"max_queue_delay_microseconds": "2000"},
    )


def test_every_field_of_an_engines_config_with_the_cameras_frames(model_config_type: Any) -> None:
    build = EngineBuild("tensorrt", "10.3.0", ("8.7",), "none", (1, 4, 8), True)
    manifest = dataclasses.replace(_manifest(), format="engine", engine=build, frame_hw=(1080, 1920))
    fields = triton_config.model_config("cada_edge", manifest, max_batch=8, queue_delay_us=500)
    assert read_config(triton_config.text_format(fields), model_config_type) == _expected(
        "cada_edge",
        1080,
        1920,
        backend="tensorrt",
        platform="tensorrt_plan",
        max_batch_size=8,
        default_model_filename="model.engine",
        dynamic_batching={"max_queue_delay_microseconds": "500"},
    )


def test_texts_are_escaped_as_protobuf_reads_them(model_config_type: Any) -> None:
    name = 'a "b" \\ c\n\u00e9'
    assert read_config(triton_config.text_format({"name": name}), model_config_type) == {"name": name}


def test_the_schema_refuses_what_it_does_not_know(model_config_type: Any) -> None:
    for fields in ({"nam": "a"}, {"max_batch_size": "16"}, {"input": [{"dims": ["x"]}]}):
        with pytest.raises(text_format.ParseError):
            read_config(triton_config.text_format(fields), model_config_type)
