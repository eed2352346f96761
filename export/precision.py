"""Which parts of a graph compute in half precision: the one place that says so.

With fp16 the networks (encoder, what the base method trains, the regressor's convolutions) are halved in
PyTorch; a base method may name the parts of it that are (`BaseMethod.half_parts`). All else is written in
fp32 where it stands: normalisation, distances, the softmax of attention, the regressor from its mean on,
alignment, smoothing and the score. What networks sum up inside (squeeze and excitation, layer norms) is put
into fp32 in the ONNX graph. Types are explicit everywhere: TensorRT 11 knows
only strongly typed networks.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from cada_edge.trainer.aligner import Regressor
from cada_edge.trainer.model import TrainedModel

if TYPE_CHECKING:
    import onnx

__all__ = ["FP32_OPERATORS", "fold_batch_norms", "halve", "put_sums_into_fp32"]

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

_NORMALISING = ("GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization")

FP32_OPERATORS = frozenset(
    (
        *(f"Reduce{kind}" for kind in _REDUCTIONS),
        *_NORMALISING,
        "GlobalAveragePool",
        "LogSoftmax",
        "Softmax",
    )
)
"""ONNX operators that see many values at once: half precision would overflow on their sums, or swallow small
ones."""

_FOLDABLE: tuple[type[nn.Module], ...] = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    Conv2dSame,
)
"""Exact types: a subclass may do more with its weights, as standardise them. timm's Conv2dSame only pads."""


class _ThenHalf(nn.Module):
    """A module in fp32 before the rest of its network in half precision."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> Tensor:
        """Give the module's features of float32 inputs as float16."""
        features: Tensor = self.module(inputs)
        return features.half()


def halve(model: TrainedModel) -> torch.dtype:
    """Put a model's networks into half precision, in place; all around them stays in fp32.

    Args:
        model: In eval mode, on the CPU, in fp32.

    Returns:
        The type in which its base method takes images.
    """
    example = torch.zeros(1, model.scorer.size, model.scorer.size, 3, dtype=torch.uint8)
    folded = fold_batch_norms(model, example)
    parts = model.base.half_parts()
    if any(part is model.base for part in parts):
        model.base.half()
        for module in model.modules():
            if isinstance(module, Regressor):
                module.convolutions.half()
        return torch.float16
    # The first convolution sees three channels: the roundings of pixels and of its few weights do not average
    # out. They were most of the error of UniAD's maps, and it is a small part of the network.
    network = model.base.encoder.network
    first = next(item for item in network.modules() if isinstance(item, nn.Conv2d) and item.in_channels == 3)
    stem = (first, folded.get(first, first))
    kept = {name: copy.deepcopy(item) for name, item in network.named_modules() if item in stem}
    for part in parts:
        part.half()
    *others, last = kept
    for name in others:
        network.set_submodule(name, kept[name])
    network.set_submodule(last, _ThenHalf(kept[last]))
    return torch.float32


def fold_batch_norms(model: nn.Module, example: Tensor) -> dict[nn.Module, nn.Module]:
    """Turn batch norms in eval mode into scale and shift, in the convolution before where there is one.

    Each weight is then rounded to half precision once, after the product, and a variance over 65504, which
    half precision cannot hold, never gets there. Modules stay where they are; folded norms become the
    identity.

    Args:
        model: In eval mode and fp32; changed in place.
        example: An input of the model; one run shows which convolution feeds which norm.

    Returns:
        Convolution -> the norm that was folded into it.
    """
    feeds: dict[nn.Module, set[nn.Module]] = {}
    calls: dict[nn.Module, int] = {}
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor is kept so that its id stays its own

    def note_output(module: nn.Module, inputs: Any, output: Tensor) -> None:
        made[id(output)] = (module, output)
        calls[module] = calls.get(module, 0) + 1

    def note_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        maker = made.get(id(inputs[0]), (module, None))[0]
        feeds.setdefault(module, set()).add(maker)
        feeds.setdefault(maker, set()).add(module)
        calls[module] = calls.get(module, 0) + 1

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(note_input) for norm in norms]
    convolutions = [module for module in model.modules() if type(module) in _FOLDABLE]
    handles += [module.register_forward_hook(note_output) for module in convolutions]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    folded: dict[nn.Module, nn.Module] = {}
    for norm in norms:
        scale, shift = _neutralise(norm)
        maker = next(iter(feeds.get(norm, {norm})))
        is_pair = maker is not norm and feeds[norm] == {maker} and feeds[maker] == {norm}
        if is_pair and calls[maker] == calls[norm] and _fold(maker, scale, shift):
            folded[maker] = norm
            continue
        norm.weight = nn.Parameter(scale.float(), requires_grad=False)
        norm.bias = nn.Parameter(shift.float(), requires_grad=False)
    return folded


def _neutralise(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return a norm's scale and shift, float64 (C,), and make it the identity."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, deviation = norm.running_mean.double(), (norm.running_var.double() + norm.eps).sqrt()
    weight = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    bias = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    scale = weight / deviation
    norm.running_mean = torch.zeros_like(norm.running_mean)
    norm.running_var = torch.ones_like(norm.running_var)
    norm.eps = 0.0
    norm.weight = nn.Parameter(torch.ones_like(norm.running_mean), requires_grad=False)
    norm.bias = nn.Parameter(torch.zeros_like(norm.running_mean), requires_grad=False)
    return scale, bias - mean * scale


def _fold(convolution: nn.Module, scale: Tensor, shift: Tensor) -> bool:
    """Put scale and shift (C,) into a convolution's weights; False where its layout does not allow it."""
    assert isinstance(convolution, (nn.Conv2d, nn.ConvTranspose2d))
    is_transposed = isinstance(convolution, nn.ConvTranspose2d)
    if is_transposed and convolution.groups > 1:
        return False
    # Weights are (C_out, C_in / groups, h, w), transposed ones (C_in, C_out, h, w).
    shape = (1, -1, 1, 1) if is_transposed else (-1, 1, 1, 1)
    weight = convolution.weight.detach().double() * scale.reshape(shape)
    bias = shift if convolution.bias is None else convolution.bias.detach().double() * scale + shift
    convolution.weight = nn.Parameter(weight.float(), requires_grad=False)
    convolution.bias = nn.Parameter(bias.float(), requires_grad=False)
    return True


def put_sums_into_fp32(model: onnx.ModelProto) -> list[str]:
    """Surround each of `FP32_OPERATORS` that computes in half precision with casts, in place.

    Args:
        model: With the types of its intermediate values.

    Returns:
        Names of the nodes that were changed.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    typed = (*graph.value_info, *graph.input, *graph.output)
    halves |= {value.name for value in typed if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes: list[onnx.NodeProto] = []
    changed = []

    def cast(source: str, target: str, to: int) -> None:
        nodes.append(helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=to))

    for node in graph.node:
        concerned = [name for name in node.input if name in halves]
        if node.op_type not in FP32_OPERATORS or not concerned:
            nodes.append(node)
            continue
        changed.append(node.name)
        for index, name in enumerate(node.input):
            if name in halves:
                node.input[index] = f"{node.name}_{index}_fp32"
                cast(name, node.input[index], TensorProto.FLOAT)
        nodes.append(node)
        for index, name in enumerate(list(node.output)):
            if name in halves:
                node.output[index] = f"{name}_fp32"
                cast(node.output[index], name, TensorProto.FLOAT16)
    del graph.node[:]
    graph.node.extend(nodes)
    return changed
