"""Which convolutions of an exported graph compute in INT8: the one place that says so.

Only convolutions of the networks do. In the exported graph they are told by their weights, whose names are
the modules' paths: `model.base.` is what the base method is made of, and nothing else is. Each chosen
convolution reads its input through its own QuantizeLinear and DequantizeLinear, and its weights through a
DequantizeLinear; every other node reads what it reads in the fp32 graph. So what enters distances, sums of
residual blocks, alignment and score was never rounded to 8 bits, biases stay in fp32, and every engine finds
the same pattern before each convolution: OpenVINO on the CPU, and TensorRT, which takes signed values without
zero points alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from cada_edge.errors import BackendError

if TYPE_CHECKING:
    import onnx

__all__ = [
    "check_quantized",
    "input_convolutions",
    "multiplications",
    "network_convolutions",
    "read_through_int8",
]

_NETWORKS = "model.base."
"""Prefix of the weights of `FusedGraph.model.base`."""

_QUANTIZING = ("QuantizeLinear", "DequantizeLinear")


def network_convolutions(model: onnx.ModelProto) -> dict[str, str]:
    """Find the convolutions of the networks, in the graph's order.

    Args:
        model: An exported graph in fp32.

    Returns:
        Name of the node -> name of its weights.
    """
    from onnx import TensorProto

    constants = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return {
        node.name: node.input[1]
        for node in model.graph.node
        if node.op_type in ("Conv", "ConvTranspose")
        and node.input[1] in constants
        and node.input[1].startswith(_NETWORKS)
    }


def input_convolutions(model: onnx.ModelProto) -> frozenset[str]:
    """Find the convolutions of the networks that see the image itself, before any other one of theirs.

    Args:
        model: An exported graph in fp32.

    Returns:
        Names of the nodes.
    """
    networks = network_convolutions(model)
    after: set[str] = set()  # values that some convolution of the networks leads to
    found = []
    for node in model.graph.node:  # sorted: what a node reads was made before
        is_after = bool(after & set(node.input))
        if node.name in networks and not is_after:
            found.append(node.name)
        if is_after or node.name in networks:
            after |= set(node.output)
    return frozenset(found)


def multiplications(model: onnx.ModelProto) -> dict[str, int]:
    """Count the multiplications that each convolution and matrix product does for one frame.

    Args:
        model: An exported graph, with the shapes of its intermediate values.

    Returns:
        Name of the node -> multiplications.
    """
    shapes: dict[str, list[int]] = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        # The batch has no number: it counts as one frame.
        shapes[value.name] = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    counts = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            counts[node.name] = math.prod(shapes[node.input[1]]) * math.prod(shapes[node.output[0]][2:])
        elif node.op_type == "ConvTranspose":
            counts[node.name] = math.prod(shapes[node.input[1]]) * math.prod(shapes[node.input[0]][2:])
        elif node.op_type in ("MatMul", "Gemm"):
            counts[node.name] = math.prod(shapes[node.output[0]]) * _inner(shapes[node.input[0]], node)
    return counts


def _inner(shape: list[int], node: onnx.NodeProto) -> int:
    """Return the length of the dimension that a matrix product sums over."""
    is_turned = any(item.name == "transA" and item.i for item in node.attribute)
    return shape[0] if is_turned else shape[-1]


def read_through_int8(
    original: onnx.ModelProto, quantized: onnx.ModelProto, chosen: Collection[str]
) -> onnx.ModelProto:
    """Let the chosen convolutions compute in INT8 and put everything else back to what the fp32 graph does.

    Args:
        original: The fp32 graph.
        quantized: The same graph after `onnxruntime.quantization.quantize_static`.
        chosen: Names of convolutions that are quantised there.

    Returns:
        A new graph.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    graph = model.graph
    before = {node.name: node for node in original.graph.node}
    for node in graph.node:
        if node.name in before and node.name not in chosen:
            node.input[:] = before[node.name].input
    nodes = _needed(graph.node, [output.name for output in graph.output])
    read = {name for node in nodes for name in node.input}
    constants = {tensor.name: tensor for tensor in (*original.graph.initializer, *graph.initializer)}
    kept = [tensor for name, tensor in constants.items() if name in read]
    made = {name for node in nodes for name in node.output}
    values = [value for value in original.graph.value_info if value.name in made]
    new_graph = onnx.helper.make_graph(
        nodes, graph.name, list(graph.input), list(graph.output), kept, value_info=values
    )
    model.graph.CopyFrom(new_graph)
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    return model


def _needed(nodes: Iterable[onnx.NodeProto], outputs: Collection[str]) -> list[onnx.NodeProto]:
    """Leave out nodes whose results nobody reads."""
    wanted = set(outputs)
    kept = []
    for node in reversed(list(nodes)):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]


def check_quantized(model: onnx.ModelProto, chosen: Collection[str]) -> None:
    """Walk a graph and refuse quantisers anywhere but before the chosen convolutions, or of another kind.

    Args:
        model: What `read_through_int8` made.
        chosen: Names of the convolutions in INT8.

    Raises:
        BackendError: A zero point that is not INT8 and 0, a quantiser elsewhere, or a convolution without.
    """
    from onnx import TensorProto, numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    wrong = []
    for node in model.graph.node:
        if node.op_type in _QUANTIZING:
            zero = constants.get(node.input[2]) if len(node.input) > 2 else None
            if zero is None or zero.data_type != TensorProto.INT8 or numpy_helper.to_array(zero).any():
                wrong.append(f"{node.name} has another zero point than 0 in INT8")
            continue
        kinds = [makers[name].op_type if name in makers else "" for name in node.input]
        wanted = ["DequantizeLinear"] * 2 if node.name in chosen else []
        if (wanted and kinds[:2] != wanted) or "DequantizeLinear" in kinds[len(wanted) :]:
            wrong.append(f"{node.op_type} {node.name} reads {', '.join(filter(None, kinds)) or 'constants'}")
    missing = sorted(set(chosen) - {node.name for node in model.graph.node})
    wrong += [f"{name} is gone" for name in missing]
    if wrong:
        import onnxruntime

        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} quantised the graph in another way than was asked for: "
            f"{'; '.join(wrong[:3])}. Wanted INT8 values with the zero point 0 before {len(chosen)} "
            "convolutions and nowhere else. Upgrade it with: pip install --upgrade onnxruntime"
        )
