"""Quantisation of an fp32 graph: ranges from good parts, then as many convolutions as parity allows.

Ranges are the smallest and largest value seen (MinMax). On the procedural line that kept the worst score
nearest to PyTorch's, before the 99.99 % and 99.9 % percentiles and the range of the least squared error: what
those clip are the strong features, which decide the cosine, and frames unlike any good part (black, white,
noise) reach beyond the range furthest. Biases stay in fp32, so they need no correction.

The convolutions that see the image itself stay in fp32: 8 bits over the range of a normalised image are
coarser than a camera's grey levels, and a smooth part differs from a flawed one by few of those.

Where parity does not hold with all others, each is quantised alone on a few frames. Errors of that size add
up nearly linearly, so the squared errors tell what each contributes; those that contribute most for their
multiplications are given up, one after the other, until it holds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import BackendError, CheckFailedError
from cada_edge.export.int8_graph import (
    check_quantized,
    input_convolutions,
    multiplications,
    network_convolutions,
    read_through_int8,
)
from cada_edge.runtime.backend import OUTPUT_NAMES, Outputs
from cada_edge.runtime.parity import Reference, differences, limits

if TYPE_CHECKING:
    import onnx

__all__ = ["METHOD", "SMALLEST_SHARE", "Quantized", "quantize_all", "quantize_within_limits"]

_log = logging.getLogger(__name__)

METHOD = "minmax"
"""How a range follows from the values seen."""

SMALLEST_SHARE = 0.5
"""Of the multiplications in INT8. Four times faster ones make a graph with half of them 1.6 times faster at
best, and the casts around them take from that."""

_HEADROOM = 0.8
"""Of the parity limits is what ONNX Runtime may use up here: other engines add up in another order, and a
value on the edge then rounds to the next of the 255."""

_PROBES = 8
"""Frames on which single convolutions are tried."""


class Quantized(NamedTuple):
    """A quantised graph."""

    model: onnx.ModelProto
    """The graph."""
    int8: tuple[str, ...]
    """Weights of the convolutions in INT8."""
    given_up: tuple[str, ...]
    """Weights of the convolutions that stayed in fp32, those of the images first, then in the order in which
    they were given up."""
    share: float
    """Share of the multiplications in INT8, 0-1."""


def quantize_all(graph: Path, frames: Iterable[NDArray[np.uint8]], folder: Path) -> onnx.ModelProto:
    """Quantise all convolutions of the networks with ONNX Runtime.

    Args:
        graph: An exported graph in fp32.
        frames: Batches of good parts, uint8 (N, H, W, 3), BGR, of the graph's size.
        folder: Takes two files of the graph's size.

    Returns:
        What `read_through_int8` chooses from.

    Raises:
        BackendError: ONNX Runtime refuses.
    """
    import onnx
    import onnxruntime
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Gives one batch after the other, then None."""

        def __init__(self, name: str) -> None:
            self._name = name
            self._batches = iter(frames)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {self._name: batch}

    model = onnx.load(graph)
    # Says that the graph is simplified and has its shapes already, as the exporter leaves it.
    for key in ("onnx.infer", "onnx.quant.pre_process"):
        model.metadata_props.append(onnx.StringStringEntryProto(key=key, value="onnxruntime.quant"))
    source, target = folder / "fp32.onnx", folder / "int8.onnx"
    onnx.save(model, source)
    with _quiet_root_logger():
        try:
            quantization.quantize_static(
                source,
                target,
                Reader(model.graph.input[0].name),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "ConvTranspose"],
                nodes_to_quantize=list(network_convolutions(model)),
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "QDQDisableWeightAdjustForInt32Bias": True,
                    "OpTypesToExcludeOutputQuantization": ["Conv", "ConvTranspose"],
                },
            )
        except Exception as error:  # broad: it raises whatever its parts do
            raise BackendError(
                f"onnxruntime {onnxruntime.__version__} cannot quantise {graph}: {error} "
                "Export the checkpoint again with this version of cada-edge, or with --precision fp32."
            ) from error
    return onnx.load(target)


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Keep ONNX Runtime from configuring logging: its quantiser logs through the root logger's functions."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def quantize_within_limits(
    original: onnx.ModelProto,
    quantized: onnx.ModelProto,
    reference: Reference,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> Quantized:
    """Choose the convolutions that compute in INT8: all that parity allows.

    Args:
        original: The fp32 graph.
        quantized: What `quantize_all` made of it.
        reference: Frames and what fp32 PyTorch gave for them.
        progress: Called with a phase, its steps done and its steps.

    Returns:
        The graph, well within the limits as ONNX Runtime computes it.

    Raises:
        CheckFailedError: So few convolutions may compute in INT8 that it gains nothing.
        BackendError: The quantiser did something else than was asked for.
    """
    convolutions, costs = network_convolutions(original), multiplications(original)
    whole = sum(costs.values())

    def share(names: Collection[str]) -> float:
        return sum(costs[name] for name in names) / whole

    given_up = [name for name in convolutions if name in input_convolutions(original)]
    chosen = [name for name in convolutions if name not in given_up]
    _require_share(share(chosen), "before any is left out", len(chosen))
    allowed = limits("int8", reference)
    contribution: dict[str, float] | None = None
    while True:
        model = read_through_int8(original, quantized, chosen)
        excess = _excess(model, reference, allowed)
        _log.info("%d convolutions in INT8: %.2f times the parity limit", len(chosen), excess)
        if excess <= _HEADROOM:
            break
        if contribution is None:
            contribution = _by_contribution(original, quantized, chosen, costs, reference, progress)
        worst = _enough({name: contribution[name] for name in contribution if name in chosen}, excess)
        given_up += worst
        chosen = [name for name in chosen if name not in worst]
        _require_share(share(chosen), "within the parity limit", len(chosen))
    check_quantized(model, chosen)
    return Quantized(
        model,
        tuple(convolutions[name] for name in chosen),
        tuple(convolutions[name] for name in given_up),
        share(chosen),
    )


