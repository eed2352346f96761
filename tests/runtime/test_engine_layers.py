"""The engine inspector's text, and what is made of it."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cada_edge.errors import BackendError
from cada_edge.runtime.engine_layers import EngineLayer, layers_of, precision_share, read_layers


def layer(name: str, *formats: str, kind: str = "CaskConvolution") -> dict[str, Any]:
    """Write one layer as the inspector does with detailed verbosity."""
    outputs = [
        {"Name": f"{name}_{index}", "Location": "Device", "Dimensions": [1, 64], "Format/Datatype": text}
        for index, text in enumerate(formats)
    ]
    return {"Name": name, "LayerType": kind, "Inputs": [], "Outputs": outputs, "TacticValue": "0x1"}


LAYERS = [
    layer("convolution", "Channel major FP16 format where channel % 8 == 0"),
    layer("generated", "Half", kind="kgen"),
    layer("mixed", "Row major linear FP16 format", "Row major linear FP32"),
    layer("softmax", "Float", kind="kgen"),
    layer("quantised", "Thirty-two wide channel vectorized row major Int8 format"),
    layer("brain", "Row major linear BFloat16 format"),
    layer("shape", "Int64"),
    layer("nothing"),
]


def test_formats_become_precisions() -> None:
    found = layers_of(json.dumps({"Layers": LAYERS, "Bindings": ["frames"]}))
    assert found[0] == EngineLayer("convolution", "CaskConvolution", ("fp16",))
    assert [each.precisions for each in found] == [
        ("fp16",),
        ("fp16",),
        ("fp16", "fp32"),
        ("fp32",),
        ("int8",),
        (),
        (),
        (),
    ]
    assert precision_share(found, "fp16") == 3 / 5


def test_names_alone_tell_no_precision() -> None:
    found = layers_of('{"Layers": ["convolution + relu", "softmax"]}')
    assert found == [EngineLayer("convolution + relu", None, ()), EngineLayer("softmax", None, ())]
    assert precision_share(found, "fp16") is None


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", "{}", '{"Layers": 3}', '{"Layers": [3]}', '{"Layers": [{}]}']
)
def test_another_text_is_no_layer(text: str) -> None:
    assert layers_of(text) == []
    assert precision_share([], "fp16") is None


def test_an_engine_is_opened_for_its_layers_and_closed(
    tiny_engine: Path, tensorrt_double: Any, cuda_double: Any
) -> None:
    tensorrt_double.information = json.dumps({"Layers": LAYERS})
    assert [each.name for each in read_layers(tiny_engine)] == [each["Name"] for each in LAYERS]
    gc.collect()
    assert (cuda_double.held(), tensorrt_double.alive) == (0, [])


@pytest.mark.parametrize("call", ["create_engine_inspector", "get_engine_information"])
def test_an_inspector_that_fails_is_a_typed_error_and_leaves_nothing(
    call: str, tiny_engine: Path, tensorrt_double: Any, cuda_double: Any
) -> None:
    tensorrt_double.fail[call] = None
    with pytest.raises(BackendError, match=r"tensorrt 10\.3\.0 cannot inspect .*tiny.engine"):
        read_layers(tiny_engine)
    gc.collect()
    assert (cuda_double.held(), tensorrt_double.alive) == (0, [])


def test_the_other_module_too(
    tiny_model: Path, as_engine: Callable[..., Path], make_tensorrt_double: Callable[..., Any]
) -> None:
    make_tensorrt_double("tensorrt_rtx", "1.7.1").information = '{"Layers": ["all of it"]}'
    engine = as_engine(tiny_model, target="rtx", tensorrt_version="1.7.1")
    assert read_layers(engine) == [EngineLayer("all of it", None, ())]
