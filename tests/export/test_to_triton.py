"""A Triton model repository: its files, the order of versions, what is refused; nothing is half done."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from cada_edge import Detector
from cada_edge.cli import main
from cada_edge.engine_build import EngineBuild
from cada_edge.errors import ConfigError, ModelMismatchError, ModelNotFoundError, OutputError
from cada_edge.export import to_triton
from cada_edge.export.to_onnx import ExportConfig, export_onnx
from cada_edge.export.to_triton import TritonConfig, export_triton
from cada_edge.files import sha256_file
from cada_edge.manifest import Manifest
from cada_edge.runtime.parity import verify

_FILES = ["model.onnx", "model.onnx.json", "model.reference.npz"]


@pytest.fixture(scope="module")
def exported(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(small_checkpoint, tmp_path_factory.mktemp("export") / "pill.onnx").model


def _engine(folder: Path, batch: tuple[int, int, int] = (1, 4, 8), **build: object) -> Path:
    """Write a file that stands for an engine, with the manifest of one; nothing here deserialises it."""
    path = folder / "pill.engine"
    path.write_bytes(b"an engine's bytes")
    fields: dict[str, Any] = {"target": "tensorrt", "tensorrt_version": "10.3.0", "executed": True}
    fields |= {"compute_capabilities": ("8.7",), "hardware_compatibility": "none", "batch": batch, **build}
    made = EngineBuild(**fields)
    manifest = Manifest(
        model_file=path.name, model_sha256=sha256_file(path), format="engine", precision="fp16",
        base="revdist", encoder="resnet18", input_hw=(64, 64), resize="area-linear", mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2), alignment="cada", range_floor=0.1, upsampling="centred", smoothing={},
        top_fraction=0.01, checkpoint_sha256="0" * 64, data_fingerprint="0" * 64, recipe="industrial",
        created_at="", versions={}, engine=made,
    )  # fmt: skip
    manifest.write(path)
    return path


def _tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_checkpoint_becomes_the_first_version(small_checkpoint: Path, tmp_path: Path) -> None:
    result = export_triton(small_checkpoint, tmp_path / "models", export=ExportConfig(backend="onnxruntime"))
    root = tmp_path / "models" / "cada_edge"
    assert _tree(root) == [*(f"1/{name}" for name in _FILES), "config.pbtxt"]
    assert sorted(path.name for path in root.iterdir()) == ["1", "config.pbtxt"]
    assert (result.version, result.config_written) == (1, True)
    assert (result.model, result.config) == (root / "1" / "model.onnx", root / "config.pbtxt")
    assert result.threshold == Manifest.read(result.model).threshold
    assert 'name: "cada_edge"\n' in result.config.read_text()
    assert "max_batch_size: 16\n" in result.config.read_text()
    # Our own commands work on the files in the repository.
    assert verify(result.model, backend="onnxruntime").images > 3


def test_an_onnx_file_is_copied_and_scores_the_same(exported: Path, tmp_path: Path) -> None:
    result = export_triton(exported, tmp_path, TritonConfig(name="pills", max_batch=4, queue_delay_us=0))
    assert _tree(tmp_path / "pills") == [*(f"1/{name}" for name in _FILES), "config.pbtxt"]
    assert result.model.read_bytes() == exported.read_bytes()
    text = result.config.read_text()
    assert "max_batch_size: 4\n" in text
    assert "max_queue_delay_microseconds: 0\n" in text
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with (
        Detector(exported, backend="onnxruntime") as one,
        Detector(result.model, backend="onnxruntime") as two,
    ):
        assert one(frame).score == two(frame).score


def test_the_config_describes_the_graph(exported: Path, tmp_path: Path) -> None:
    """Names, types and shapes as ONNX Runtime, which is Triton's backend, sees them; the batch left away."""
    result = export_triton(exported, tmp_path)
    session = onnxruntime.InferenceSession(str(result.model), providers=["CPUExecutionProvider"])
    kinds = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}
    text = result.config.read_text()
    for item in (*session.get_inputs(), *session.get_outputs()):
        assert isinstance(item.shape[0], str)  # the batch is free
        dims = item.shape[1:] or [1]
        assert f'  name: "{item.name}"\n  data_type: {kinds[item.type]}\n  dims: {dims}\n' in text