def _require_share(share: float, when: str, layers: int) -> None:
    if share < SMALLEST_SHARE:
        raise CheckFailedError(
            f"{layers} convolutions with {share:.0%} of the model's multiplications could compute in INT8 "
            f"{when}; wanted at least {SMALLEST_SHARE:.0%}, since less makes nothing faster. Export it with "
            "--precision fp32, or for a GPU with --precision fp16; more calibration images may help too."
        )


def _by_contribution(
    original: onnx.ModelProto,
    quantized: onnx.ModelProto,
    chosen: list[str],
    costs: dict[str, int],
    reference: Reference,
    progress: Callable[[str, int, int], None] | None,
) -> dict[str, float]:
    """Measure what each convolution alone does to the scores, as a sum of squares.

    Sorted by what giving it up brings for each of its multiplications.
    """
    scores = _session(read_through_int8(original, quantized, chosen))(reference.frames).score
    error = _relative(scores, reference.score)
    worst = np.argsort(-np.abs(error), kind="stable")
    # Half of them the worst ones, the others from all the rest.
    half = min(len(worst), _PROBES) // 2
    rest = worst[half:]
    evenly = np.linspace(0, len(rest) - 1, min(len(rest), _PROBES - half)).round().astype(int)
    rows = np.concatenate([worst[:half], rest[np.unique(evenly)]])
    contribution = {}
    for done, name in enumerate(chosen):
        scores = _session(read_through_int8(original, quantized, [name]))(reference.frames[rows]).score
        contribution[name] = float(np.square(_relative(scores, reference.score[rows])).sum())
        if progress is not None:
            progress("layers", done + 1, len(chosen))
    # Cheap ones come first, but not those whose share of the error is next to nothing.
    least = sum(contribution.values()) * 1e-2
    ranked = sorted(chosen, key=lambda name: contribution[name] / costs[name], reverse=True)
    ranked.sort(key=lambda name: contribution[name] < least)
    return {name: contribution[name] for name in ranked}


def _enough(contribution: dict[str, float], excess: float) -> list[str]:
    """Take the first ones until the others are within the limit, if squared errors add up; one at least.

    Args:
        contribution: Of those still in INT8, sorted.
        excess: Their largest difference, as a multiple of what is allowed.
    """
    whole = sum(contribution.values())
    left = whole
    taken = []
    for name, square in contribution.items():
        taken.append(name)
        left -= square
        if excess * math.sqrt(max(left, 0) / whole if whole else 0) <= _HEADROOM:
            break
    return taken


def _relative(scores: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.float64]:
    return (scores.astype(np.float64) - wanted) / np.maximum(1, np.abs(wanted))


def _excess(model: onnx.ModelProto, reference: Reference, allowed: dict[str, float]) -> float:
    """Return the largest difference as a multiple of what is allowed."""
    found = differences(_session(model), reference, backend="onnxruntime")
    return max(found[name] / allowed[name] for name in allowed)


def _session(model: onnx.ModelProto) -> Callable[[NDArray[np.uint8]], Outputs]:
    """Load a graph that no file holds into ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name: str = session.get_inputs()[0].name

    def infer(frames: NDArray[np.uint8]) -> Outputs:
        # One at a time: camera frames are large, and the session keeps the memory of its largest batch.
        parts = [session.run(OUTPUT_NAMES, {name: frames[row : row + 1]}) for row in range(len(frames))]
        return Outputs(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    return infer
