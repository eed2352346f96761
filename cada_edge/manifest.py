"""The manifest: what a deployable model file is and how it was checked, as JSON beside it.

``model.onnx`` has ``model.onnx.json``. Export writes it once, `calibrate` and `verify` rewrite their own
part, and the runtime reads it and trusts the model file only as far as the manifest's SHA-256 goes.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cada_edge.engine_build import EngineBuild
from cada_edge.errors import ManifestError, ModelMismatchError, ModelNotFoundError
from cada_edge.files import sha256_file, write_atomic
from cada_edge.quantization import Quantization

__all__ = ["SCHEMA_VERSION", "Calibration", "Manifest", "Parity", "manifest_path"]

SCHEMA_VERSION = 1
"""Raised whenever an older version of cada-edge could misread a manifest."""

FORMATS = ("onnx", "engine")
"""Kinds of model files."""

PRECISIONS = ("fp32", "fp16", "int8")
"""Of the networks; normalisation, distances, alignment, smoothing and the score are fp32 in each. With int8
it is the networks' convolutions."""

ALIGNMENTS = ("none", "cada", "cada-sigma", "class-predicted")
"""Alignments that a model file can hold."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Calibration:
    """How the threshold came about (split conformal, Vovk et al.; rule: `cada_edge.runtime.conformal`)."""

    images: int
    """Normal images whose scores set the threshold."""
    false_alarm_rate: float
    """Wanted rate of false alarms, 0-1."""
    supported_false_alarm_rate: float
    """Smallest rate that this many images can promise: 1 / (images + 1)."""
    images_needed: int
    """Images that the wanted rate needs."""
    images_for_confidence: int
    """Images that make the rate 95 % sure for this very threshold, not on average over calibrations."""
    interval_low: float
    """Lower end of the 95 % Clopper-Pearson interval of the rate of these images over the threshold, 0-1."""
    interval_high: float
    """Upper end of that interval, 0-1."""
    source: str
    """Where the images came from, in words."""
    data_fingerprint: str
    """SHA-256 over the images' names and bytes."""


@dataclass(frozen=True)
class Parity:
    """The exported file against the fp32 PyTorch model on the reference frames."""

    images: int
    """Frames replayed, synthetic ones included."""
    max_score_difference: float
    """Largest |score - reference| / max(1, |reference|)."""
    max_stats_difference: float
    """The same for u^ and the guarded g^."""
    max_map_difference: float
    """The same for one pixel of the anomaly map; the reference is stored in half precision."""
    score_limit: float
    """What `max_score_difference` had to stay under."""
    backend: str
    """Engine, version and device that ran the file, as 'onnxruntime 1.20.0 CPU'."""
    auroc_drift: float | None = None
    """|AUROC - reference AUROC| in points, or None with the reason beside."""
    auroc_drift_reason: str | None = None
    """Why there is no drift figure."""


