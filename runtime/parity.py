"""Parity: the reference file replayed through a model file, on any machine and any engine, without torch.

Every export writes up to 64 frames with the scores, statistics and maps that fp32 PyTorch gave for them.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import CheckFailedError, ModelError, ModelMismatchError, OutputError
from cada_edge.files import atomic_path, sha256_file
from cada_edge.manifest import Manifest, Parity
from cada_edge.runtime.backend import Backend, Outputs, choose_backend

__all__ = [
    "Reference",
    "differences",
    "limits",
    "read_reference",
    "replay",
    "replay_file",
    "require_reference",
    "score_limit",
    "verify",
    "write_reference",
]

_log = logging.getLogger(__name__)

_BATCH, _BATCH_BYTES = 8, 16 << 20
"""Most frames replayed at once, and most bytes of them: at 1080p one frame is 6 MB, and 25 MB in fp32."""

_MAP_LIMITS = {"fp32": 2.5e-3, "fp16": 2e-2, "int8": 2e-1}
"""Largest allowed |pixel - reference| / max(1, |reference|): the file stores maps in half precision (1e-3),
and one pixel strays further than a mean of many. Coarse, but a flipped or shifted map is far beyond."""


@dataclass(frozen=True)
class Reference:
    """Frames and what fp32 PyTorch gave for them."""

    frames: NDArray[np.uint8]
    """uint8 (N, S, S, 3), BGR; (N, H, W, 3) for a file that takes the camera's frames."""
    score: NDArray[np.float32]
    """float32 (N,)."""
    stats: NDArray[np.float32]
    """float32 (N, 2): u^ and the guarded g^."""
    anomaly_map: NDArray[np.float16]
    """float16 (N, S, S)."""
    label: NDArray[np.int8]
    """0 normal, 1 anomalous, -1 synthetic: black, white, noise; (N,)."""


def write_reference(path: Path, reference: Reference) -> None:
    """Write a reference file atomically.

    Raises:
        OutputError: The disk does not take it.
    """
    values = {item.name: getattr(reference, item.name) for item in dataclasses.fields(reference)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **values)


