"""Export to one TensorRT engine, from a checkpoint or from an ONNX file of ours.

From an ONNX file it takes neither PyTorch nor onnx: an engine of TensorRT is built on the box where it runs.
Where a GPU can run the engine, the reference file is replayed through it; elsewhere through its graph on the
CPU, and the manifest says that the engine itself was never executed.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cada_edge.engine_build import EngineBuild
from cada_edge.errors import (
    CheckFailedError,
    ConfigError,
    CudaError,
    MissingExtraError,
    ModelError,
    OutputError,
)
from cada_edge.export.build_thread import run_apart
from cada_edge.export.draft import Draft, check_places, draft_of
from cada_edge.export.engine_builder import BuildRequest, build_plan, known_capabilities
from cada_edge.export.engine_config import EngineConfig
from cada_edge.export.to_int8 import Int8Config, export_int8
from cada_edge.files import sha256_file, write_atomic
from cada_edge.manifest import Manifest, Parity, manifest_path
from cada_edge.runtime.cuda_calls import choose_calls
from cada_edge.runtime.cuda_driver import gpus, require_gpu
from cada_edge.runtime.datasets import DatasetIndex
from cada_edge.runtime.engine_check import why_not
from cada_edge.runtime.engine_layers import precision_share, read_layers
from cada_edge.runtime.parity import replay_file, require_reference
from cada_edge.runtime.tensorrt_engine import MODULES, load_tensorrt

__all__ = ["EngineResult", "export_engine"]

_log = logging.getLogger(__name__)

_GIB = 1 << 30


@dataclass(frozen=True)
class EngineResult:
    """What the export wrote."""

    model: Path
    """The engine."""
    manifest: Path
    """Its manifest."""
    reference: Path
    """Its reference file."""
    parity: Parity
    """How far it is from PyTorch: the engine where `EngineBuild.executed`, else its graph."""
    threshold: float | None
    """The manifest's threshold."""
    precision: str
    """Of its networks."""
    engine: EngineBuild
    """How it was built."""
    build_s: float
    """Time that the library took, in seconds."""


