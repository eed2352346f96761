"""What computes in half precision and what does not, read from the exported graph, and what that costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from cada_edge.export.graph import FusedGraph
from cada_edge.export.precision import FP32_OPERATORS, fold_batch_norms, put_sums_into_fp32
from cada_edge.export.reference import reference_of, run_torch
from cada_edge.manifest import Manifest
from cada_edge.runtime.backend import Outputs
from cada_edge.runtime.parity import replay
from cada_edge.trainer.aligner import build_aligner
from cada_edge.trainer.base_method import configure
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.config import BASES
from cada_edge.trainer.model import TrainedModel, build_model

WHOLE_CONVOLUTIONS = {"revdist": 1, "recontrast": 1, "uniad": 3}
"""In fp32: the normalisation; with UniAD also the encoder's first convolution and the regressor's."""

HALF_OPERATORS = {
    "Add", "Cast", "Concat", "Conv", "ConvTranspose", "Expand", "Gelu", "Gemm", "HardSigmoid", "HardSwish",
    "Identity", "MatMul", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Sigmoid", "Slice", "Transpose",
    "Unsqueeze",
}  # fmt: skip
"""Sums over a convolution's window or a row of a matrix, which GPUs accumulate in fp32, and what works pixel
by pixel without growing."""


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every value."""
    typed = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in typed}
    types.update({tensor.name: tensor.data_type for tensor in model.graph.initializer})
    for node in model.graph.node:
        if node.op_type == "Cast":
            types[node.output[0]] = next(item.i for item in node.attribute if item.name == "to")
    # Around the casts that `put_sums_into_fp32` adds, types are not stored: the operators keep their input's.
    for node in model.graph.node:
        if node.output[0] not in types:
            assert node.op_type in FP32_OPERATORS
            types[node.output[0]] = types[node.input[0]]
    return types


@pytest.mark.parametrize("base", list(BASES))
def test_networks_are_half_and_all_around_them_is_fp32(
    base: str, checkpoint_of: Callable[[str], Path], graph_of: Callable[..., Path]
) -> None:
    path = graph_of(base, "fp16")
    model = onnx.load(path)
    types = _types(model)
    halves: dict[str, int] = defaultdict(int)
    wholes: dict[str, int] = defaultdict(int)
    for node in model.graph.node:
        kinds = {types[name] for name in (*node.input, *node.output) if name}
        if node.op_type != "Cast":
            assert not {TensorProto.FLOAT, TensorProto.FLOAT16} <= kinds, f"{node.op_type} mixes types"
        counted = halves if TensorProto.FLOAT16 in kinds else wholes
        counted[node.op_type] += 1
    assert set(halves) <= HALF_OPERATORS, sorted(set(halves) - HALF_OPERATORS)
    assert not FP32_OPERATORS & set(halves)
    # The regressor's linear layers and the top-k are in fp32.
    assert wholes["Conv"] == WHOLE_CONVOLUTIONS[base]
    assert halves["Conv"] >= 14
    assert wholes["TopK"] == 1
    assert wholes["Gemm"] == 2
    assert "BatchNormalization" not in halves
    # Two products for each distance map: the upsampling, which is also the smoothing.
    grid = load_checkpoint(checkpoint_of(base)).model.base.map_grid(64)
    assert wholes["MatMul"] >= 2 * len(grid)
    first = [node for node in model.graph.node if "frames" in node.input]
    assert [node.op_type for node in first] == ["Cast"]
    assert {types[output.name] for output in model.graph.output} == {TensorProto.FLOAT}
    assert not any(node.op_type == "Erf" for node in model.graph.node)
    # The export has replayed black, white and noise, none of it infinite.
    parity = Manifest.read(path).parity
    assert parity is not None
    assert parity.max_score_difference <= parity.score_limit


@pytest.mark.parametrize("base", list(BASES))
def test_arithmetic_in_half_precision_stays_within_the_limit(
    base: str, checkpoint_of: Callable[[str], Path]
) -> None:
    """PyTorch rounds after every operator; a CPU engine may compute fp16 graphs in fp32 throughout."""
    checkpoint = load_checkpoint(checkpoint_of(base))
    graph = FusedGraph(checkpoint.model, precision="fp16")

    def infer(frames: np.ndarray) -> Outputs:
        with torch.inference_mode():
            score, maps, stats = (output.numpy() for output in graph(torch.from_numpy(frames)))
        assert score.dtype == maps.dtype == stats.dtype == np.float32
        return Outputs(score, maps, stats)

    parity = replay(infer, reference_of(checkpoint), precision="fp16", backend="torch")
    assert 0 < parity.max_score_difference <= parity.score_limit


def _wide_model(scale: float) -> TrainedModel:
    """An untrained WideResNet-50 whose features are large, with batch statistics that fit them."""
    config = configure({"encoder": "wide_resnet50_2", "encoder_weights": "random", "size": 64})
    model, _ = build_model(config, encoder_weights="random")
    regressor = build_aligner("cada", model.base.bottleneck_channels, config.aligner, {})
    model = TrainedModel(model.base, regressor, config, floor=0.05)
    for module in model.base.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data *= 1.2
    first = next(item for item in model.base.encoder.modules() if isinstance(item, nn.BatchNorm2d))
    first.weight.data *= scale
    learned = [item for item in model.modules() if isinstance(item, nn.BatchNorm2d)]
    for norm in learned:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(torch.from_numpy(_frames()))
    return model.eval()


