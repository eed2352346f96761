"""The build of one engine: the exporter's only module that touches TensorRT's objects.

It works the same with TensorRT 10.3 to 11.x and with TensorRT for RTX, except for what `NOT_EVERYWHERE`
names. A test reads this file and holds every name against the recorded Python bindings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cada_edge.errors import BackendError, CheckFailedError, ConfigError, ModelMismatchError
from cada_edge.export.build_thread import BuildProgress
from cada_edge.runtime.backend import require_outputs
from cada_edge.runtime.tensorrt_engine import MODULES, Messages, Presence, load_tensorrt, message_log

__all__ = [
    "HARMLESS_WARNINGS",
    "NOT_EVERYWHERE",
    "BuildRequest",
    "Plan",
    "build_plan",
    "known_capabilities",
]

NOT_EVERYWHERE = (
    Presence("SAME_COMPUTE_CAPABILITY", "tensorrt", "10.9", None),
    Presence("SAME_COMPUTE_CAPABILITY", "tensorrt_rtx", "1.7", None),
    Presence("ComputeCapability", "tensorrt_rtx", "1.7", None),
    Presence("num_compute_capabilities", "tensorrt_rtx", "1.7", None),
    Presence("set_compute_capability", "tensorrt_rtx", "1.7", None),
)
"""Names used here that some version lacks. The first is asked for before its use; the others are RTX's, and
only its builds come to them."""

HARMLESS_WARNINGS: dict[str, str] = {}
"""Regular expression of a parser's warning -> why an engine may be built all the same. Empty: TensorRT for
RTX 1.7 has no warning for any of our graphs, and TensorRT itself has not been run on them yet."""

_AGAIN = "Export the checkpoint to ONNX again with this version of cada-edge"


@dataclass(frozen=True)
class BuildRequest:
    """What is to be built."""

    target: str
    """A key of `cada_edge.runtime.tensorrt_engine.MODULES`."""
    precision: str
    """Of the graph's networks, one of `cada_edge.manifest.PRECISIONS`."""
    frame_hw: tuple[int, int]
    """Height and width of the graph's frames, in pixels."""
    batch: tuple[int, int, int]
    """Smallest, best and largest number of frames."""
    compute_capabilities: tuple[str, ...] = ()
    """For RTX: those of the GPUs to build for, as '8.6'."""
    hardware_compatibility: str = "none"
    """One of `cada_edge.engine_build.HARDWARE_COMPATIBILITY`."""
    workspace_bytes: int | None = None
    """Most scratch memory on the GPU; None for the library's own limit, all of it."""
    optimization_level: int | None = None
    """0 to 5; None for the library's own."""
    timing_cache: bytes | None = None
    """Of an earlier build, empty for none; None to keep no cache."""
    accepted_warnings: tuple[str, ...] = ()
    """Parts of parser warnings that are known to be harmless."""


class Plan(NamedTuple):
    """What was built."""

    data: bytes
    """The engine."""
    version: str
    """Of the library."""
    half_share: float
    """Share of the convolutions and matrix products that the strongly typed network computes in half."""
    int8_share: float
    """Share of those that read INT8 values."""
    timing_cache: bytes | None
    """Where one was asked for."""


def known_capabilities(target: str) -> tuple[str, ...]:
    """List the compute capabilities that a library builds for ahead of time, lowest first.

    Args:
        target: 'rtx'; TensorRT itself builds for the machine's own GPU alone.
    """
    trt: Any = load_tensorrt(target, "Building this engine")
    found = [re.fullmatch(r"SM(\d+)(\d)", name) for name in trt.ComputeCapability.__members__]
    pairs = sorted((int(match[1]), int(match[2])) for match in found if match is not None)
    return tuple(f"{major}.{minor}" for major, minor in pairs)


