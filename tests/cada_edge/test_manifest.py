"""The manifest: what is written is read back, and whatever does not fit is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from cada_edge.engine_build import EngineBuild
from cada_edge.errors import ManifestError, ModelMismatchError, ModelNotFoundError, OutputError
from cada_edge.files import sha256_file
from cada_edge.manifest import SCHEMA_VERSION, Calibration, Manifest, Parity, manifest_path
from cada_edge.quantization import Quantization

CALIBRATION = Calibration(
    images=199,
    false_alarm_rate=0.005,
    supported_false_alarm_rate=1 / 200,
    images_needed=199,
    images_for_confidence=598,
    interval_low=0.0,
    interval_high=0.0184,
    source="held-out normal images",
    data_fingerprint="d" * 64,
)
PARITY = Parity(
    images=24,
    max_score_difference=1.5e-6,
    max_stats_difference=2.0e-6,
    max_map_difference=4.0e-4,
    score_limit=1e-4,
    backend="onnxruntime 1.20.0 CPU",
    auroc_drift_reason="only 12 anomalous images",
)
MANIFEST = Manifest(
    model_file="model.onnx",
    model_sha256="a" * 64,
    format="onnx",
    precision="fp32",
    base="revdist",
    encoder="wide_resnet50_2.tv_in1k",
    input_hw=(256, 192),
    resize="area-then-linear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    alignment="cada",
    range_floor=0.0125,
    upsampling="centred",
    smoothing={"kernel": 33, "sigma": 4.0, "padding": "reflect"},
    top_fraction=0.01,
    checkpoint_sha256="b" * 64,
    data_fingerprint="c" * 64,
    recipe="paper",
    created_at="2026-01-02T03:04:05+00:00",
    versions={"cada-edge": "0.1.0", "größe": "1"},
    threshold=1.25,
    pixel_threshold=1.5,
    calibration=CALIBRATION,
    parity=PARITY,
    reference_file="model.reference.npz",
    reference_sha256="e" * 64,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file without a manifest."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    return path


def _written(model: Path) -> dict[str, Any]:
    MANIFEST.write(model)
    data: dict[str, Any] = json.loads(manifest_path(model).read_text(encoding="utf-8"))
    return data


def _rewrite(model: Path, **changes: Any) -> None:
    manifest_path(model).write_text(json.dumps({**_written(model), **changes}), encoding="utf-8")


def _rewrite_without(model: Path, *names: str) -> None:
    data = {name: value for name, value in _written(model).items() if name not in names}
    manifest_path(model).write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize("name", ["model.onnx", "model.v2.engine", "größe 模型", "no-suffix"])
def test_the_manifest_lies_beside_the_model(name: str) -> None:
    assert manifest_path(Path("out") / name) == Path("out") / f"{name}.json"
    assert manifest_path(f"out/{name}") == Path("out") / f"{name}.json"


def test_what_is_written_is_read_back(model: Path) -> None:
    assert MANIFEST.write(model) == model.with_name("model.onnx.json")
    assert Manifest.read(model) == MANIFEST
    assert Manifest.read(str(model)) == MANIFEST


def test_without_threshold_calibration_and_parity(model: Path) -> None:
    bare = dataclasses.replace(MANIFEST, threshold=None, pixel_threshold=None, calibration=None, parity=None)
    bare.write(model)
    assert Manifest.read(model) == bare


def test_optional_values_may_be_absent_from_the_file(model: Path) -> None:
    optional = ("threshold", "pixel_threshold", "calibration", "parity", "reference_file", "reference_sha256")
    _rewrite_without(model, *optional)
    manifest = Manifest.read(model)
    assert [getattr(manifest, name) for name in optional] == [None] * len(optional)


def test_the_same_manifest_gives_the_same_bytes(model: Path) -> None:
    first = MANIFEST.write(model).read_bytes()
    Manifest.read(model).write(model)
    assert manifest_path(model).read_bytes() == first
    assert first.endswith(b"}\n")


@pytest.mark.parametrize("threshold", [0.0, -1.5, 3, 1e30])
def test_any_finite_number_is_a_threshold(model: Path, threshold: float) -> None:
    dataclasses.replace(MANIFEST, threshold=threshold).write(model)
    assert Manifest.read(model).threshold == threshold


def test_unicode_folders(tmp_path: Path) -> None:
    model = tmp_path / "größe 模型" / "modèle.onnx"
    model.parent.mkdir()
    model.write_bytes(b"weights")
    MANIFEST.write(model)
    assert Manifest.read(model) == MANIFEST


def test_a_manifest_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MANIFEST.threshold = 0.0  # type: ignore[misc]


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no model file at .*gone\.onnx.*cada-edge export"):
        Manifest.read(tmp_path / "gone.onnx")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model file at"):
        Manifest.read(tmp_path)


def test_a_missing_manifest_is_named(model: Path) -> None:
    with pytest.raises(ManifestError, match=r"has no manifest: .*model\.onnx\.json does not exist\. Copy it"):
        Manifest.read(model)


@pytest.mark.parametrize("content", [b"", b"{", b"not json", b"\xff\xfe\x00", b'{"schema_version": 1'])
def test_a_damaged_manifest_is_named(model: Path, content: bytes) -> None:
    manifest_path(model).write_bytes(content)
    with pytest.raises(
        ManifestError, match=r"model\.onnx\.json cannot be read: .*export the checkpoint again"
    ):
        Manifest.read(model)


def test_a_truncated_manifest_is_named(model: Path) -> None:
    whole = MANIFEST.write(model).read_bytes()
    manifest_path(model).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ManifestError, match="cannot be read"):
        Manifest.read(model)


def test_a_folder_instead_of_a_manifest_is_named(model: Path) -> None:
    manifest_path(model).mkdir()
    with pytest.raises(ManifestError, match=r"cannot be read: .*Is a directory"):
        Manifest.read(model)


@pytest.mark.parametrize("content", ["[]", "null", "1", '"text"', "{}", '{"schema_version": "1"}'])
def test_other_json_is_no_manifest(model: Path, content: str) -> None:
    manifest_path(model).write_text(content)
    with pytest.raises(ManifestError, match=r"is no cada-edge manifest: its schema_version is .*\. Export"):
        Manifest.read(model)


def test_a_newer_schema_asks_for_an_upgrade(model: Path) -> None:
    # Its other keys are unknown too: the schema is what the user must hear of.
    _rewrite(model, schema_version=SCHEMA_VERSION + 1, temperature=0.5)
    newer = SCHEMA_VERSION + 1
    wanted = rf"has schema {newer}; .* up to schema {SCHEMA_VERSION}\. .*pip install --upgrade cada-edge"
    with pytest.raises(ManifestError, match=wanted):
        Manifest.read(model)


@pytest.mark.parametrize(
    ("key", "close"), [("treshold", "threshold"), ("input_size_hw", "input_hw"), ("Encoder", "encoder")]
)
def test_an_unknown_key_suggests_the_closest(model: Path, key: str, close: str) -> None:
    _rewrite(model, **{key: None})
    with pytest.raises(ManifestError, match=rf"unknown key '{key}'\. Did you mean {close}\?"):
        Manifest.read(model)


def test_an_unknown_key_like_no_other(model: Path) -> None:
    _rewrite(model, zzz=1)
    with pytest.raises(ManifestError, match=r"unknown key 'zzz'\. Export the checkpoint again"):
        Manifest.read(model)


@pytest.mark.parametrize("part", ["calibration", "parity"])
def test_an_unknown_key_inside_a_part_is_named_with_the_part(model: Path, part: str) -> None:
    _rewrite(model, **{part: {**_written(model)[part], "image": 3}})
    with pytest.raises(
        ManifestError, match=rf"model\.onnx\.json, {part} has the unknown key 'image'.*images\?"
    ):
        Manifest.read(model)


@pytest.mark.parametrize("part", ["calibration", "parity"])
@pytest.mark.parametrize("value", [[], 1, "text", True])
def test_a_part_of_another_type_is_named(model: Path, part: str, value: Any) -> None:
    _rewrite(model, **{part: value})
    kind = type(value).__name__
    with pytest.raises(ManifestError, match=f"{part} is damaged: a {kind} came where an object was wanted"):
        Manifest.read(model)


def test_every_missing_key_is_named(model: Path) -> None:
    _rewrite_without(model, "encoder", "std")
    with pytest.raises(ManifestError, match=r"model\.onnx\.json lacks encoder, std\. Copy it again"):
        Manifest.read(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_hw": [256]}, "gives input_hw = .*; wanted 2 numbers"),
        ({"input_hw": [256, 256, 3]}, "gives input_hw = .*; wanted 2 numbers"),
        ({"input_hw": 256}, "gives input_hw = 256; wanted 2 numbers"),
        ({"input_hw": None}, "gives input_hw = None; wanted 2 numbers"),
        ({"input_hw": [256, 0]}, "gives input_hw = .*; wanted two positive whole numbers"),
        ({"input_hw": [256.0, 256]}, "gives input_hw = 256.0; wanted a whole number"),
        ({"input_hw": ["256", 256]}, "gives input_hw = '256'; wanted a whole number"),
        ({"frame_hw": [1080]}, "gives frame_hw = .*; wanted 2 numbers"),
        ({"frame_hw": [0, 1920]}, "gives frame_hw = .*; wanted two positive whole numbers, or null"),
        ({"frame_hw": "1080x1920"}, "gives frame_hw = '1080x1920'; wanted 2 numbers"),
        ({"mean": [1]}, "gives mean = .*; wanted 3 numbers"),
        ({"std": [0, 1, 1]}, "gives std = .*; wanted three numbers above 0"),
        ({"std": "abc"}, "gives std = 'abc'; wanted 3 numbers"),
        ({"model_sha256": 5}, "gives model_sha256 = 5; wanted a text"),
        ({"model_sha256": "5"}, "gives model_sha256 = '5'; wanted 64 hexadecimal digits"),
        ({"range_floor": "x"}, "gives range_floor = 'x'; wanted a finite number"),
        ({"range_floor": 0}, "gives range_floor = 0; wanted a number above 0"),
        ({"top_fraction": 7}, "gives top_fraction = 7; wanted a number from 0 to 1"),
        ({"smoothing": []}, r"gives smoothing = \[\]; wanted an object"),
        ({"versions": None}, "gives versions = None; wanted an object"),
        (
            {"reference_file": "../../etc/passwd"},
            "gives reference_file = .*; wanted a file name without folders",
        ),
        (
            {"threshold": "1.25"},
            "gives threshold = '1.25'; wanted a finite number or null.*cada-edge calibrate",
        ),
        ({"threshold": float("nan")}, "gives threshold = nan; wanted a finite number or null"),
        ({"threshold": True}, "gives threshold = True; wanted a finite number or null"),
        ({"pixel_threshold": "1"}, "gives pixel_threshold = '1'; wanted a finite number or null"),
        ({"precision": "fp8"}, "gives precision = 'fp8'; wanted one of fp32, fp16"),
        ({"alignment": "cadda"}, "gives alignment = 'cadda'; wanted one of none, cada"),
        ({"format": "engin"}, "gives format = 'engin'; wanted one of onnx, engine"),
        ({"schema_version": True}, "its schema_version is True"),
        ({"schema_version": 0}, "its schema_version is 0"),
    ],
)
def test_impossible_values_are_named(model: Path, changes: dict[str, Any], message: str) -> None:
    _rewrite(model, **changes)
    with pytest.raises(ManifestError, match=message):
        Manifest.read(model)


def test_an_impossible_value_inside_a_part_is_named(model: Path) -> None:
    _rewrite(model, calibration={**_written(model)["calibration"], "images": "many"})
    with pytest.raises(ManifestError, match="calibration gives images = 'many'; wanted a whole number"):
        Manifest.read(model)


def test_a_manifest_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"a file where the folder should be")
    with pytest.raises(OutputError, match=r"Cannot write .*model\.onnx\.json"):
        MANIFEST.write(tmp_path / "out" / "model.onnx")


def test_nan_is_never_written(model: Path) -> None:
    before = MANIFEST.write(model).read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(MANIFEST, threshold=float("nan")).write(model)
    assert manifest_path(model).read_bytes() == before


def test_the_described_model_passes(model: Path) -> None:
    dataclasses.replace(MANIFEST, model_sha256=sha256_file(model)).check_model_file(model)


@pytest.mark.parametrize("content", [b"", b"weightz", b"weight", b"weights "])
def test_any_other_content_of_the_model_is_a_mismatch(model: Path, content: bytes) -> None:
    manifest = dataclasses.replace(MANIFEST, model_sha256=sha256_file(model))
    model.write_bytes(content)
    got = sha256_file(model)[:12]
    described = manifest.model_sha256[:12]
    wanted = rf"model\.onnx has SHA-256 {got}…; its manifest describes {described}…\. .*copy both"
    with pytest.raises(ModelMismatchError, match=wanted):
        manifest.check_model_file(model)


ENGINE = EngineBuild(
    target="rtx",
    tensorrt_version="1.7.1.116",
    compute_capabilities=("8.6", "8.9", "12.0"),
    hardware_compatibility="none",
    batch=(1, 4, 8),
    executed=False,
    onnx_sha256="f" * 64,
    options={"workspace_gib": 2.0},
)


def test_the_build_of_an_engine_is_read_back(model: Path) -> None:
    manifest = dataclasses.replace(MANIFEST, format="engine", engine=ENGINE)
    manifest.write(model)
    assert Manifest.read(model) == manifest


def test_a_manifest_from_before_engines_is_still_read(model: Path) -> None:
    _rewrite_without(model, "engine")
    assert Manifest.read(model) == MANIFEST


@pytest.mark.parametrize(("format_", "engine"), [("engine", None), ("onnx", dataclasses.asdict(ENGINE))])
def test_an_engine_and_only_an_engine_has_a_build(model: Path, format_: str, engine: Any) -> None:
    _rewrite(model, format=format_, engine=engine)
    with pytest.raises(ManifestError, match="for an engine and for nothing else"):
        Manifest.read(model)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"executed": 1}, "executed = 1; wanted true or false"),
        ({"compute_capabilities": "8.6"}, "compute_capabilities = '8.6'; wanted a list of texts"),
        ({"compute_capabilities": [8.6]}, "compute_capabilities = 8.6; wanted a text"),
        ({"batch": [1, 2]}, r"batch = \[1, 2\]; wanted 3 numbers"),
        ({"batch": [1, 2, 2.5]}, "batch = 2.5; wanted a whole number"),
        ({"gpu": 3}, "gpu = 3; wanted a text or null"),
        ({"kernel": 3}, "engine has the unknown key 'kernel'"),
    ],
)
def test_values_of_a_build_that_no_export_writes(model: Path, changes: dict[str, Any], wanted: str) -> None:
    _rewrite(model, format="engine", engine={**dataclasses.asdict(ENGINE), **changes})
    with pytest.raises(ManifestError, match=wanted):
        Manifest.read(model)


QUANTIZATION = Quantization(64, 400, "parts", "0" * 64, "minmax", 35, 0.9, ("first.weight", "second.weight"))


def test_the_record_of_a_quantisation_is_read_back(model: Path) -> None:
    manifest = dataclasses.replace(MANIFEST, precision="int8", quantization=QUANTIZATION)
    manifest.write(model)
    assert Manifest.read(model) == manifest


@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        ("int8", None),
        ("fp32", {}),
        ("int8", {"images": 401}),
        ("int8", {"images": 0}),
        ("int8", {"int8_layers": 0}),
        ("int8", {"int8_share": 0.0}),
        ("int8", {"int8_share": 1.1}),
        ("int8", {"data_fingerprint": "short"}),
    ],
)
def test_int8_and_only_int8_has_a_record(model: Path, precision: str, changes: dict[str, Any] | None) -> None:
    record = None if changes is None else dataclasses.replace(QUANTIZATION, **changes)
    dataclasses.replace(MANIFEST, precision=precision, quantization=record).write(model)
    with pytest.raises(
        ManifestError, match=r"gives quantization = .*; wanted a description of the calibration"
    ):
        Manifest.read(model)
