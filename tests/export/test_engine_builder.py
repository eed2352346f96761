"""Builds by TensorRT for RTX itself, without a GPU: what it takes, and what becomes of each refusal."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

from cada_edge.errors import BackendError, CheckFailedError, ConfigError, ModelMismatchError
from cada_edge.export import engine_builder
from cada_edge.export.build_thread import BuildProgress, run_apart
from cada_edge.export.engine_builder import BuildRequest, Plan, build_plan, known_capabilities
from cada_edge.runtime.tensorrt_engine import load_tensorrt, message_log

pytest.importorskip("tensorrt_rtx", reason="pip install 'cada-edge[rtx]'")

SIDE = 72
"""Of the frames below, in pixels: 5184 of them, more than TopK's 3840."""


def _initializer(name: str, values: Sequence[int]) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], list(values))


def _node(kind: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs.split(","), [output], name=f"node_{output}", **attributes)


def _write(
    path: Path,
    to_float: Sequence[NodeProto] = (_node("Cast", "frames", "float", to=TensorProto.FLOAT),),
    score: Sequence[NodeProto] = (_node("ReduceMean", "anomaly_map,pixels", "score", keepdims=0),),
    *,
    batch: int | str = "batch",
    score_name: str = "score",
) -> Path:
    """Write a graph with the inputs and outputs of ours: the map is the mean of the channels."""
    nodes = [
        *to_float,
        _node("ReduceMean", "float,channels", "anomaly_map", keepdims=0),
        *score,
        _node("Unsqueeze", f"{score_name},columns", "column"),
        helper.make_node("Concat", ["column", "column"], ["stats"], axis=1),
    ]
    shapes: dict[str, list[int | str]] = {
        score_name: [batch],
        "anomaly_map": [batch, SIDE, SIDE],
        "stats": [batch, 2],
    }
    graph = helper.make_graph(
        nodes,
        "hand made",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, [batch, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [
            _initializer("channels", [3]),
            _initializer("pixels", [1, 2]),
            _initializer("columns", [1]),
            _initializer("flat", [-1, SIDE * SIDE]),
            _initializer("count_3840", [3840]),
            _initializer("count_3841", [3841]),
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("zero", TensorProto.UINT8, [], [0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def _top_mean(count: int) -> list[NodeProto]:
    return [
        _node("Reshape", "anomaly_map,flat", "pixels_in_row"),
        helper.make_node("TopK", ["pixels_in_row", f"count_{count}"], ["top", "places"], axis=1),
        _node("ReduceMean", "top,columns", "score", keepdims=0),
    ]


def _build(model: Path, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "target": "rtx",
        "precision": "fp32",
        "frame_hw": (SIDE, SIDE),
        "batch": (1, 2, 4),
        "compute_capabilities": ("8.6",),
    }
    return build_plan(model, BuildRequest(**{**values, **changes}), BuildProgress())


@pytest.mark.parametrize("capability", ["8.6", "8.9", "12.0"])
def test_one_gpu_at_a_time(tmp_path: Path, capability: str) -> None:
    plan = _build(_write(tmp_path / "model.onnx"), compute_capabilities=(capability,))
    assert len(plan.data) > 1000
    assert plan.version.startswith("1.")
    assert (plan.half_share, plan.timing_cache) == (0, None)


def test_options_reach_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt: Any = load_tensorrt("rtx")
    seen: dict[str, Any] = {}
    real = engine_builder._configure

    def configured(module: Any, config: Any, request: Any, refusal: Any) -> Any:
        assert config.get_flag(trt.BuilderFlag.TF32), "the library's own default, which must be undone"
        cache = real(module, config, request, refusal)
        seen["tf32"] = config.get_flag(trt.BuilderFlag.TF32)
        seen["verbosity"] = config.profiling_verbosity
        seen["workspace"] = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
        seen["level"] = config.builder_optimization_level
        seen["for"] = [config.get_compute_capability(i) for i in range(config.num_compute_capabilities)]
        return cache

    monkeypatch.setattr(engine_builder, "_configure", configured)
    model = _write(tmp_path / "model.onnx")
    _build(model, workspace_bytes=3 << 28, optimization_level=1, compute_capabilities=("8.6", "8.9", "12.0"))
    members = trt.ComputeCapability
    assert seen == {
        "tf32": False,
        "verbosity": trt.ProfilingVerbosity.DETAILED,
        "workspace": 3 << 28,
        "level": 1,
        "for": [members.SM86, members.SM89, members.SM120],
    }


def test_the_network_is_strongly_typed() -> None:
    trt: Any = load_tensorrt("rtx")
    network = trt.Builder(message_log("tensorrt_rtx")[0]).create_network(engine_builder._network_flags(trt))
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_where_the_flag_is_gone_none_is_passed() -> None:
    newer = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace())  # double of a later version
    assert engine_builder._network_flags(newer) == 0


def test_the_library_says_what_it_builds_for() -> None:
    assert {"8.6", "8.9", "12.0"} <= set(known_capabilities("rtx"))


def test_topk_beyond_its_limit_is_refused_by_the_build_alone(tmp_path: Path) -> None:
    """The reason for the bisection: parsing passes, and only the build fails."""
    assert _build(_write(tmp_path / "fits.onnx", score=_top_mean(3840))).data
    with pytest.raises(
        BackendError,
        match=r"tensorrt_rtx 1\.[\d.]+ cannot build an engine of .*beyond.onnx: .*3840.*"
        r"\. Try more --workspace, another --compute-capability",
    ):
        _build(_write(tmp_path / "beyond.onnx", score=_top_mean(3841)))


@pytest.mark.parametrize(
    ("to_float", "wanted"),
    [
        ([_node("NoSuchOperator", "frames", "float")], "NoSuchOperator node_float: .*Plugin not found"),
        (
            [
                _node("Transpose", "frames", "turned", perm=[0, 2, 1, 3]),
                _node("Cast", "turned", "float", to=TensorProto.FLOAT),
            ],
            "Transpose node_turned: .*first input has type UInt8 but must have type",
        ),
    ],
)
def test_a_graph_that_the_parser_refuses(tmp_path: Path, to_float: list[NodeProto], wanted: str) -> None:
    with pytest.raises(BackendError, match=rf"(?s)cannot parse .*bad.onnx: {wanted}.*\. Export the check"):
        _build(_write(tmp_path / "bad.onnx", to_float))


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    model = tmp_path / "garbage.onnx"
    model.write_bytes(b"no graph at all" * 100)
    with pytest.raises(BackendError, match=r"cannot parse .*garbage.onnx: .*Failed to parse the ONNX model"):
        _build(model)
    model.write_bytes(b"")
    # An empty file is a graph without anything to this parser.
    with pytest.raises(ModelMismatchError, match=r"garbage.onnx has the outputs ; wanted score, anomaly_map"):
        _build(model)
    with pytest.raises(BackendError, match=r"cannot parse .*none.onnx: .*cannot be found"):
        _build(tmp_path / "none.onnx")


def test_a_warning_of_the_parser_ends_the_build_unless_it_is_accepted(tmp_path: Path) -> None:
    """This one would saturate: unsigned bytes are taken for signed ones."""
    quantised = [
        _node("Cast", "frames", "raw", to=TensorProto.FLOAT),
        _node("QuantizeLinear", "raw,one,zero", "steps"),
        _node("DequantizeLinear", "steps,one,zero", "float"),
    ]
    model = _write(tmp_path / "unsigned.onnx", quantised)
    with pytest.raises(
        BackendError,
        match=r"cannot parse .*unsigned.onnx: it warns: .*Defaulting to INT8 instead.*"
        r"accept it with --accept-warning and a part of its text\.",
    ):
        _build(model)
    with pytest.raises(BackendError, match="it warns: "):
        _build(model, accepted_warnings=("another warning",))
    assert _build(model, accepted_warnings=("Defaulting to INT8 instead",)).data


def test_a_reasoned_list_accepts_warnings_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantised = [
        _node("Cast", "frames", "raw", to=TensorProto.FLOAT),
        _node("QuantizeLinear", "raw,one,zero", "steps"),
        _node("DequantizeLinear", "steps,one,zero", "float"),
    ]
    monkeypatch.setitem(engine_builder.HARMLESS_WARNINGS, r"Default\w+ to INT8", "for this test")
    assert _build(_write(tmp_path / "unsigned.onnx", quantised)).data


def test_other_inputs_and_outputs_than_ours(tmp_path: Path) -> None:
    named = _write(
        tmp_path / "named.onnx",
        score=[_node("ReduceMean", "anomaly_map,pixels", "points", keepdims=0)],
        score_name="points",
    )
    with pytest.raises(ModelMismatchError, match="has the outputs points, anomaly_map, stats; wanted score"):
        _build(named)
    with pytest.raises(
        ModelMismatchError,
        match=r"takes \[\(-1, 72, 72, 3\)\]; wanted one uint8 \(N, 64, 96, 3\), as its manifest says",
    ):
        _build(_write(tmp_path / "model.onnx"), frame_hw=(64, 96))


def test_a_graph_with_one_fixed_batch(tmp_path: Path) -> None:
    model = _write(tmp_path / "fixed.onnx", batch=2)
    assert _build(model, batch=(2, 2, 2)).data
    with pytest.raises(ConfigError, match=r"batch \(1, 2, 4\) came for .*fixed.onnx, whose graph takes 2 fr"):
        _build(model)


def test_another_precision_than_asked_for_is_refused(tmp_path: Path) -> None:
    weights = helper.make_node(
        "Constant",
        [],
        ["weights"],
        value=helper.make_tensor("w", TensorProto.FLOAT16, [3, 3], [1.0] * 9),
    )
    halved = [
        _node("Cast", "frames", "half", to=TensorProto.FLOAT16),
        weights,
        _node("MatMul", "half,weights", "product"),
        _node("Cast", "product", "float", to=TensorProto.FLOAT),
    ]
    model = _write(tmp_path / "half.onnx", halved)
    assert _build(model, precision="fp16").half_share == 1
    with pytest.raises(
        CheckFailedError, match=r"1 of 1 convolutions and matrix products .* in half precision; wanted none "
    ):
        _build(model)
    with pytest.raises(CheckFailedError, match=r"0 of 0 convolutions .*; wanted most of them for fp16"):
        _build(_write(tmp_path / "model.onnx"), precision="fp16")


@pytest.mark.parametrize("workspace", [1])
def test_too_little_workspace_is_the_librarys_refusal(tmp_path: Path, workspace: int) -> None:
    weights = helper.make_node(
        "Constant", [], ["weights"], value=helper.make_tensor("w", TensorProto.FLOAT, [3, 3], [1.0] * 9)
    )
    product = [
        _node("Cast", "frames", "raw", to=TensorProto.FLOAT),
        weights,
        _node("MatMul", "raw,weights", "float"),
    ]
    model = _write(tmp_path / "model.onnx", product)
    with pytest.raises(BackendError, match=r"cannot build an engine of .*: .+\. Try more --workspace"):
        _build(model, workspace_bytes=workspace)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_cancels_the_build_and_is_raised_here(tmp_path: Path) -> None:
    model = _write(tmp_path / "model.onnx", score=_top_mean(3840))
    states: list[BuildProgress] = []
    reached: list[str] = []

    def build(state: BuildProgress) -> Plan:
        states.append(state)
        step = state.step

        def first_step(phase: str, number: int) -> bool:
            # Hold the library at its first step until the other thread has been interrupted.
            deadline_s = time.monotonic() + 60
            while not state.is_cancelled and time.monotonic() < deadline_s:
                time.sleep(0.001)
            return step(phase, number)

        monkey: Any = state
        monkey.step = first_step
        request = BuildRequest("rtx", "fp32", (SIDE, SIDE), (1, 2, 4), ("8.6",))
        try:
            return build_plan(model, request, state)
        except BackendError as error:
            reached.append(str(error))
            raise

    with pytest.raises(KeyboardInterrupt):
        run_apart(build, lambda *now: signal.raise_signal(signal.SIGINT))
    assert states[0].is_cancelled
    assert len(reached) == 1
    assert "Build canceled by user" in reached[0]
    assert reached[0].endswith("It was cancelled.")


def test_progress_comes_in_this_thread_with_phase_and_steps() -> None:
    import threading

    seen: list[tuple[str, int, int, bool]] = []
    told = threading.Event()

    def work(state: BuildProgress) -> str:
        assert threading.current_thread() is not threading.main_thread()
        state.start("tuning", 4)
        assert state.step("tuning", 0)
        assert told.wait(30)
        return "built"

    def progress(phase: str, done: int, total: int) -> None:
        seen.append((phase, done, total, threading.current_thread() is threading.main_thread()))
        told.set()

    assert run_apart(work, progress) == "built"
    assert seen[0] == ("tuning", 1, 4, True)


class _ConfigDouble:
    """Double of TensorRT's IBuilderConfig: only what a build for its own GPU touches and RTX lacks."""

    def __init__(self, *, takes_cache: bool = True) -> None:
        self.flags = {"TF32"}
        self.takes_cache = takes_cache
        self.hardware_compatibility_level: Any = None
        self.profiling_verbosity: Any = None
        self.cache: bytes | None = None

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def get_flag(self, flag: str) -> bool:
        return flag in self.flags

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        self.cache = cache
        return self.takes_cache


_MODULE_DOUBLE = SimpleNamespace(
    __name__="tensorrt",
    __version__="10.3.0",
    BuilderFlag=SimpleNamespace(TF32="TF32"),
    ProfilingVerbosity=SimpleNamespace(DETAILED="DETAILED"),
    HardwareCompatibilityLevel=SimpleNamespace(AMPERE_PLUS="AMPERE_PLUS"),
)
"""Double of the module tensorrt 10.3: names alone."""


def _refusal(action: str, remedy: str, reason: str = "") -> BackendError:
    return BackendError(f"cannot {action} it. {remedy}.")


def _request(**changes: Any) -> BuildRequest:
    return BuildRequest("tensorrt", "fp16", (64, 64), (1, 1, 1), **changes)


def test_tensorrts_own_options_on_a_double() -> None:
    config = _ConfigDouble()
    request = _request(hardware_compatibility="ampere+", timing_cache=b"earlier")
    assert engine_builder._configure(_MODULE_DOUBLE, config, request, _refusal) == b"earlier"
    assert (config.hardware_compatibility_level, config.cache) == ("AMPERE_PLUS", b"earlier")
    assert config.flags == set()
    config = _ConfigDouble()
    assert engine_builder._configure(_MODULE_DOUBLE, config, _request(), _refusal) is None
    assert (config.hardware_compatibility_level, config.cache) == (None, None)


def test_a_timing_cache_of_another_gpu_is_refused() -> None:
    with pytest.raises(BackendError, match=r"cannot use the timing cache for it\. It is of another GPU or"):
        engine_builder._configure(
            _MODULE_DOUBLE, _ConfigDouble(takes_cache=False), _request(timing_cache=b""), _refusal
        )


def test_a_level_that_the_version_lacks() -> None:
    request = _request(hardware_compatibility="same")
    with pytest.raises(ConfigError, match=r"'same' came; tensorrt 10\.3\.0 does not have it, wanted"):
        engine_builder._configure(_MODULE_DOUBLE, _ConfigDouble(), request, _refusal)
    levels = SimpleNamespace(SAME_COMPUTE_CAPABILITY="SAME")
    newer = SimpleNamespace(**{**vars(_MODULE_DOUBLE), "HardwareCompatibilityLevel": levels})
    config = _ConfigDouble()
    engine_builder._configure(newer, config, request, _refusal)
    assert config.hardware_compatibility_level == "SAME"