def read_reference(path: Path) -> Reference:
    """Read a reference file.

    Raises:
        ModelMismatchError: It is missing, damaged or incomplete.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            return Reference(**{item.name: data[item.name] for item in dataclasses.fields(Reference)})
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelMismatchError(
            f"The reference file {path} cannot be read: {error}. It lies beside the model since its export: "
            "copy it again, or export the checkpoint again."
        ) from error


def score_limit(precision: str, reference: Reference) -> float:
    """Return the largest allowed |score - reference| / max(1, |reference|).

    Args:
        precision: 'fp32': 1e-4. 'fp16' and 'int8': 2e-3 and 2e-2 of the spread, the distance from the 5th to
            the 95th percentile of the reference scores of the real normal frames.
        reference: Where the spread is taken from.
    """
    if precision == "fp32":
        return 1e-4
    low, high = np.percentile(reference.score[reference.label == 0], [5, 95])
    return float({"fp16": 2e-3, "int8": 2e-2}[precision] * (high - low))


def limits(precision: str, reference: Reference) -> dict[str, float]:
    """Return the largest allowed difference of score, stats and anomaly_map, as `differences` measures them.

    Args:
        precision: One of `cada_edge.manifest.PRECISIONS`.
        reference: Where the spread of the scores is taken from.
    """
    limit = score_limit(precision, reference)
    return {"score": limit, "stats": limit, "anomaly_map": _MAP_LIMITS[precision]}


def differences(
    infer: Callable[[NDArray[np.uint8]], Outputs], reference: Reference, *, backend: str
) -> dict[str, float]:
    """Run the reference frames and measure.

    Args:
        infer: Runs a batch.
        reference: Frames and expectations.
        backend: Description of the engine, for errors.

    Returns:
        Largest |value - reference| / max(1, |reference|) of score, stats and anomaly_map.

    Raises:
        CheckFailedError: A value that is not finite.
    """
    largest: dict[str, float] = dict.fromkeys(("score", "stats", "anomaly_map"), 0.0)
    batch = max(1, min(_BATCH, _BATCH_BYTES // math.prod(reference.frames.shape[1:])))
    for start in range(0, len(reference.frames), batch):
        rows = slice(start, start + batch)
        outputs = infer(reference.frames[rows])
        if not all(np.isfinite(values).all() for values in outputs):
            raise CheckFailedError(
                f"{backend} gave values that are not finite on the reference frames "
                f"{start} to {start + batch - 1}. The model must not be used on this engine: "
                "export it with --precision fp32, or choose another backend."
            )
        for name in largest:
            wanted = getattr(reference, name)[rows].astype(np.float32)
            difference = np.abs(getattr(outputs, name) - wanted) / np.maximum(1, np.abs(wanted))
            largest[name] = max(largest[name], float(difference.max()))
    return largest


def replay(
    infer: Callable[[NDArray[np.uint8]], Outputs], reference: Reference, *, precision: str, backend: str
) -> Parity:
    """Run the reference frames and compare.

    Args:
        infer: Runs a batch.
        reference: Frames and expectations.
        precision: Of the model, for the limit.
        backend: Description of the engine, for the record.

    Returns:
        The figures, all within the limit.

    Raises:
        CheckFailedError: A difference over the limit, or a value that is not finite.
    """
    allowed = limits(precision, reference)
    largest = differences(infer, reference, backend=backend)
    for name, limit in allowed.items():
        if largest[name] > limit:
            raise CheckFailedError(
                f"Parity failed on {backend}: {name} differs from PyTorch's by {largest[name]:.3g} (relative "
                f"above 1); the limit for {precision} is {limit:.3g}. Do not use this file: export with "
                "--precision fp32, or choose another backend."
            )
    return Parity(
        images=len(reference.frames),
        max_score_difference=largest["score"],
        max_stats_difference=largest["stats"],
        max_map_difference=largest["anomaly_map"],
        score_limit=allowed["score"],
        backend=backend,
        auroc_drift_reason="fewer than 100 normal and 100 anomalous images were given",
    )


def replay_file(
    model_path: Path, manifest: Manifest, *, backend: str = "auto", threads: int | None = None
) -> Parity:
    """Run a model file on the reference file beside it; nothing is written.

    Args:
        model_path: The model file.
        manifest: Its manifest.
        backend: As for `Detector`.
        threads: As for `Detector`.

    Returns:
        The figures, all within the limit.

    Raises:
        CheckFailedError: Over a limit, or a value that is not finite.
        ModelError: The reference file is missing, damaged or another one, or the engine refuses the model.
    """
    if manifest.reference_file is None:
        raise ModelError(
            f"The manifest of {model_path} names no reference file. Export the checkpoint again."
        )
    reference_path = model_path.parent / manifest.reference_file
    if reference_path.is_file() and sha256_file(reference_path) != manifest.reference_sha256:
        raise ModelMismatchError(
            f"The reference file {reference_path} is not the one that the manifest describes. "
            "Copy both again."
        )
    reference = read_reference(reference_path)
    engine: Backend = choose_backend(model_path, backend, threads=threads)
    engine.open()
    try:
        return replay(engine.infer, reference, precision=manifest.precision, backend=engine.description)
    finally:
        engine.close()


def require_reference(model: Path, manifest: Manifest) -> Path:
    """Return a model's reference file, which lies beside it.

    Raises:
        ModelError: It is not there, or is not the one that the manifest describes.
    """
    found = None if manifest.reference_file is None else model.with_name(manifest.reference_file)
    if found is None or not found.is_file() or sha256_file(found) != manifest.reference_sha256:
        raise ModelError(
            f"{model} came without the reference file that its manifest describes "
            f"({manifest.reference_file}); wanted all three files of an export. Copy them again, or export "
            "the checkpoint again."
        )
    return found


def verify(model_path: str | Path, *, backend: str = "auto", threads: int | None = None) -> Parity:
    """Replay the reference file on this machine and write the figures into the manifest.

    Args:
        model_path: The model file; manifest and reference file lie beside it.
        backend: As for `Detector`.
        threads: As for `Detector`.

    Returns:
        The figures; the AUROC drift measured at export is kept. Where the manifest cannot be written, as on a
        read-only box, a warning says so.

    Raises:
        CheckFailedError: Over a limit; the manifest stays as it was.
        ModelError: Model, manifest or reference file are missing, damaged or do not belong together.
    """
    model_path = Path(model_path)
    manifest = Manifest.read(model_path)
    manifest.check_model_file(model_path)
    parity = replay_file(model_path, manifest, backend=backend, threads=threads)
    # Read again: a calibration may have changed the manifest while the frames were replayed.
    manifest = manifest.reread(model_path)
    if manifest.parity is not None and manifest.parity.auroc_drift is not None:
        parity = dataclasses.replace(parity, auroc_drift=manifest.parity.auroc_drift, auroc_drift_reason=None)
    build = manifest.engine
    if build is not None:
        build = dataclasses.replace(build, executed=True)
    try:
        dataclasses.replace(manifest, parity=parity, engine=build).write(model_path)
    except OutputError as error:
        _log.warning("Parity holds, but the manifest keeps its old figures. %s", error)
    return parity
