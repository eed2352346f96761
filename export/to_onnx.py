"""Export of a checkpoint to one ONNX file, checked against PyTorch before it takes its final place."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cada_edge.errors import ConfigError, MissingExtraError
from cada_edge.export.auroc_drift import with_drift
from cada_edge.export.draft import check_places, draft_of, temporary_folder
from cada_edge.export.export_result import ExportResult
from cada_edge.export.graph import INPUT_NAME, FusedGraph
from cada_edge.export.precision import put_sums_into_fp32
from cada_edge.export.reference import at_network_size, reference_of, run_torch
from cada_edge.export.to_int8 import Int8Config, export_int8, refuse_calibration
from cada_edge.files import sha256_file
from cada_edge.manifest import PRECISIONS, Manifest, Parity, manifest_path
from cada_edge.runtime.backend import OUTPUT_NAMES, Backend, choose_backend
from cada_edge.runtime.datasets import DatasetIndex
from cada_edge.runtime.parity import Reference, replay, write_reference
from cada_edge.runtime.preprocess import RESIZE_NAME
from cada_edge.trainer.checkpoint import Checkpoint, load_checkpoint, package_versions
from cada_edge.trainer.model import TrainedModel

if TYPE_CHECKING:
    import onnx

__all__ = ["ExportConfig", "ExportResult", "export_onnx"]

_log = logging.getLogger(__name__)

_OPSETS = {"fp32": 18, "fp16": 20}
"""From 20 on GELU is one operator. Taken apart, as before, 1 + erf(x) would be rounded to half precision."""


@dataclass(frozen=True)
class ExportConfig:
    """How to export."""

    precision: str = "fp32"
    """Of the networks, one of `PRECISIONS`."""
    backend: str = "auto"
    """Engine of the parity check."""
    alignment: str | None = None
    """None for the checkpoint's own; 'none' leaves the alignment out, and with it the threshold."""
    frame_hw: tuple[int, int] | None = None
    """Height and width of the camera's frames, in pixels, which the file then takes as they are and resizes
    in its graph; None for frames of the network's size, to which the runtime resizes any frame."""
    calibration: Path | None = None
    """For int8: as in `Int8Config`."""
    calibration_images: int = Int8Config.calibration_images
    """For int8: as in `Int8Config`."""
    compare_speed: bool = True
    """For int8: as in `Int8Config`."""

    def __post_init__(self) -> None:
        if self.alignment == "class-aware":
            raise ConfigError(
                "alignment 'class-aware' came; it needs each image's category, which a camera does not tell: "
                "it is a reference for evaluation. Export a model trained with cada or class-predicted."
            )
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision {self.precision!r} came; wanted one of {', '.join(PRECISIONS)}.")
        refuse_calibration(self.precision, self.calibration)
        if self.frame_hw is not None and min(self.frame_hw) < 1:
            raise ConfigError(
                f"frame size {self.frame_hw[0]}x{self.frame_hw[1]} came; wanted height and width of the "
                "camera's frames, at least 1 pixel each. Pass --frame-size 1080x1920."
            )


