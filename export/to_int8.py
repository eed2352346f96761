"""Export to INT8: an fp32 ONNX file of ours becomes one whose networks' convolutions compute in 8 bits.

It takes onnx and ONNX Runtime, but no PyTorch. Before the file takes its place it is held against fp32
PyTorch's scores, which the source's reference file has, and against the fp32 file's speed on this machine.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cada_edge.errors import CadaEdgeError, ConfigError, ModelError
from cada_edge.export.auroc_drift import with_drift
from cada_edge.export.calibration_images import CalibrationImages, calibration_images
from cada_edge.export.draft import check_places, draft_of
from cada_edge.export.export_result import ExportResult
from cada_edge.export.speed_ratio import CPU_BACKENDS, SpeedRatio, compare_speed
from cada_edge.extras import require_extra
from cada_edge.files import sha256_file
from cada_edge.manifest import Manifest, Parity, manifest_path
from cada_edge.quantization import Quantization
from cada_edge.runtime.backend import choose_backend
from cada_edge.runtime.datasets import DatasetIndex
from cada_edge.runtime.parity import Reference, read_reference, replay, require_reference

__all__ = ["WORTHWHILE", "Int8Config", "export_int8", "refuse_calibration"]

_log = logging.getLogger(__name__)

WORTHWHILE = 1.3
"""Below this many times the speed of fp32 a warning is given."""

_SPEED_PAIRS, _SPEED_S = 15, 4.0
"""Calls of each file, and seconds on one engine, for the ratio that the export tells."""


@dataclass(frozen=True)
class Int8Config:
    """How to quantise."""

    calibration: Path | None = None
    """Folder of good parts, or a data set in any of the layouts, whose training images are taken."""
    calibration_images: int = 64
    """Images to use, chosen evenly; all where there are fewer."""
    backend: str = "auto"
    """Engine of the parity check."""
    compare_speed: bool = True
    """Measure on this machine's CPU how much faster than the fp32 file the new one is."""

    def __post_init__(self) -> None:
        if self.calibration is None:
            raise ConfigError(
                "--precision int8 came without --calibration; wanted a folder of good parts, or the data set "
                "that the model was trained on: the ranges of the 8 bits are taken from its images. Pass "
                "--calibration DIR."
            )


def refuse_calibration(precision: str | None, calibration: Path | None) -> None:
    """Refuse calibration images where nothing is quantised.

    Raises:
        ConfigError: They came with another precision than int8.
    """
    if calibration is not None and precision != "int8":
        raise ConfigError(
            f"--calibration came with --precision {precision or 'of the format'}; wanted it with int8 only, "
            "which takes its ranges from these images. Leave it out, or pass --precision int8."
        )


