"""Which convolutions are given up: the fewest multiplications that bring the scores within the limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cada_edge.errors import CheckFailedError
from cada_edge.export.quantize import quantize_all, quantize_within_limits
from cada_edge.runtime.parity import Reference, differences, limits

SIDE = 8


def _graph(*, outlier: float) -> onnx.ModelProto:
    """Four convolutions in a row; the third one's input has a channel that is larger than all others.

    Its weights of that channel are nearly 0, so that nothing of it is left but the range: 8 bits over it lose
    what the other channels hold.
    """
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(4, 4, 3, 3)) / 6 for name in ("second", "third", "fourth")}
    weights["first"] = rng.normal(size=(4, 3, 3, 3)) / 700
    weights["second"][0] *= outlier
    weights["third"][:, 0] /= outlier
    constants = [
        numpy_helper.from_array(kernel.astype(np.float32), f"model.base.{name}.weight")
        for name, kernel in weights.items()
    ]
    same: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Cast", ["frames"], ["floats"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["v0"], "planes", perm=[0, 3, 1, 2]),
        *(
            helper.make_node("Conv", [f"v{row}", f"model.base.{name}.weight"], [f"v{row + 1}"], name, **same)
            for row, name in enumerate(("first", "second", "third", "fourth"))
        ),
        helper.make_node("ReduceMean", ["v4"], ["anomaly_map"], "map", axes=[1], keepdims=0),
        helper.make_node("ReduceMean", ["anomaly_map"], ["score"], "mean", axes=[1, 2], keepdims=0),
        helper.make_node("ReduceMin", ["anomaly_map"], ["low"], "low", axes=[1, 2], keepdims=0),
        helper.make_node("Sub", ["low", "low"], ["zero"], "zero"),
        helper.make_node("Unsqueeze", ["zero", "last"], ["column"], "column"),
        helper.make_node("Concat", ["column", "column"], ["stats"], "both", axis=1),
    ]
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "last"))
    shapes: dict[str, list[int | str]] = {
        "score": ["batch"], "anomaly_map": ["batch", SIDE, SIDE], "stats": ["batch", 2]
    }  # fmt: skip
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in shapes]
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])
    graph = helper.make_graph(nodes, "graph", [frames], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def _quantize(outlier: float, folder: Path) -> tuple[onnx.ModelProto, onnx.ModelProto, Reference]:
    original = _graph(outlier=outlier)
    onnx.save(original, folder / "graph.onnx")
    # Frames of different brightness, so that the normal scores have a spread.
    light = np.linspace(0.3, 1, 24)[:, None, None, None]
    noise = np.random.default_rng(1).integers(0, 256, (24, SIDE, SIDE, 3))
    frames = (light * noise).astype(np.uint8)
    quantized = quantize_all(folder / "graph.onnx", (frame[None] for frame in frames), folder)
    score, maps, stats = _infer(original, frames)
    label = np.zeros(24, np.int8)
    label[20:], label[23] = 1, -1
    return original, quantized, Reference(frames, score, stats, maps.astype(np.float16), label)


def _infer(model: onnx.ModelProto, frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    session: Any = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(["score", "anomaly_map", "stats"], {"frames": frames})
    return found


def test_all_but_the_first_where_parity_holds(tmp_path: Path) -> None:
    original, quantized, reference = _quantize(1.0, tmp_path)
    found = quantize_within_limits(original, quantized, reference)
    assert found.given_up == ("model.base.first.weight",)
    assert found.int8 == tuple(f"model.base.{name}.weight" for name in ("second", "third", "fourth"))
    assert found.share == pytest.approx(3 * 4 / (3 * 4 + 3))


def test_the_one_that_does_the_harm_is_given_up(tmp_path: Path) -> None:
    original, quantized, reference = _quantize(100.0, tmp_path)
    told: list[tuple[str, int, int]] = []
    found = quantize_within_limits(original, quantized, reference, progress=lambda *step: told.append(step))
    assert found.given_up == ("model.base.first.weight", "model.base.third.weight")
    assert told == [("layers", 1, 3), ("layers", 2, 3), ("layers", 3, 3)]
    assert found.share == pytest.approx(2 * 4 / (3 * 4 + 3))
    from cada_edge.runtime.backend import Outputs

    largest = differences(lambda frames: Outputs(*_infer(found.model, frames)), reference, backend="test")
    allowed = limits("int8", reference)
    assert all(largest[name] <= allowed[name] for name in allowed)


def test_too_little_left_is_refused(tmp_path: Path) -> None:
    original, quantized, reference = _quantize(1.0, tmp_path)
    # Scores that no rounding can give: another model's.
    shifted = Reference(
        reference.frames, reference.score + 9, reference.stats, reference.anomaly_map, reference.label
    )
    with pytest.raises(
        CheckFailedError, match=r"could compute in INT8 within the parity limit; wanted at least 50%"
    ):
        quantize_within_limits(original, quantized, shifted)