@dataclass(frozen=True)
class Manifest:
    """Everything about one deployable model file that is not in the file."""

    model_file: str
    """Name of the model file, without folders."""
    model_sha256: str
    """SHA-256 of the model file."""
    format: str
    """One of `FORMATS`."""
    precision: str
    """Precision of the networks, one of `PRECISIONS`."""
    base: str
    """Base method, as 'revdist'."""
    encoder: str
    """timm name and tag of the encoder, or the name of a bundled one."""
    input_hw: tuple[int, int]
    """Height and width of the network's input, in pixels."""
    resize: str
    """Name of the resize that the runtime must use: `cada_edge.runtime.preprocess.RESIZE_NAME`."""
    mean: tuple[float, float, float]
    """Subtracted from RGB in 0-1, inside the graph."""
    std: tuple[float, float, float]
    """Divided by, inside the graph."""
    alignment: str
    """'none', 'cada', 'cada-sigma' or 'class-predicted'; 'class-aware' would have to be told the kind."""
    range_floor: float
    """Smallest range g^ - u^ that the alignment divides by (this project's own: half the 1 % quantile)."""
    upsampling: str
    """'centred' (each position of a map lies on the pixel that the encoder looks at there) or 'corners'
    (corners aligned, as in the authors' code)."""
    smoothing: dict[str, Any]
    """Smoothing of the aligned map: kernel (pixels), sigma (pixels), padding."""
    top_fraction: float
    """Share of the highest pixels whose mean is the image's score; 0 is the maximum alone."""
    checkpoint_sha256: str
    """SHA-256 of the checkpoint the file was exported from."""
    data_fingerprint: str
    """SHA-256 over the training images' names and bytes."""
    recipe: str
    """Name of the training recipe."""
    created_at: str
    """UTC, ISO 8601."""
    versions: dict[str, str]
    """Versions of the packages that made the file."""
    threshold: float | None = None
    """A score above it is anomalous; None until calibrated."""
    pixel_threshold: float | None = None
    """A pixel of the map above it is anomalous; None: the threshold."""
    calibration: Calibration | None = None
    """How the threshold came about; None without one."""
    parity: Parity | None = None
    """The last check of the file against PyTorch."""
    reference_file: str | None = None
    """Name of the reference file beside the model."""
    reference_sha256: str | None = None
    """SHA-256 of the reference file."""
    frame_hw: tuple[int, int] | None = None
    """Height and width of the frames that the file takes and resizes in its graph, in pixels; None: it takes
    frames of `input_hw`."""
    engine: EngineBuild | None = None
    """How the engine was built; None for an ONNX file."""
    quantization: Quantization | None = None
    """How it was quantised; None in another precision than int8."""
    schema_version: int = field(default=SCHEMA_VERSION)
    """Schema of this manifest."""

    def write(self, model_path: str | Path) -> Path:
        """Write the manifest beside the model file, atomically.

        Args:
            model_path: The model file (not the manifest).

        Returns:
            Path of the manifest.

        Raises:
            OutputError: The folder or disk does not take it.
        """
        text = json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"
        return write_atomic(manifest_path(model_path), text.encode())

    @classmethod
    def read(cls, model_path: str | Path) -> Manifest:
        """Read the manifest beside a model file.

        Args:
            model_path: The model file (not the manifest).

        Raises:
            ModelNotFoundError: There is no model file.
            ManifestError: The manifest is missing, damaged or of a newer schema.
        """
        model_path = Path(model_path)
        try:
            is_file = model_path.is_file()
        except OSError:  # a name too long, or a folder that may not be entered
            is_file = False
        if not is_file:
            raise ModelNotFoundError(
                f"There is no model file at {model_path}. Wanted an exported model; "
                "make one with: cada-edge export checkpoint.pt --out model.onnx"
            )
        path = manifest_path(model_path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ManifestError(
                f"The model {model_path} has no manifest: {path} does not exist. "
                "Copy it together with the model, or export the checkpoint again."
            ) from error
        except (OSError, ValueError) as error:
            raise ManifestError(
                f"The manifest {path} cannot be read: {error}. Copy it again, or export the checkpoint again."
            ) from error
        return cls.from_dict(data, where=path)

    @classmethod
    def from_dict(cls, data: Any, *, where: str | Path = "the manifest") -> Manifest:
        """Make a manifest from parsed JSON.

        Args:
            data: What `json.loads` gave.
            where: Named in errors.

        Raises:
            ManifestError: Not a manifest, incomplete, with unknown keys, or of another schema.
        """
        version = data.get("schema_version") if isinstance(data, dict) else None
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ManifestError(
                f"{where} is no cada-edge manifest: its schema_version is {version!r}. "
                "Export the checkpoint again."
            )
        if version > SCHEMA_VERSION:
            raise ManifestError(
                f"{where} has schema {version}; this cada-edge reads up to schema {SCHEMA_VERSION}. "
                "Upgrade it with: pip install --upgrade cada-edge"
            )
        manifest = _record(cls, data, where=str(where))
        manifest._validate(str(where))
        return manifest

    def _validate(self, where: str) -> None:
        """Refuse values that no export writes: a wrong one here would be a wrong verdict on the line."""
        positive = self.input_hw[0] > 0 and self.input_hw[1] > 0
        wrong = {
            "input_hw": not positive,
            "frame_hw": self.frame_hw is not None and min(self.frame_hw) < 1,
            "std": not all(value > 0 for value in self.std),
            "range_floor": not self.range_floor > 0,
            "top_fraction": not 0 <= self.top_fraction <= 1,
            "model_sha256": not _SHA256.fullmatch(self.model_sha256),
            "format": self.format not in FORMATS,
            "precision": self.precision not in PRECISIONS,
            "alignment": self.alignment not in ALIGNMENTS,
            "model_file": Path(self.model_file).name != self.model_file,
            "reference_file": self.reference_file is not None
            and Path(self.reference_file).name != self.reference_file,
            "engine": (self.engine is not None) != (self.format == "engine")
            or (self.engine is not None and not self.engine.is_possible()),
            "quantization": (self.quantization is not None) != (self.precision == "int8")
            or (self.quantization is not None and not self.quantization.is_possible()),
        }
        for name, is_wrong in wrong.items():
            if is_wrong:
                raise _unusable(where, name, getattr(self, name), _MEANINGS[name])

    def reread(self, model_path: str | Path) -> Manifest:
        """Read the manifest again, before a part of it is rewritten.

        Args:
            model_path: The model file.

        Raises:
            ModelMismatchError: It describes another model file by now.
        """
        now = Manifest.read(model_path)
        if now.model_sha256 != self.model_sha256:
            raise ModelMismatchError(
                f"The model {model_path} was exported anew while it was being measured; the old figures do "
                "not belong to it. Run the command again."
            )
        return now

    def check_model_file(self, model_path: str | Path) -> None:
        """Compare the model file's SHA-256 with the manifest's.

        Args:
            model_path: The model file.

        Raises:
            ModelMismatchError: The file is not the one that the manifest describes.
        """
        try:
            got = sha256_file(model_path)
        except OSError as error:
            raise ModelNotFoundError(
                f"The model {model_path} cannot be read: {error.strerror or error}. Check its permissions."
            ) from error
        if got != self.model_sha256:
            raise ModelMismatchError(
                f"The model {model_path} has SHA-256 {got[:12]}…; "
                f"its manifest describes {self.model_sha256[:12]}…. "
                "The file is damaged or was replaced: copy both again, or export the checkpoint again."
            )


def manifest_path(model_path: str | Path) -> Path:
    """Return where a model file's manifest lies: its own name with '.json' added."""
    model_path = Path(model_path)
    return model_path.with_name(model_path.name + ".json")


def _unusable(where: str, name: str, value: Any, wanted: str) -> ManifestError:
    again = (
        "cada-edge calibrate MODEL NORMAL_IMAGES" if name in _CALIBRATED else "cada-edge export checkpoint.pt"
    )
    return ManifestError(f"{where} gives {name} = {value!r}; wanted {wanted}. Write it again with: {again}")


def _record(cls: type[_T], data: Any, *, where: str) -> _T:
    """Make a record of parsed JSON, each value checked against its annotation."""
    if not isinstance(data, dict):
        raise ManifestError(f"{where} is damaged: a {type(data).__name__} came where an object was wanted.")
    fields = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ManifestError(f"{where} has the unknown key {key!r}.{hint} Export the checkpoint again.")
    missing = [
        name
        for name, item in fields.items()
        if name not in data
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ManifestError(
            f"{where} lacks {', '.join(missing)}. Copy it again, or export the checkpoint again."
        )
    return cls(**{name: _value(str(fields[name].type), name, value, where) for name, value in data.items()})


def _value(annotation: str, name: str, value: Any, where: str) -> Any:
    """Check one value against its annotation; lists become tuples where those are wanted."""
    kind, _, optional = annotation.partition(" | ")
    if value is None and optional:
        return None
    if kind in _RECORDS:
        return _record(_RECORDS[kind], value, where=f"{where}, {name}")
    if kind.startswith("tuple["):
        kinds = kind.removeprefix("tuple[").removesuffix("]").split(", ")
        if kinds[-1] == "..." and isinstance(value, (list, tuple)):
            kinds = kinds[:1] * len(value)
        if isinstance(value, (list, tuple)) and len(value) == len(kinds):
            return tuple(_value(inner, name, item, where) for inner, item in zip(kinds, value, strict=True))
        wanted = "a list of texts" if kinds[-1] == "..." else f"{len(kinds)} numbers"
        raise _unusable(where, name, value, wanted)
    fits = {
        "str": isinstance(value, str),
        "bool": isinstance(value, bool),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value),
    }.get(kind, isinstance(value, dict))
    if not fits:
        kinds_in_words = {
            "str": "a text",
            "bool": "true or false",
            "int": "a whole number",
            "float": "a finite number",
        }
        wanted = kinds_in_words.get(kind, "an object")
        raise _unusable(where, name, value, wanted + (" or null" if optional else ""))
    return value


_RECORDS: dict[str, type[Any]] = {
    "Calibration": Calibration,
    "EngineBuild": EngineBuild,
    "Parity": Parity,
    "Quantization": Quantization,
}

_CALIBRATED = ("threshold", "pixel_threshold", "calibration")

_SHA256 = re.compile("[0-9a-f]{64}")

_MEANINGS = {
    "format": f"one of {', '.join(FORMATS)}",
    "precision": f"one of {', '.join(PRECISIONS)}",
    "alignment": f"one of {', '.join(ALIGNMENTS)}",
    "engine": "a description of the build that TensorRT could have made, for an engine and for nothing else",
    "quantization": "a description of the calibration, for the precision int8 and for nothing else",
    "input_hw": "two positive whole numbers",
    "frame_hw": "two positive whole numbers, or null",
    "std": "three numbers above 0",
    "range_floor": "a number above 0",
    "top_fraction": "a number from 0 to 1",
    "model_sha256": "64 hexadecimal digits",
    "model_file": "a file name without folders",
    "reference_file": "a file name without folders, or null",
}
