"""Checks of inference engines on a GPU: ONNX Runtime's CUDA provider, TensorRT, TensorRT for RTX."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cada_edge.benchmarks.gpu_outcomes import NotPossible
from cada_edge.benchmarks.gpu_torch_checks import timings
from cada_edge.errors import CadaEdgeError, CheckFailedError, MissingExtraError
from cada_edge.manifest import Manifest
from cada_edge.runtime.backend import OUTPUT_NAMES, Outputs, choose_backend
from cada_edge.runtime.cuda_driver import gpus
from cada_edge.runtime.parity import read_reference, replay

__all__ = ["check_engine", "check_onnxruntime", "exported"]

_BUILDER = "cada_edge.export.to_engine"

_RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that TensorRT for RTX 1.7 builds our graphs for; 7.5 lacks fp32 matrix products."""


def exported(checkpoint: Path, work: Path) -> Path:
    """Return the fp16 ONNX file of a checkpoint, exported when it is first asked for.

    Args:
        checkpoint: Of any base method.
        work: Folder for the file.
    """
    from cada_edge.export.to_onnx import ExportConfig, export_onnx

    path = work / f"{checkpoint.parent.name}-fp16.onnx"
    if not path.is_file():
        export_onnx(checkpoint, path, ExportConfig(precision="fp16", backend="onnxruntime"))
    return path


def check_onnxruntime(model: Path, *, seconds: float) -> Mapping[str, Any]:
    """Run an ONNX file with ONNX Runtime's CUDA provider: parity, and latency of one frame.

    Args:
        model: The file, with manifest and reference file beside it.
        seconds: Of timed calls.

    Raises:
        NotPossible: ONNX Runtime is not there, or has no such provider.
        CheckFailedError: Over the parity limit, or the provider handed the graph to the CPU.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise NotPossible(f"ONNX Runtime is not installed ({error}).") from error
    providers = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in providers:
        raise NotPossible(f"this ONNX Runtime has {', '.join(providers)}, but no CUDAExecutionProvider.")
    options = {"use_tf32": "0"}
    session = onnxruntime.InferenceSession(str(model), providers=[("CUDAExecutionProvider", options)])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise CheckFailedError(f"ONNX Runtime chose {session.get_providers()[0]} in CUDA's place.")

    def infer(frames: np.ndarray[Any, Any]) -> Outputs:
        outputs: Any = session.run(list(OUTPUT_NAMES), {"frames": frames})
        return Outputs(*outputs)

    return _replayed(infer, model, f"onnxruntime {onnxruntime.__version__} CUDA", seconds)


def check_engine(model: Path, *, target: str, work: Path, seconds: float) -> Mapping[str, Any]:
    """Build an engine, run it, replay the reference file and time it.

    Args:
        model: An ONNX file of ours, with manifest and reference file beside it.
        target: 'tensorrt' or 'rtx'.
        work: Folder for the files.
        seconds: Of timed calls.

    Raises:
        NotPossible: A part is missing, or the library refuses this card; the text has its words.
        CheckFailedError: Over the parity limit.
    """
    try:
        builder: Any = importlib.import_module(_BUILDER)
    except ModuleNotFoundError as error:
        if error.name != _BUILDER:
            raise
        raise NotPossible("this version of cada-edge builds no engines.") from error
    capability = "{}.{}".format(*gpus()[0][1])
    is_accepted = target != "rtx" or capability in _RTX_CAPABILITIES
    engine = work / f"{target}.engine"
    try:
        built: Any = builder.export_engine(model, engine, builder.EngineConfig(target=target))
        backend: Any = choose_backend(engine)
        backend.open()
    except MissingExtraError as error:
        raise NotPossible(str(error)) from error
    except CadaEdgeError as error:
        if is_accepted:
            raise
        # Our own error, with its remedy, is what is wanted here; any other one is a failure.
        raise NotPossible(f"TensorRT for RTX is not for {capability}; refused: {error}") from error
    try:
        figures = _replayed(backend.infer, engine, backend.description, seconds)
    finally:
        backend.close()
    return {"build_s": float(built.build_s), **figures}


def _replayed(
    infer: Callable[[np.ndarray[Any, Any]], Outputs], model: Path, backend: str, seconds: float
) -> dict[str, Any]:
    manifest = Manifest.read(model)
    assert manifest.reference_file is not None
    reference = read_reference(model.with_name(manifest.reference_file))
    most = 8 if manifest.engine is None else manifest.engine.batch[2]

    def in_parts(frames: np.ndarray[Any, Any]) -> Outputs:
        parts = [infer(frames[start : start + most]) for start in range(0, len(frames), most)]
        return Outputs(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    parity = replay(in_parts, reference, precision=manifest.precision, backend=backend)
    frame = reference.frames[:1]
    for _ in range(3):
        infer(frame)
    # Transfers in: the call takes and gives arrays of the host, and returns when it is done.
    timed = timings(lambda: infer(frame), lambda: None, batch=1, seconds=seconds)
    return {
        "backend": backend,
        "model": f"{manifest.base} {manifest.encoder}, {manifest.precision}",
        "difference": parity.max_score_difference,
        "limit": parity.score_limit,
        "batch_1_with_transfers": timed,
    }