def _frames() -> np.ndarray:
    rng = np.random.default_rng(0)
    frames = np.empty((8, 64, 64, 3), np.uint8)
    frames[0], frames[1] = 0, 255
    for index in range(2, 8):
        coarse = rng.integers(0, 256, (2**index // 4 or 1, 2**index // 4 or 1, 3), np.uint8)
        repeats = 64 // len(coarse)
        frames[index] = coarse.repeat(repeats, 0).repeat(repeats, 1)
    return frames


def test_large_activations_do_not_overflow() -> None:
    model = _wide_model(3e3)
    frames = _frames()
    with torch.inference_mode():
        features = model.base.encoder(model.normalize(torch.from_numpy(frames)))
        norms = [item for item in model.base.modules() if isinstance(item, nn.BatchNorm2d)]
    assert 5e3 < max(float(feature.abs().max()) for feature in features) < 6e4
    variances = [float(item.running_var.max()) for item in norms if item.running_var is not None]
    assert max(variances) > 65504  # half precision could not hold it
    wanted = run_torch(model, frames)
    graph = FusedGraph(model, precision="fp16")
    with torch.inference_mode():
        found = [output.numpy() for output in graph(torch.from_numpy(frames))]
    low, high = np.percentile(wanted[0], [5, 95])
    assert all(np.isfinite(values).all() for values in found)
    difference = np.abs(found[0] - wanted[0]) / np.maximum(1, np.abs(wanted[0]))
    assert difference.max() <= 2e-3 * (high - low)


class _Network(nn.Module):
    """Norms after convolutions, a transposed one and an addition, and one output used by two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.same_norm = Conv2dSame(3, 3, 3, stride=2, bias=False), nn.BatchNorm2d(3)
        self.first, self.first_norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.up, self.up_norm = nn.ConvTranspose2d(4, 6, 2, 2), nn.BatchNorm2d(6, affine=False)
        self.grouped, self.grouped_norm = nn.ConvTranspose2d(6, 6, 2, groups=2), nn.BatchNorm2d(6)
        self.sum_norm = nn.BatchNorm2d(6)
        self.shared, self.one, self.two = nn.Conv2d(6, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.same_norm(self.same(x))
        x = self.up_norm(self.up(self.first_norm(self.first(x))))
        x = self.grouped_norm(self.grouped(x))
        x = self.sum_norm(x + 1)
        shared = self.shared(x)
        return torch.cat([self.one(shared), self.two(shared)], 1)


def test_folded_norms_change_nothing() -> None:
    torch.manual_seed(0)
    network = _Network()
    for item in network.modules():
        if isinstance(item, nn.BatchNorm2d):
            assert item.running_mean is not None
            assert item.running_var is not None
            item.running_mean.normal_()
            item.running_var.uniform_(0.5, 2e5)
            if item.affine:
                nn.init.normal_(item.weight)
                nn.init.normal_(item.bias)
    network.eval()
    images = torch.randn(2, 3, 12, 12)
    wanted = network(images)
    kept = network.shared.weight.clone()
    assert fold_batch_norms(network, torch.zeros(1, 3, 12, 12)) == {
        network.same: network.same_norm,
        network.first: network.first_norm,
        network.up: network.up_norm,
    }
    torch.testing.assert_close(network(images), wanted, rtol=1e-5, atol=1e-6)
    # Folded: the convolution's own scale has gone, and the norm is the identity.
    for norm in (network.first_norm, network.up_norm):
        probe = torch.randn(1, norm.num_features, 3, 3)
        assert torch.equal(norm(probe), probe)
    assert torch.equal(network.shared.weight, kept)
    assert not any(handle for item in network.modules() for handle in item._forward_pre_hooks)
    for item in network.modules():
        if isinstance(item, nn.BatchNorm2d):
            assert item.running_var is not None
            assert float(item.running_var.max()) == 1.0


def test_sums_in_half_precision_get_casts() -> None:
    half, whole = TensorProto.FLOAT16, TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], name="mean", keepdims=1),
            helper.make_node("Mul", ["x", "mean"], ["y"], name="gate"),
            helper.make_node("LayerNormalization", ["y", "weight"], ["z"], name="norm"),
        ],
        "sums",
        [helper.make_tensor_value_info("x", half, [2, 70000])],
        [helper.make_tensor_value_info("z", half, [2, 70000])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
            helper.make_tensor("weight", half, [70000], np.ones(70000, np.float16)),
        ],
        value_info=[
            helper.make_tensor_value_info("mean", half, [2, 1]),
            helper.make_tensor_value_info("y", half, [2, 70000]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert put_sums_into_fp32(model) == ["mean", "norm"]
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    made = {node.name: node for node in model.graph.node}
    assert types[made["mean"].output[0]] == types[made["norm"].output[0]] == whole
    assert (types["mean"], types["y"]) == (half, half)
    assert put_sums_into_fp32(model) == []