def test_the_next_version_keeps_a_config_that_was_changed(exported: Path, tmp_path: Path) -> None:
    first = export_triton(exported, tmp_path)
    changed = first.config.read_text().replace("max_batch_size: 16", "max_batch_size: 32 # two GPUs")
    first.config.write_text(changed)
    second = export_triton(exported, tmp_path)
    assert (second.version, second.config_written) == (2, False)
    assert first.config.read_text() == changed
    # Only whole numbers are versions, and the highest counts.
    (tmp_path / "cada_edge" / "notes").mkdir()
    (tmp_path / "cada_edge" / "007").mkdir()
    (tmp_path / "cada_edge" / "2").rename(tmp_path / "cada_edge" / "10")
    assert export_triton(exported, tmp_path).version == 11


def test_an_engine_is_served_by_tensorrt(tmp_path: Path) -> None:
    result = export_triton(_engine(tmp_path), tmp_path / "models")
    assert _tree(tmp_path / "models") == [
        "cada_edge/1/model.engine",
        "cada_edge/1/model.engine.json",
        "cada_edge/config.pbtxt",
    ]
    text = result.config.read_text()
    assert 'platform: "tensorrt_plan"\nmax_batch_size: 8\ndefault_model_filename: "model.engine"\n' in text


def test_an_engine_that_never_ran_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    export_triton(_engine(tmp_path, executed=False), tmp_path / "models")
    assert "has not run on a GPU yet. Run cada-edge verify" in caplog.text


@pytest.mark.parametrize(
    ("batch", "build", "config", "message"),
    [
        ((1, 4, 8), {"target": "rtx"}, {}, r"built for the target rtx; Triton's .* --target tensorrt"),
        ((2, 4, 8), {}, {}, r"batches of 2 to 8 frames; Triton sends single frames.* --batch 1,4,8"),
        (
            (1, 4, 8),
            {},
            {"max_batch": 9},
            r"max_batch 9 came for an engine .* up to 8 frames.* --max-batch 8",
        ),
    ],
)
def test_engines_that_triton_cannot_serve(
    batch: tuple[int, int, int],
    build: dict[str, object],
    config: dict[str, int],
    message: str,
    tmp_path: Path,
) -> None:
    source = _engine(tmp_path, batch, **build)
    with pytest.raises(ConfigError, match=message):
        export_triton(source, tmp_path / "models", TritonConfig(**config))  # type: ignore[arg-type]
    assert not (tmp_path / "models" / "cada_edge").exists()


def test_versions_that_the_config_does_not_describe(exported: Path, tmp_path: Path) -> None:
    export_triton(_engine(tmp_path), tmp_path / "models")
    before = _tree(tmp_path / "models")
    with pytest.raises(ConfigError, match=r"version 1, engine of 64x64 .* the new model is onnx of 64x64"):
        export_triton(exported, tmp_path / "models")
    with pytest.raises(ConfigError, match=r"batches of up to 8 frames; the new engine .* --batch 1,8,8"):
        export_triton(_engine(tmp_path, (1, 2, 4)), tmp_path / "models")
    with pytest.raises(ConfigError, match=r"max_batch 2 came, but .*config.pbtxt is there already"):
        export_triton(exported, tmp_path / "models", TritonConfig(max_batch=2))
    assert _tree(tmp_path / "models") == before
    assert export_triton(_engine(tmp_path, (1, 8, 16)), tmp_path / "models").version == 2