def export_engine(
    source: str | Path,
    out: str | Path,
    config: EngineConfig | None = None,
    *,
    data: DatasetIndex | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> EngineResult:
    """Build an engine, check it as far as this machine can, and only then put it in its place.

    Args:
        source: A checkpoint, or an ONNX file of ours with its manifest and reference file beside it.
        out: The engine to write, ending in .engine; manifest and reference file are written beside it.
        config: What to build.
        data: For a checkpoint: a data set whose test images the graph's AUROC drift is measured on.
        progress: Called some times a second with a phase of the build, its steps done and its steps.

    Returns:
        Where everything is, and the parity figures.

    Raises:
        CheckFailedError: Parity over a limit, a value that is not finite, or another precision than was asked
            for; nothing is written.
        ConfigError: Options that do not go together, or not with the source.
        BackendError: The library refuses the graph or an option, with its own words.
        CudaError: TensorRT itself builds on a GPU only, and there is none.
        ModelError: The source cannot be used.
        OutputError: The folder or disk does not take the files.
        MissingExtraError: The library, what the source takes, or what runs the engine is not installed.
    """
    config = config or EngineConfig()
    source, out = Path(source), Path(out)
    if source.suffix == ".engine":
        raise ConfigError(
            f"The engine {source.name} came as the source; wanted a checkpoint, or the ONNX file that it was "
            "built from: an engine is of one machine, and no other one can be made of it. Name that file."
        )
    if out.suffix != ".engine":
        raise ConfigError(
            f"The output {out.name} came; wanted a name ending in .engine. Pass --out model.engine."
        )
    # Not named after the stem alone: model.onnx may lie beside it, with a reference file of its own.
    reference_name = f"{out.name}.reference.npz"
    check_places(out, reference_name)
    load_tensorrt(config.target, "Building this engine")
    capabilities, gpu = _machine(config)
    with draft_of(out, reference_name) as draft:
        if source.suffix.lower() == ".onnx":
            # Before minutes of quantising; what comes of that has its own manifest.
            manifest = _of_onnx(source, config, data)
            graph = _quantized(source, draft.model.with_name("graph") / "model.onnx", config)
            if graph != source:
                manifest = Manifest.read(graph)
        else:
            graph = _exported(source, draft.model.with_name("graph") / "model.onnx", config, data)
            manifest = Manifest.read(graph)
        _copy_reference(graph, manifest, draft)
        request = BuildRequest(
            target=config.target,
            precision=manifest.precision,
            frame_hw=manifest.frame_hw or manifest.input_hw,
            batch=config.batch,
            compute_capabilities=capabilities if config.target == "rtx" else (),
            hardware_compatibility=config.hardware_compatibility,
            workspace_bytes=None if config.workspace_gib is None else int(config.workspace_gib * _GIB),
            optimization_level=config.optimization_level,
            timing_cache=_read_cache(config.timing_cache),
            accepted_warnings=config.accepted_warnings,
        )
        started_s = time.perf_counter()
        plan = run_apart(lambda state: build_plan(graph, request, state), progress)
        build_s = time.perf_counter() - started_s
        _log.info("%s was built in %.1f s, %.1f MiB", out.name, build_s, len(plan.data) / 2**20)
        draft.model.write_bytes(plan.data)
        build = EngineBuild(
            target=config.target,
            tensorrt_version=plan.version,
            compute_capabilities=capabilities,
            hardware_compatibility=config.hardware_compatibility,
            batch=config.batch,
            executed=False,
            gpu=gpu,
            onnx_sha256=manifest.model_sha256,
            half_share=plan.half_share,
            int8_share=plan.int8_share,
            precision_from="network",
            options=_options(config),
        )
        _check(draft, graph, manifest, build, config)
        draft.publish()
    if config.timing_cache is not None and plan.timing_cache is not None:
        _keep_cache(config.timing_cache, plan.timing_cache)
    written = Manifest.read(out)
    assert written.engine is not None
    assert written.parity is not None
    return EngineResult(
        model=out,
        manifest=manifest_path(out),
        reference=out.with_name(reference_name),
        parity=written.parity,
        threshold=written.threshold,
        precision=written.precision,
        engine=written.engine,
        build_s=build_s,
    )


def _machine(config: EngineConfig) -> tuple[tuple[str, ...], str | None]:
    """Return the compute capabilities to build for, and the name of this machine's GPU, if it has one."""
    own: tuple[str, ...] = ()
    name = None
    try:
        require_gpu()
        name, (major, minor) = gpus()[0]
        own = (f"{major}.{minor}",)
    except CudaError as error:
        if config.target == "tensorrt":
            raise CudaError(
                f"{error} TensorRT builds an engine on the GPU that it is for; one for an RTX GPU can be "
                "built here with: --target rtx --compute-capability 8.6"
            ) from error
    if config.target == "tensorrt":
        # It is built where it runs, so it is to be run here: with what, is asked before minutes of work.
        choose_calls()
        return own, name
    known = known_capabilities(config.target)
    wanted = tuple(dict.fromkeys(config.compute_capabilities)) or own
    unknown = [capability for capability in wanted if capability not in known]
    if unknown or not wanted:
        came = f"compute capability {', '.join(unknown)}" if unknown else "no compute capability"
        here = f"this machine's GPU has {own[0]}" if own else "this machine has no GPU to take it from"
        raise ConfigError(
            f"{came} came, and {here}; {MODULES[config.target]} builds for {', '.join(known)}. Pass that of "
            "the box, which cada-edge doctor shows there, as --compute-capability 8.6, or several as 8.6,8.9."
        )
    return wanted, name


def _exported(source: Path, graph: Path, config: EngineConfig, data: DatasetIndex | None) -> Path:
    """Export a checkpoint to an ONNX file that is gone with the draft."""
    if find_spec("torch") is None:
        raise MissingExtraError("Exporting a checkpoint", "torch", "train")
    from cada_edge.export.to_onnx import ExportConfig, export_onnx

    options = ExportConfig(
        precision=config.precision or "fp16",
        backend=_graph_backend(config.backend),
        alignment=config.alignment,
        frame_hw=config.frame_hw,
        calibration=config.calibration,
        calibration_images=config.calibration_images,
        compare_speed=False,
    )
    return export_onnx(source, graph, options, data=data).model


def _quantized(source: Path, graph: Path, config: EngineConfig) -> Path:
    """Quantise an fp32 ONNX file where that is asked for, into a file that is gone with the draft."""
    if config.calibration is None:
        return source
    options = Int8Config(
        config.calibration, config.calibration_images, _graph_backend(config.backend), compare_speed=False
    )
    return export_int8(source, graph, options).model


def _graph_backend(name: str) -> str:
    """Choose what runs a graph on the CPU: the figures of different machines are to be of one engine."""
    return "onnxruntime" if name == "auto" else name


def _of_onnx(source: Path, config: EngineConfig, data: DatasetIndex | None) -> Manifest:
    """Read an ONNX file's manifest, and hold what was asked for against what the file is."""
    manifest = Manifest.read(source)
    manifest.check_model_file(source)
    if manifest.format != "onnx":
        raise ModelError(
            f"The manifest of {source} has the format {manifest.format!r}; wanted 'onnx'. Export the "
            "checkpoint again."
        )
    if data is not None:
        raise ConfigError(
            f"--data came with {source.name}; wanted it with a checkpoint only, since the AUROC drift is "
            "taken against PyTorch. Leave it out, or evaluate the engine itself with: cada-edge eval"
        )
    # Images to calibrate with come for a graph that is quantised first.
    becomes = manifest.precision if config.calibration is None else "int8"
    asked = {
        "--precision": (config.precision, becomes),
        "--alignment": (config.alignment, manifest.alignment),
        "--frame-size": (_written(config.frame_hw), _written(manifest.frame_hw)),
    }
    for option, (wanted, own) in asked.items():
        if wanted not in (None, own):
            instead = ", pass --calibration DIR" if (wanted, own) == ("int8", "fp32") else ""
            raise ConfigError(
                f"{option} {wanted} came with {source.name}, which was exported with {own or 'none'}; an "
                f"engine keeps what its graph has. Leave {option} out{instead}, or build from the checkpoint."
            )
    return manifest


def _written(size_hw: tuple[int, int] | None) -> str | None:
    return None if size_hw is None else f"{size_hw[0]}x{size_hw[1]}"


def _read_cache(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise OutputError(
            f"The timing cache {path} cannot be read: {error.strerror or error}; wanted a file, or a "
            "free name. Pass another one with --timing-cache."
        ) from error


def _keep_cache(path: Path, content: bytes) -> None:
    """Write the timing cache; the engine is in its place, so a disk that does not take this is no failure."""
    try:
        write_atomic(path, content)
    except OutputError as error:
        _log.warning("The engine is built, but the next build measures anew. %s", error)


def _copy_reference(graph: Path, manifest: Manifest, draft: Draft) -> None:
    """Bring the graph's reference file, unchanged, beside the engine."""
    shutil.copyfile(require_reference(graph, manifest), draft.reference)


def _options(config: EngineConfig) -> dict[str, Any]:
    return {
        "workspace_gib": config.workspace_gib,
        "optimization_level": config.optimization_level,
        "timing_cache": config.timing_cache is not None,
        "accepted_warnings": list(config.accepted_warnings),
        "tf32": False,
    }


def _check(draft: Draft, graph: Path, manifest: Manifest, build: EngineBuild, config: EngineConfig) -> None:
    """Write the draft's manifest with the parity of the engine where it runs here, else of its graph."""
    engine_manifest = dataclasses.replace(
        manifest,
        model_file=draft.model.name,
        model_sha256=sha256_file(draft.model),
        format="engine",
        created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        versions={**manifest.versions, MODULES[build.target]: build.tensorrt_version},
        reference_file=draft.reference.name,
        engine=build,
    )
    # The runtime reads it before it loads the engine.
    engine_manifest.write(draft.model)
    reason = why_not(draft.model)
    if reason is not None and build.target == "tensorrt":
        raise reason
    if reason is None:
        layers = read_layers(draft.model)
        half, int8 = precision_share(layers, "fp16"), precision_share(layers, "int8")
        if half is not None and int8 is not None:
            for kind, share in (("fp16", half), ("int8", int8)):
                _require_precision(share, kind, manifest.precision, draft.final_model)
            build = dataclasses.replace(build, half_share=half, int8_share=int8, precision_from="inspector")
        parity = replay_file(draft.model, engine_manifest)
        build = dataclasses.replace(build, executed=True)
    else:
        _log.info("The engine cannot be run here, so its graph is checked on the CPU. %s", reason)
        parity = replay_file(graph, manifest, backend=_graph_backend(config.backend))
    if manifest.parity is not None and manifest.parity.auroc_drift is not None:
        drift = manifest.parity.auroc_drift
        parity = dataclasses.replace(parity, auroc_drift=drift, auroc_drift_reason=None)
    dataclasses.replace(engine_manifest, parity=parity, engine=build).write(draft.model)


def _require_precision(share: float, kind: str, precision: str, path: Path) -> None:
    """Refuse an engine whose layers are not what was asked for; few of fp16's are fp32 by intent."""
    if (share > 0) != (precision == kind):
        raise CheckFailedError(
            f"The inspector finds {share:.0%} of the layers of {path.name} in "
            f"{'half precision' if kind == 'fp16' else 'INT8'}; wanted "
            f"{'some' if precision == kind else 'none'} for {precision}. Build with another --precision or "
            "--opt-level."
        )