def export_int8(
    source: str | Path,
    out: str | Path,
    config: Int8Config,
    *,
    data: DatasetIndex | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> ExportResult:
    """Quantise an fp32 ONNX file, check it, and only then put it in its place.

    Args:
        source: An ONNX file of ours in fp32, with its manifest and reference file beside it.
        out: The file to write, ending in .onnx.
        config: Calibration images and engine.
        data: A data set whose test images the AUROC drift against the fp32 file is measured on.
        progress: Called with a phase, its steps done and its steps.

    Returns:
        Where everything is, the parity figures and the speed on this machine.

    Raises:
        CheckFailedError: Parity over a limit, or too few convolutions within it; nothing is written.
        ConfigError: An output that is no ONNX file or is the source, or a source in another precision.
        DatasetError: The calibration images are too few or cannot be read.
        ModelError: The source cannot be used.
        OutputError: The folder or disk does not take the files.
        MissingExtraError: onnx or ONNX Runtime is not installed.
    """
    source, out = Path(source), Path(out)
    _check_out(source, out)
    require_extra("Quantising", "onnx", "train")
    require_extra("Quantising", "onnxruntime", "train")
    manifest, reference_path = _read_source(source)
    assert config.calibration is not None
    images = calibration_images(config.calibration, most=config.calibration_images)
    reference = read_reference(reference_path)
    reference_name = f"{out.stem}.reference.npz"
    with draft_of(out, reference_name) as draft:
        quantization = _quantize(source, draft.model, manifest, images, reference, progress)
        parity = _check(source, draft.model, manifest, config, reference, data)
        shutil.copyfile(reference_path, draft.reference)
        written = _manifest(manifest, draft.model, draft.reference, quantization, parity)
        written.write(draft.model)
        draft.publish()
    speed = _compare(source, out, reference) if config.compare_speed else ()
    _tell(speed)
    return ExportResult(
        model=out,
        manifest=manifest_path(out),
        reference=out.with_name(reference_name),
        parity=parity,
        threshold=written.threshold,
        quantization=quantization,
        speed=speed,
    )


def _check_out(source: Path, out: Path) -> None:
    if out.suffix != ".onnx":
        raise ConfigError(
            f"The output {out.name} came; wanted a name ending in .onnx. Pass --out model.onnx."
        )
    if out.resolve() == source.resolve():
        raise ConfigError(
            f"{source} came as source and as output; wanted the fp32 file kept, of which others are made. "
            f"Pass --out {source.stem}-int8.onnx."
        )
    check_places(out, f"{out.stem}.reference.npz")


def _read_source(source: Path) -> tuple[Manifest, Path]:
    """Read the manifest of an fp32 file and find its reference file."""
    manifest = Manifest.read(source)
    manifest.check_model_file(source)
    if manifest.format != "onnx":
        raise ModelError(
            f"The manifest of {source} has the format {manifest.format!r}; wanted 'onnx'. Export the "
            "checkpoint again."
        )
    if manifest.precision != "fp32":
        raise ConfigError(
            f"{source} is in {manifest.precision} already; wanted an fp32 file to quantise. Export the "
            "checkpoint itself with --precision int8, or first with --precision fp32."
        )
    return manifest, require_reference(source, manifest)


def _quantize(
    source: Path,
    draft: Path,
    manifest: Manifest,
    images: CalibrationImages,
    reference: Reference,
    progress: Callable[[str, int, int], None] | None,
) -> Quantization:
    """Write the quantised graph."""
    import onnx

    from cada_edge.export.quantize import METHOD, quantize_all, quantize_within_limits

    folder = draft.with_name("calibration")
    folder.mkdir()
    original = onnx.load(source)
    everything = quantize_all(source, images.frames(manifest.frame_hw or manifest.input_hw), folder)
    shutil.rmtree(folder)
    quantized = quantize_within_limits(original, everything, reference, progress=progress)
    onnx.save(quantized.model, draft)
    onnx.checker.check_model(quantized.model, full_check=True)
    return Quantization(
        images=len(images),
        images_found=images.found,
        source=str(images.source),
        data_fingerprint=images.data_fingerprint,
        method=METHOD,
        int8_layers=len(quantized.int8),
        int8_share=quantized.share,
        fp32_layers=quantized.given_up,
    )


def _check(
    source: Path,
    draft: Path,
    manifest: Manifest,
    config: Int8Config,
    reference: Reference,
    data: DatasetIndex | None,
) -> Parity:
    """Replay the reference frames through the file's own engine, and measure the drift against fp32."""
    with ExitStack() as stack:

        def opened(path: Path) -> Any:
            engine = choose_backend(path, config.backend)
            engine.open()
            stack.callback(engine.close)
            return engine

        engine = opened(draft)
        parity = replay(engine.infer, reference, precision="int8", backend=engine.description)
        if data is None:
            return parity
        before = opened(source)
        return with_drift(
            parity,
            data,
            manifest.frame_hw or manifest.input_hw,
            wanted=lambda frames: before.infer(frames).score,
            found=lambda frames: engine.infer(frames).score,
            precision="int8",
        )


def _manifest(
    manifest: Manifest, model: Path, reference: Path, quantization: Quantization, parity: Parity
) -> Manifest:
    import onnx
    import onnxruntime

    return dataclasses.replace(
        manifest,
        model_file=model.name,
        model_sha256=sha256_file(model),
        precision="int8",
        created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        versions={**manifest.versions, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        parity=parity,
        reference_file=reference.name,
        quantization=quantization,
    )


def _compare(source: Path, model: Path, reference: Reference) -> tuple[SpeedRatio, ...]:
    """Time both files on every engine that is here; the export is done, so one that fails is only told."""
    found: list[SpeedRatio] = []
    for backend in CPU_BACKENDS:
        try:
            found += compare_speed(
                source, model, reference.frames, pairs=_SPEED_PAIRS, most_s=_SPEED_S, backends=(backend,)
            )
        except CadaEdgeError as error:
            _log.warning("%s could not be timed: %s", backend, error)
    return tuple(found)


def _tell(speed: tuple[SpeedRatio, ...]) -> None:
    for each in speed:
        _log.info("INT8 is %s", each.to_text())
        if each.ratio < WORTHWHILE:
            _log.warning(
                "INT8 is %.2f times as fast as fp32 on %s here; wanted at least %.1f. Use the fp32 file "
                "there, or another backend.",
                each.ratio,
                each.backend,
                WORTHWHILE,
            )
