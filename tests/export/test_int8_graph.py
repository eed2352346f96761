"""Which convolutions are taken, on a graph of four made by hand, and what the check refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cada_edge.errors import BackendError
from cada_edge.export.int8_graph import (
    check_quantized,
    input_convolutions,
    multiplications,
    network_convolutions,
    read_through_int8,
)
from cada_edge.export.quantize import quantize_all

CHOSEN = {"second": "model.base.second.weight", "up": "model.base.up.weight"}


def _graph() -> onnx.ModelProto:
    """Build normalise -> first -> relu -> second -> up -> regressor, and the mean of each feature."""
    rng = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    constants = [
        constant("model.normalize.weight", 3, 3, 1, 1),
        constant("model.base.first.weight", 4, 3, 3, 3),
        constant("model.base.second.weight", 6, 4, 3, 3),
        constant("model.base.second.bias", 6),
        constant("model.base.up.weight", 6, 5, 2, 2),
        constant("model.regressor.weight", 2, 5, 1, 1),
        constant("model.head", 2, 7),
    ]
    same: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Cast", ["frames"], ["floats"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], "planes", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", constants[0].name], ["images"], "normalise"),
        helper.make_node("Conv", ["images", constants[1].name], ["a"], "first", **same),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", constants[2].name, constants[3].name], ["c"], "second", **same),
        helper.make_node("ConvTranspose", ["c", constants[4].name], ["d"], "up", strides=[2, 2]),
        helper.make_node("Conv", ["d", constants[5].name], ["e"], "regressor"),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], "pool"),
        helper.make_node("Flatten", ["f"], ["g"], "flatten"),
        helper.make_node("MatMul", ["g", "model.head"], ["score"], "head"),
        # An island: it reads what two convolutions of the networks read, too.
        helper.make_node("Mul", ["b", "b"], ["anomaly_map"], "squares"),
        helper.make_node("Neg", ["c"], ["stats"], "negative"),
    ]
    kinds = {
        "frames": TensorProto.UINT8, **dict.fromkeys(("score", "anomaly_map", "stats"), TensorProto.FLOAT)
    }  # fmt: skip
    shapes: dict[str, list[int | str]] = {
        "frames": ["batch", 8, 8, 3], "score": ["batch", 7], "anomaly_map": ["batch", 4, 8, 8],
        "stats": ["batch", 6, 8, 8],
    }  # fmt: skip
    values = {name: helper.make_tensor_value_info(name, kinds[name], shapes[name]) for name in kinds}
    outputs = [values[name] for name in ("score", "anomaly_map", "stats")]
    graph = helper.make_graph(nodes, "graph", [values["frames"]], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def _frames() -> Iterator[NDArray[np.uint8]]:
    rng = np.random.default_rng(1)
    for _ in range(16):
        yield rng.integers(0, 256, (1, 8, 8, 3), np.uint8)


@pytest.fixture
def original() -> onnx.ModelProto:
    return _graph()


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    folder = tmp_path_factory.mktemp("quantised")
    onnx.save(_graph(), folder / "graph.onnx")
    return quantize_all(folder / "graph.onnx", _frames(), folder)


def test_convolutions_of_the_networks_are_told_by_their_weights(original: onnx.ModelProto) -> None:
    assert network_convolutions(original) == {"first": "model.base.first.weight", **CHOSEN}
    assert input_convolutions(original) == {"first"}
    for node in original.graph.node:
        node.name = f"renamed_{node.name}"
    assert list(network_convolutions(original)) == ["renamed_first", "renamed_second", "renamed_up"]


def test_other_weights_are_not_taken(original: onnx.ModelProto) -> None:
    """Half precision, and weights that the graph computes."""
    by_name = {tensor.name: tensor for tensor in original.graph.initializer}
    second = by_name["model.base.second.weight"]
    second.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(second).astype(np.float16), second.name))
    original.graph.initializer.remove(by_name["model.base.up.weight"])
    assert list(network_convolutions(original)) == ["first"]


def test_multiplications(original: onnx.ModelProto) -> None:
    assert multiplications(original) == {
        "normalise": 9 * 64, "first": 4 * 27 * 64, "second": 6 * 36 * 64, "up": 6 * 20 * 64,
        "regressor": 2 * 5 * 256, "head": 14,
    }  # fmt: skip


def test_everything_else_reads_what_it_read(original: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
    model = read_through_int8(original, quantized, CHOSEN)
    onnx.checker.check_model(model, full_check=True)
    check_quantized(model, CHOSEN)
    before = {node.name: node for node in original.graph.node}
    after = {node.name: node for node in model.graph.node}
    for name in before.keys() - CHOSEN.keys():
        assert list(after[name].input) == list(before[name].input)
    assert after["second"].input[2] == "model.base.second.bias"
    added = [node.op_type for node in model.graph.node if node.name not in before]
    assert sorted(added) == ["DequantizeLinear"] * 4 + ["QuantizeLinear"] * 2
    names = {tensor.name for tensor in model.graph.initializer}
    # fp32 weights of what is in INT8 are gone; those that others read have come back.
    assert not set(CHOSEN.values()) & names
    assert {"model.base.first.weight", "model.regressor.weight"} <= names


def test_only_the_weights_and_the_input_are_rounded(
    original: onnx.ModelProto, quantized: onnx.ModelProto
) -> None:
    """By hand: round input and weights of `second` with the scales of their largest values."""
    frames = np.concatenate(list(_frames()))
    whole = onnx.ModelProto()
    whole.CopyFrom(original)
    whole.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, None))
    features = _run(whole, frames, "b")
    scale = np.abs(features).max() / 127
    rounded = np.clip(np.rint(features / scale), -128, 127) * scale
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in original.graph.initializer}
    kernel = weights["model.base.second.weight"]
    scales = np.abs(kernel).max((1, 2, 3), keepdims=True) / 127
    kernel = np.rint(kernel / scales) * scales
    padded = np.pad(rounded, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    wanted = (
        np.einsum("nchwij,ocij->nohw", windows, kernel) + weights["model.base.second.bias"][:, None, None]
    )
    model = read_through_int8(original, quantized, ["second"])
    np.testing.assert_allclose(_run(model, frames, "stats"), -wanted, atol=2e-2 * np.abs(wanted).max())
    error = np.abs(_run(model, frames, "stats") + wanted).max()
    assert error < 0.25 * np.abs(_run(original, frames, "stats") + wanted).max()
    np.testing.assert_array_equal(_run(model, frames, "anomaly_map"), _run(original, frames, "anomaly_map"))


def _run(model: onnx.ModelProto, frames: NDArray[np.uint8], output: str) -> NDArray[np.float32]:
    session: Any = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run([output], {"frames": frames})[0]
    return result


def test_another_zero_point_is_refused(original: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
    """Unsigned values are what TensorRT would take for signed ones, with a mere warning."""
    for value in (np.uint8(0), np.int8(1)):
        model = read_through_int8(original, quantized, CHOSEN)
        quantiser = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
        zero = next(tensor for tensor in model.graph.initializer if tensor.name == quantiser.input[2])
        zero.CopyFrom(numpy_helper.from_array(np.asarray(value), zero.name))
        with pytest.raises(
            BackendError, match=r"has another zero point than 0 in INT8.*pip install --upgrade"
        ):
            check_quantized(model, CHOSEN)
    model = read_through_int8(original, quantized, CHOSEN)
    quantiser = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    del quantiser.input[2]  # the default is UINT8
    with pytest.raises(BackendError, match="has another zero point than 0 in INT8"):
        check_quantized(model, CHOSEN)


def test_a_quantiser_elsewhere_is_refused(original: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
    model = read_through_int8(original, quantized, CHOSEN)
    squares = next(node for node in model.graph.node if node.name == "squares")
    second = next(node for node in model.graph.node if node.name == "second")
    squares.input[1] = second.input[0]
    with pytest.raises(BackendError, match="Mul squares reads Relu, DequantizeLinear"):
        check_quantized(model, CHOSEN)
    with pytest.raises(BackendError, match=r"Conv first reads Conv.*before 3 convolutions and nowhere else"):
        check_quantized(read_through_int8(original, quantized, CHOSEN), [*CHOSEN, "first"])
    with pytest.raises(BackendError, match="other is gone"):
        check_quantized(read_through_int8(original, quantized, CHOSEN), [*CHOSEN, "other"])


def test_what_the_quantiser_refuses_is_named(tmp_path: Path) -> None:
    onnx.save(_graph(), tmp_path / "graph.onnx")
    with pytest.raises(BackendError, match=r"cannot quantise .*graph.onnx: .* with --precision fp32"):
        quantize_all(tmp_path / "graph.onnx", iter(()), tmp_path)