def export_onnx(
    checkpoint_path: str | Path,
    out: str | Path,
    config: ExportConfig | None = None,
    *,
    data: DatasetIndex | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> ExportResult:
    """Export a checkpoint, replay its reference frames through the file, and only then put it in its place.

    Args:
        checkpoint_path: What training wrote.
        out: The model file to write, ending in .onnx; manifest and reference file are written beside it.
        config: Precision and engine.
        data: A data set whose test images the AUROC drift is measured on.
        progress: For int8: called with a phase, its steps done and its steps.

    Returns:
        Where everything is, and the parity figures.

    Raises:
        CheckFailedError: Parity over a limit, or a value that is not finite; nothing is written.
        ConfigError: An alignment that the checkpoint does not have, or a resize that cameras do not have.
        CheckpointError: The checkpoint cannot be used.
        OutputError: The folder or disk does not take the files.
        MissingExtraError: onnx, onnxscript or an engine is not installed.
    """
    config = config or ExportConfig()
    out = Path(out)
    if out.suffix != ".onnx":
        raise ConfigError(
            f"The output {out.name} came; wanted a name ending in .onnx. Pass --out model.onnx."
        )
    reference_name = f"{out.stem}.reference.npz"
    check_places(out, reference_name)
    if config.precision == "int8":
        return _export_int8(Path(checkpoint_path), out, config, data, progress)
    checkpoint = _aligned(load_checkpoint(checkpoint_path), config.alignment)
    if checkpoint.config.resize != RESIZE_NAME:
        raise ConfigError(
            f"{checkpoint_path} was trained with --resize {checkpoint.config.resize}, which is for "
            f"comparisons with the paper; wanted {RESIZE_NAME}, by which the runtime resizes a camera's "
            "frames: scores would not be those that were evaluated. Train it without --resize."
        )
    reference = reference_of(checkpoint, frame_hw=config.frame_hw)
    with draft_of(out, reference_name) as draft:
        graph = FusedGraph(checkpoint.model, precision=config.precision, frame_hw=config.frame_hw)
        _write_graph(graph, draft.model)
        parity = _check(draft.model, reference, checkpoint, config, data)
        write_reference(draft.reference, reference)
        manifest = _manifest(checkpoint, Path(checkpoint_path), draft.model, draft.reference, config, parity)
        manifest.write(draft.model)
        draft.publish()
    return ExportResult(out, manifest_path(out), out.with_name(reference_name), parity, manifest.threshold)


def _export_int8(
    checkpoint: Path,
    out: Path,
    config: ExportConfig,
    data: DatasetIndex | None,
    progress: Callable[[str, int, int], None] | None,
) -> ExportResult:
    """Export to fp32, quantise that file, and throw it away."""
    options = Int8Config(
        config.calibration, config.calibration_images, config.backend, compare_speed=config.compare_speed
    )
    fp32 = dataclasses.replace(config, precision="fp32", calibration=None)
    # A dot first: whoever watches the folder for models takes no notice.
    with temporary_folder(out) as folder:
        whole = export_onnx(checkpoint, folder / "fp32.onnx", fp32)
        return export_int8(whole.model, out, options, data=data, progress=progress)


def _aligned(checkpoint: Checkpoint, alignment: str | None) -> Checkpoint:
    """Take the alignment out of a checkpoint where that is asked for."""
    own = checkpoint.config.alignment
    if alignment in (None, own):
        return checkpoint
    if alignment != "none":
        raise ConfigError(
            f"alignment {alignment!r} came for a checkpoint trained with {own!r}; wanted that or none. "
            f"Train it with --alignment {alignment}."
        )
    config = dataclasses.replace(checkpoint.config, alignment="none")
    model = TrainedModel(checkpoint.model.base, None, config, floor=checkpoint.model.floor).eval()
    return dataclasses.replace(checkpoint, model=model, config=config, threshold=None, calibration=None)


def _write_graph(graph: FusedGraph, path: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise MissingExtraError("Exporting to ONNX", str(error.name), "train") from error
    example = torch.zeros(2, *graph.frame_hw, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        # torch's exporter warns about its own internals; what matters is checked on the result.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (example,),
            input_names=[INPUT_NAME],
            output_names=list(OUTPUT_NAMES),
            dynamic_shapes={"frames": {0: torch.export.Dim("batch", min=1, max=64)}},
            opset_version=_OPSETS[graph.precision],
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(path, external_data=False)
    model = onnx.load(path)
    _read_input_once(model)
    if graph.precision == "fp16" and (changed := put_sums_into_fp32(model)):
        _log.info("%d operators of the networks put into fp32: %s", len(changed), ", ".join(changed[:3]))
    onnx.save(model, path)
    onnx.checker.check_model(model, full_check=True)
    left = [node.name for node in model.graph.node if node.op_type == "BatchNormalization"]
    if left:
        _log.info("%d batch normalisations could not be folded: %s", len(left), ", ".join(left[:3]))


def _read_input_once(model: onnx.ModelProto) -> None:
    """Let all that reads the frames read their cast, in place: TensorRT takes no other reader of uint8.

    A base method that asks for the batch's size reads the shape of the input.
    """
    nodes = list(model.graph.node)
    cast = next(node for node in nodes if node.op_type == "Cast" and node.input[0] == INPUT_NAME)
    for node in nodes:
        for index, name in enumerate(node.input):
            if name == INPUT_NAME and node is not cast:
                node.input[index] = cast.output[0]
    nodes.remove(cast)
    del model.graph.node[:]
    model.graph.node.extend([cast, *nodes])


def _check(
    draft: Path, reference: Reference, checkpoint: Checkpoint, config: ExportConfig, data: DatasetIndex | None
) -> Parity:
    engine: Backend = choose_backend(draft, config.backend)
    engine.open()
    try:
        parity = replay(engine.infer, reference, precision=config.precision, backend=engine.description)
        if data is None:
            return parity
        size = checkpoint.config.size
        return with_drift(
            parity,
            data,
            config.frame_hw or (size, size),
            wanted=lambda frames: run_torch(checkpoint.model, at_network_size(frames, size))[0],
            found=lambda frames: engine.infer(frames).score,
            precision=config.precision,
        )
    finally:
        engine.close()


def _manifest(
    checkpoint: Checkpoint,
    checkpoint_path: Path,
    model: Path,
    reference: Path,
    config: ExportConfig,
    parity: Parity,
) -> Manifest:
    trained = checkpoint.config
    return Manifest(
        model_file=model.name,
        model_sha256=sha256_file(model),
        format="onnx",
        precision=config.precision,
        base=trained.base,
        encoder=trained.encoder,
        input_hw=(trained.size, trained.size),
        resize=RESIZE_NAME,
        mean=checkpoint.model.base.encoder.mean,
        std=checkpoint.model.base.encoder.std,
        alignment=trained.alignment,
        range_floor=checkpoint.model.floor,
        upsampling="corners" if trained.aligns_corners else "centred",
        smoothing=dataclasses.asdict(trained.smoothing),
        top_fraction=trained.top_fraction,
        checkpoint_sha256=sha256_file(checkpoint_path),
        data_fingerprint=checkpoint.data_fingerprint,
        recipe=trained.recipe,
        created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        versions=package_versions("torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy"),
        threshold=checkpoint.threshold,
        calibration=checkpoint.calibration,
        parity=parity,
        reference_file=reference.name,
        reference_sha256=sha256_file(reference),
        frame_hw=config.frame_hw,
    )