def build_plan(model: Path, request: BuildRequest, state: BuildProgress) -> Plan:
    """Build an engine.

    Args:
        model: An ONNX file of ours.
        request: What to build.
        state: Learns how far the build is, and can cancel it.

    Raises:
        BackendError: The library refuses the graph, or an option; its own words are in the message.
        ConfigError: An option that this version of the library does not have.
        CheckFailedError: The graph does not compute in the precision that was asked for.
        ModelMismatchError: Its inputs or outputs are not those of our graphs.
    """
    trt: Any = load_tensorrt(request.target, "Building this engine")
    version: str = trt.__version__
    logger, messages = message_log(MODULES[request.target])
    messages.clear()

    def refusal(action: str, remedy: str, reason: str = "") -> BackendError:
        parts: list[str] = [part for part in (reason, *messages.errors) if part]
        said: str = "; ".join(parts).rstrip(". ") or "it gave no reason"
        return BackendError(f"{trt.__name__} {version} cannot {action} {model}: {said}. {remedy}.")

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Passes the library's steps on, and its wish to end; an exception must not cross its C++."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            state.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return state.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            pass

    try:
        builder: Any = trt.Builder(logger)
        network: Any = builder.create_network(_network_flags(trt))
        # The parser holds the weights that the network points to: it stays until the build is done.
        parser: Any = trt.OnnxParser(network, logger)
        _parse(parser, model, messages, request.accepted_warnings, refusal)
        name = _input_name(trt, network, model, request)
        half_share, int8_share = _shares(trt, network, request.precision, model)
        config: Any = builder.create_builder_config()
        monitor = Monitor()
        config.progress_monitor = monitor
        cache: Any = _configure(trt, config, request, refusal)
        profile: Any = builder.create_optimization_profile()
        profile.set_shape(name, *((batch, *request.frame_hw, 3) for batch in request.batch))
        if config.add_optimization_profile(profile) < 0:
            raise refusal("take the batch sizes for", "Pass others with --batch MIN,OPT,MAX")
        plan: Any = builder.build_serialized_network(network, config)
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, (ConfigError, BackendError)):
            raise
        raise refusal("build an engine of", _AGAIN, str(error)) from error
    if plan is None:
        if state.is_cancelled:
            raise refusal("build an engine of", "It was cancelled", "cancelled")
        raise refusal(
            "build an engine of",
            "Try more --workspace, another --compute-capability or another --precision, or export the "
            "checkpoint again",
        )
    kept = None if cache is None else bytes(config.get_timing_cache().serialize())
    return Plan(bytes(plan), version, half_share, int8_share, kept)


def _network_flags(trt: Any) -> int:
    """Ask for a strongly typed network where that must be asked for: its number differs between versions."""
    flags: Any = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _parse(
    parser: Any,
    model: Path,
    messages: Messages,
    accepted: tuple[str, ...],
    refusal: Callable[..., BackendError],
) -> None:
    messages.clear()
    # From the file, since bytes would be held twice.
    if not parser.parse_from_file(str(model)):
        errors: list[Any] = [parser.get_error(index) for index in range(parser.num_errors)]
        told = [f"{each.node_operator()} {each.node_name()}: {each.desc()}".lstrip(" :") for each in errors]
        if told:
            # The log has the same once more, in many lines.
            messages.clear()
        raise refusal("parse", _AGAIN, "; ".join(told))
    for warning in messages.warnings:
        is_harmless = any(re.search(pattern, warning) for pattern in HARMLESS_WARNINGS)
        if not is_harmless and not any(part in warning for part in accepted):
            raise refusal(
                "parse",
                "Where this is known to be harmless, accept it with --accept-warning and a part of its text",
                f"it warns: {warning}",
            )


def _input_name(trt: Any, network: Any, model: Path, request: BuildRequest) -> str:
    """Hold the parsed network's inputs and outputs against those of our graphs; return the input's name."""
    kinds: Any = trt.DataType
    outputs: list[Any] = [network.get_output(index) for index in range(network.num_outputs)]
    require_outputs(model, [str(tensor.name) for tensor in outputs])
    inputs: list[Any] = [network.get_input(index) for index in range(network.num_inputs)]
    shapes = [tuple(tensor.shape) for tensor in inputs]
    wanted = (*request.frame_hw, 3)
    if (
        len(inputs) != 1
        or inputs[0].dtype != kinds.UINT8
        or shapes[0][1:] != wanted
        or any(tensor.dtype != kinds.FLOAT for tensor in outputs)
    ):
        raise ModelMismatchError(
            f"The graph {model} takes {shapes}; wanted one uint8 (N, {wanted[0]}, {wanted[1]}, 3), as its "
            f"manifest says, and float32 outputs. {_AGAIN}."
        )
    if shapes[0][0] >= 0 and set(request.batch) != {shapes[0][0]}:
        raise ConfigError(
            f"batch {request.batch} came for {model}, whose graph takes {shapes[0][0]} frames only; wanted "
            f"that. Pass --batch {shapes[0][0]}, or export the checkpoint again."
        )
    return str(inputs[0].name)