def test_a_folder_of_others_is_left_alone(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "cada_edge" / "1").mkdir(parents=True)
    (tmp_path / "cada_edge" / "1" / "model.plan").write_bytes(b"x")
    (tmp_path / "cada_edge" / "config.pbtxt").write_text("")
    with pytest.raises(ConfigError, match=r"holds 1, config.pbtxt, but not .* Pass another --model-name"):
        export_triton(exported, tmp_path)
    assert _tree(tmp_path / "cada_edge") == ["1/model.plan", "config.pbtxt"]


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "../x"])
def test_impossible_names(name: str) -> None:
    with pytest.raises(ConfigError, match=r"wanted letters, digits.* --model-name cada_edge"):
        TritonConfig(name=name)


def test_impossible_numbers() -> None:
    with pytest.raises(ConfigError, match=r"max_batch 0 came; wanted at least 1"):
        TritonConfig(max_batch=0)
    with pytest.raises(ConfigError, match=r"queue_delay_us -1 came; wanted 0 or more"):
        TritonConfig(queue_delay_us=-1)


def test_sources_and_places_that_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"wanted a folder, the model repository. Pass --out models"):
        export_triton(exported, tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=r"is exported already: its precision"):
        export_triton(exported, tmp_path, export=ExportConfig())
    with pytest.raises(ModelNotFoundError, match="no model file"):
        export_triton(tmp_path / "none.onnx", tmp_path)
    copies = [shutil.copy(exported.with_name(name), tmp_path) for name in ("pill.onnx", "pill.onnx.json")]
    with pytest.raises(ModelMismatchError, match=r"pill.reference.npz is missing, or is not the one"):
        export_triton(copies[0], tmp_path / "models")
    with Path(copies[0]).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelMismatchError, match="SHA-256"):
        export_triton(copies[0], tmp_path / "models")
    assert not list((tmp_path / "models").glob("*"))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_half_written(
    error: BaseException, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_triton(exported, tmp_path, TritonConfig(name="old"))
    before = _tree(tmp_path)

    def fail(*_: object) -> None:
        raise error

    for name in ("old", "new"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", fail)
            wanted = OutputError if isinstance(error, OSError) else KeyboardInterrupt
            with pytest.raises(wanted, match=r"No space left|^$"):
                export_triton(exported, tmp_path, TritonConfig(name=name))
        assert _tree(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == ["1", "config.pbtxt"]
    # A config without a version, as a machine that lost its power leaves it, is written anew.
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / to_triton.CONFIG_FILE).write_text("max_b")
    assert export_triton(exported, tmp_path, TritonConfig(name="new")).config_written


def test_a_manifest_in_the_repository_names_the_files_there(exported: Path, tmp_path: Path) -> None:
    model = export_triton(exported, tmp_path).model
    was, now = Manifest.read(exported), Manifest.read(model)
    assert now == dataclasses.replace(was, model_file="model.onnx", reference_file="model.reference.npz")


def _run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout if code == 0 else result.stderr


def test_the_command(exported: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    options = ("--format", "triton", "--out", repository)
    made = json.loads(
        _run("export", small_checkpoint, *options, "--model-name", "pills", "--max-batch", 2, "--json")
    )
    assert (made["model_name"], made["version"], made["config_written"]) == ("pills", 1, True)
    assert "max_batch_size: 2\n" in (repository / "pills" / "config.pbtxt").read_text()
    printed = _run("export", exported, *options, "--model-name", "pills")
    assert "version 2 of pills\n" in printed
    assert "config.pbtxt (kept as it was)\n" in printed
    message = _run("export", exported, *options, "--precision", "fp16", "--frame-size", "9x9", code=2)
    assert "--precision, --frame-size came with" in message
    message = _run("export", small_checkpoint, "--max-batch", 2, "--out", tmp_path / "x.onnx", code=2)
    assert "--max-batch came with --format onnx; wanted it with --format triton only" in message
    assert "wanted a folder" in _run("export", exported, "--format", "triton", "--out", exported, code=2)