def _shares(trt: Any, network: Any, precision: str, model: Path) -> tuple[float, float]:
    """Return the shares of the heavy layers in half and in INT8; refuse what was not asked."""
    kinds: Any = trt.LayerType
    heavy = (kinds.CONVOLUTION, kinds.DECONVOLUTION, kinds.MATRIX_MULTIPLY)
    half: Any = trt.DataType.HALF
    layers: list[Any] = [network.get_layer(index) for index in range(network.num_layers)]
    # TensorRT computes in INT8 what reads dequantised values, and takes the two together.
    dequantized = {str(layer.get_output(0).name) for layer in layers if layer.type == kinds.DEQUANTIZE}
    chosen = [layer for layer in layers if layer.type in heavy]
    counts = {
        "fp16": sum(bool(layer.get_output(0).dtype == half) for layer in chosen),
        "int8": sum(str(layer.get_input(0).name) in dequantized for layer in chosen),
    }
    # Of an INT8 graph the products that make up maps from distances, and whatever parity kept, stay fp32.
    for kind, name, least, wanted in (
        ("fp16", "in half precision", 0.5, "most"),
        ("int8", "with INT8 values", 0.0, "some"),
    ):
        share = counts[kind] / max(1, len(chosen))
        if (share <= least) if precision == kind else (share > 0):
            raise CheckFailedError(
                f"{counts[kind]} of {len(chosen)} convolutions and matrix products of {model} compute "
                f"{name}; wanted {wanted if precision == kind else 'none'} of them for {precision}. Export "
                f"the checkpoint again with --precision {precision}."
            )
    return counts["fp16"] / max(1, len(chosen)), counts["int8"] / max(1, len(chosen))


def _configure(trt: Any, config: Any, request: BuildRequest, refusal: Callable[..., BackendError]) -> Any:
    """Set the build's options; return the timing cache, or None."""
    # TF32 rounds what is fp32 to 10 bits, and is on where nobody turns it off.
    config.clear_flag(trt.BuilderFlag.TF32)
    assert not config.get_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    if request.optimization_level is not None:
        config.builder_optimization_level = request.optimization_level
    if request.hardware_compatibility != "none":
        config.hardware_compatibility_level = _compatibility(trt, request.hardware_compatibility)
    if request.target == "rtx":
        config.num_compute_capabilities = len(request.compute_capabilities)
        for index, written in enumerate(request.compute_capabilities):
            capability: Any = trt.ComputeCapability.__members__["SM" + written.replace(".", "")]
            if not config.set_compute_capability(capability, index):
                raise refusal(f"take compute capability {written} for", "Pass another --compute-capability")
    if request.timing_cache is None:
        return None
    cache: Any = config.create_timing_cache(request.timing_cache)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise refusal(
            "use the timing cache for",
            "It is of another GPU or another version: name another file with --timing-cache",
        )
    return cache


def _compatibility(trt: Any, name: str) -> Any:
    levels: Any = trt.HardwareCompatibilityLevel
    if name == "ampere+":
        return levels.AMPERE_PLUS
    if not hasattr(levels, "SAME_COMPUTE_CAPABILITY"):
        raise ConfigError(
            f"hardware compatibility 'same' came; {trt.__name__} {trt.__version__} does not have it, wanted "
            "TensorRT 10.9 or newer. Pass --hardware-compat none, or ampere+."
        )
    return levels.SAME_COMPUTE_CAPABILITY
