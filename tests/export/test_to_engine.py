"""Export to an engine: real builds by TensorRT for RTX, and every refusal before and after them."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cada_edge.cli import main
from cada_edge.errors import (
    BackendError,
    CheckFailedError,
    ConfigError,
    CudaError,
    ManifestError,
    MissingExtraError,
    ModelError,
    ModelMismatchError,
    OutputError,
)
from cada_edge.export import to_engine
from cada_edge.export.engine_config import EngineConfig
from cada_edge.export.to_engine import export_engine
from cada_edge.files import sha256_file
from cada_edge.manifest import Manifest
from cada_edge.trainer.config import BASES

pytest.importorskip("tensorrt_rtx", reason="pip install 'cada-edge[rtx]'")

CAPABILITIES = ("8.6", "8.9", "12.0")

GraphOf = Callable[..., Path]


def _config(**changes: Any) -> EngineConfig:
    """For one GPU where the number does not matter: each takes a build of its own."""
    return EngineConfig(**{"target": "rtx", "compute_capabilities": ("8.6",), **changes})


@pytest.fixture(autouse=True)
def without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a GPU, also where there is one: what runs on GPUs is tested with doubles."""
    monkeypatch.setattr("cada_edge.runtime.cuda_driver._LIBRARY", "libcuda-of-no-machine.so")


@pytest.fixture
def own(graph_of: GraphOf, tmp_path: Path) -> Path:
    """A copy of RevDist's fp32 graph with manifest and reference file, to be spoiled."""
    graph = graph_of("revdist", "fp32")
    folder = tmp_path / "own"
    shutil.copytree(graph.parent, folder)
    return folder / graph.name


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("base", list(BASES))
def test_every_base_is_built_for_three_gpus(
    base: str, precision: str, graph_of: GraphOf, tmp_path: Path
) -> None:
    graph = graph_of(base, precision)
    out = tmp_path / "model.engine"
    config = _config(batch=(1, 4, 8), compute_capabilities=CAPABILITIES)
    result = export_engine(graph, out, config)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["model.engine", "model.engine.json", "model.engine.reference.npz"]
    manifest, of_graph = Manifest.read(out), Manifest.read(graph)
    manifest.check_model_file(out)
    assert (manifest.format, manifest.precision, manifest.base) == ("engine", precision, base)
    kept = (
        "threshold",
        "calibration",
        "input_hw",
        "frame_hw",
        "alignment",
        "checkpoint_sha256",
        "reference_sha256",
    )
    assert {name: getattr(manifest, name) for name in kept} == {
        name: getattr(of_graph, name) for name in kept
    }
    assert sha256_file(result.reference) == manifest.reference_sha256
    assert manifest.parity == result.parity
    assert result.parity.backend.startswith("onnxruntime")
    assert result.parity.max_score_difference <= result.parity.score_limit
    build = manifest.engine
    assert build == result.engine
    assert build is not None
    assert (build.target, build.compute_capabilities, build.batch) == ("rtx", CAPABILITIES, (1, 4, 8))
    assert (build.executed, build.gpu, build.precision_from) == (False, None, "network")
    assert build.onnx_sha256 == sha256_file(graph)
    assert build.half_share is not None
    # UniAD's neck, tokens and queries stay in fp32, for the parity limit.
    least = 0.5 if base == "uniad" else 0.7
    assert build.half_share > least if precision == "fp16" else build.half_share == 0
    assert manifest.versions["tensorrt_rtx"] == build.tensorrt_version
    # Weights of half the size, or nearly: the convolutions' are most of the file.
    assert out.stat().st_size > 1 << 20


def test_a_checkpoint_becomes_an_engine_in_half_precision(
    checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    stages: list[str] = []
    out = tmp_path / "line.engine"
    config = _config(workspace_gib=2.0, optimization_level=2)
    result = export_engine(
        checkpoint_of("revdist"), out, config, progress=lambda stage, done, total: stages.append(stage)
    )
    assert result.precision == Manifest.read(out).precision == "fp16"
    assert result.engine.batch == (1, 1, 1)
    assert result.engine.options == {
        "workspace_gib": 2.0,
        "optimization_level": 2,
        "timing_cache": False,
        "accepted_warnings": [],
        "tf32": False,
    }
    assert stages, "the build told nothing of its progress"
    # The ONNX file that it was built from is gone.
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["line.engine", "line.engine.json", "line.engine.reference.npz"]


def test_the_engine_lies_beside_its_graph_with_a_reference_file_of_its_own(own: Path) -> None:
    before = {path.name: path.read_bytes() for path in own.parent.iterdir()}
    export_engine(own, own.with_suffix(".engine"), _config(batch=(4, 4, 4)))
    after = {path.name: path.read_bytes() for path in own.parent.iterdir()}
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == [
        "revdist_fp32.engine",
        "revdist_fp32.engine.json",
        "revdist_fp32.engine.reference.npz",
    ]


def _older_export(folder: Path) -> dict[str, bytes]:
    for name in ("model.engine", "model.engine.json", "model.engine.reference.npz"):
        (folder / name).write_text(f"an older {name}")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_the_older_export_whole(graph_of: GraphOf, tmp_path: Path) -> None:
    before = _older_export(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        export_engine(
            graph_of("uniad", "fp32"),
            tmp_path / "model.engine",
            _config(),
            progress=lambda *now: signal.raise_signal(signal.SIGINT),
        )
    assert _content(tmp_path) == before


def test_sigterm_ends_a_build_and_leaves_nothing_behind(graph_of: GraphOf, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cada_edge", "export", str(graph_of("revdist", "fp32"))]
    command += ["--format", "engine", "--target", "rtx", "--compute-capability", "8.6"]
    running = subprocess.Popen(
        [*command, "--out", str(tmp_path / "model.engine")], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not any(tmp_path.iterdir()):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    said = running.communicate(timeout=300)[1]
    assert running.returncode == 143, said
    assert said.rstrip().endswith("terminated")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_more_leaves_the_older_export_whole(graph_of: GraphOf, tmp_path: Path) -> None:
    """The system itself refuses: the reference file fits, and the engine, after its build, does not."""
    resource = pytest.importorskip("resource", reason="Windows has no limit of a file's size")
    before = _older_export(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, hard))
    try:
        with pytest.raises(
            OutputError, match=r"Cannot write .*model\.engine: File too large\. Free some space"
        ):
            export_engine(graph_of("revdist", "fp16"), tmp_path / "model.engine", _config())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _content(tmp_path) == before


def test_a_refusal_of_the_library_leaves_the_older_export_whole(graph_of: GraphOf, tmp_path: Path) -> None:
    before = _older_export(tmp_path)
    with pytest.raises(BackendError, match=r"Cannot compile .* for Turing \(SM75\): FP32 GEMM is not supp"):
        export_engine(
            graph_of("revdist", "fp32"), tmp_path / "model.engine", _config(compute_capabilities=("7.5",))
        )
    assert _content(tmp_path) == before


def test_a_graph_over_the_parity_limit_leaves_the_older_export_whole(own: Path, tmp_path: Path) -> None:
    """A threshold that belongs to other weights would be a wrong verdict on the line."""
    import numpy as np

    from cada_edge.runtime.parity import read_reference, write_reference

    manifest = Manifest.read(own)
    assert manifest.reference_file is not None
    path = own.with_name(manifest.reference_file)
    reference = read_reference(path)
    write_reference(path, dataclasses.replace(reference, score=reference.score + np.float32(0.01)))
    dataclasses.replace(manifest, reference_sha256=sha256_file(path)).write(own)
    folder = tmp_path / "line"
    folder.mkdir()
    before = _older_export(folder)
    with pytest.raises(CheckFailedError, match="Parity failed on onnxruntime"):
        export_engine(own, folder / "model.engine", _config())
    assert _content(folder) == before


@pytest.mark.parametrize("taken", ["model.engine", "model.engine.json", "model.engine.reference.npz"])
def test_a_folder_in_the_way_is_refused_at_once(own: Path, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).mkdir()
    with pytest.raises(OutputError, match=f"{taken} is a folder; wanted a place for a file"):
        export_engine(own, tmp_path / "model.engine", _config())


def test_sources_that_cannot_be_used(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.engine"
    with pytest.raises(ConfigError, match=r"output model.plan came; wanted a name ending in \.engine"):
        export_engine(own, tmp_path / "model.plan", _config())
    manifest = Manifest.read(own)
    assert manifest.reference_file is not None
    reference = own.with_name(manifest.reference_file)
    content = reference.read_bytes()
    reference.write_bytes(content[:-1])
    with pytest.raises(
        ModelError, match=r"came without the reference file that its manifest describes \(rev"
    ):
        export_engine(own, out, _config())
    reference.unlink()
    with pytest.raises(ModelError, match="wanted all three files of an export"):
        export_engine(own, out, _config())
    reference.write_bytes(content)
    graph = own.read_bytes()
    own.write_bytes(b"garbage")
    with pytest.raises(ModelMismatchError, match=r"has SHA-256 .*; its manifest describes"):
        export_engine(own, out, _config())
    # Garbage that a manifest vouches for gets as far as the parser.
    dataclasses.replace(manifest, model_sha256=sha256_file(own)).write(own)
    with pytest.raises(
        BackendError, match=r"tensorrt_rtx 1\.[\d.]+ cannot parse .*: .*Failed to parse the ON"
    ):
        export_engine(own, out, _config())
    own.write_bytes(graph)
    (own.parent / f"{own.name}.json").unlink()
    with pytest.raises(ManifestError, match="has no manifest"):
        export_engine(own, out, _config())
    assert not out.exists()


def test_an_engine_is_no_source(own: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine line\.engine came as the source; wanted a checkpoint, or"):
        export_engine(tmp_path / "line.engine", tmp_path / "model.engine", _config())
    export_engine(own, own.with_suffix(".engine"), _config())
    renamed = own.with_name("renamed.onnx")
    shutil.copy(own.with_suffix(".engine"), renamed)
    shutil.copy(own.with_name(f"{own.stem}.engine.json"), own.with_name("renamed.onnx.json"))
    with pytest.raises(ModelError, match=r"renamed.onnx has the format 'engine'; wanted 'onnx'"):
        export_engine(renamed, tmp_path / "model.engine", _config())


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"precision": "fp16"}, "--precision fp16 came with revdist_fp32.onnx, which was exported with fp32"),
        (
            {"alignment": "none"},
            "--alignment none came with .*, which was exported with cada; an engine keeps",
        ),
        (
            {"frame_hw": (1080, 1920)},
            "--frame-size 1080x1920 came with .* exported with none; .* or build from the checkpoint",
        ),
    ],
)
def test_what_a_graph_has_cannot_be_changed(
    changes: dict[str, Any], wanted: str, graph_of: GraphOf, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=wanted):
        export_engine(graph_of("revdist", "fp32"), tmp_path / "model.engine", _config(**changes))


def test_what_cannot_be_changed_is_refused_before_quantising(
    graph_of: GraphOf, small_line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quantise(*_: object, **__: object) -> None:
        raise AssertionError("this takes minutes")

    monkeypatch.setattr(to_engine, "export_int8", quantise)
    config = _config(precision="int8", calibration=small_line, alignment="none")
    with pytest.raises(ConfigError, match=r"--alignment none came with .*, which was exported with cada"):
        export_engine(graph_of("revdist", "fp32"), tmp_path / "model.engine", config)


def test_what_a_graph_has_may_be_said_again(graph_of: GraphOf, tmp_path: Path) -> None:
    config = _config(precision="fp32", alignment="cada")
    assert export_engine(graph_of("revdist", "fp32"), tmp_path / "model.engine", config).precision == "fp32"


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"target": "onnx"}, "target 'onnx' came; wanted one of tensorrt, rtx"),
        ({"precision": "int4"}, "precision 'int4' came; wanted one of fp32, fp16, int8"),
        ({"hardware_compatibility": "all"}, r"compatibility 'all' came; wanted one of none, same, ampere\+"),
        ({"batch": (0, 1, 2)}, "batch 0,1,2 came; wanted smallest, best and largest"),
        ({"batch": (4, 2, 8)}, "batch 4,2,8 came"),
        ({"batch": (1, 8, 65)}, "batch 1,8,65 came; .*from 1 to 64. Pass --batch 1"),
        ({"workspace_gib": 0.0}, "workspace 0.0 came; wanted GiB of the GPU's memory. Pass --workspace 2"),
        ({"optimization_level": 6}, "optimisation level 6 came; wanted 0 to 5. Pass --opt-level 3"),
        ({"compute_capabilities": ("sm_86",)}, "compute capability 'sm_86' came; wanted numbers as 8.6"),
        (
            {"target": "tensorrt", "compute_capabilities": ("8.6",)},
            "--compute-capability came with --target tensorrt, which builds for this machine's GPU",
        ),
        (
            {"hardware_compatibility": "ampere+"},
            "--hardware-compat came with --target rtx, which has no such level; .*--target tensorrt only",
        ),
        (
            {"timing_cache": Path("cache.bin")},
            "--timing-cache came with --target rtx, which measures no kernels",
        ),
    ],
)
def test_impossible_options(changes: dict[str, Any], wanted: str) -> None:
    values = {"target": "rtx", **changes}
    with pytest.raises(ConfigError, match=wanted):
        EngineConfig(**values)


def test_gpus_that_the_library_does_not_know(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.engine"
    with pytest.raises(
        ConfigError,
        match=r"compute capability 8\.7, 9\.0 came, and this machine has no GPU to take it from; "
        r"tensorrt_rtx builds for .*8\.6, 8\.9, .*12\.0.*Pass that of the box, which cada-edge doctor shows",
    ):
        export_engine(own, out, _config(compute_capabilities=("8.7", "8.6", "9.0")))
    with pytest.raises(ConfigError, match="no compute capability came, and this machine has no GPU"):
        export_engine(own, out, _config(compute_capabilities=()))


def test_a_library_that_is_not_installed(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cada_edge.runtime.tensorrt_engine.find_spec", lambda name: None)
    monkeypatch.setattr("cada_edge.runtime.tensorrt_engine._JETSON", tmp_path / "nowhere")
    with pytest.raises(MissingExtraError, match=r"Building this engine needs the package 'tensorrt', which"):
        export_engine(own, tmp_path / "model.engine", EngineConfig())


def test_a_checkpoint_takes_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_engine, "find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r"Exporting a checkpoint needs .*'torch'.*cada-edge\[train\]"
    ):
        export_engine(tmp_path / "checkpoint.pt", tmp_path / "model.engine", _config())
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_itself_builds_on_its_gpu_only(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_engine, "load_tensorrt", lambda target, feature: None)
    with pytest.raises(CudaError, match=r"There is no CUDA driver.* can be built here with: --target rtx"):
        export_engine(own, tmp_path / "model.engine", EngineConfig())


def test_a_timing_cache_that_cannot_be_read(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_engine, "load_tensorrt", lambda target, feature: None)
    monkeypatch.setattr(to_engine, "_machine", lambda config: (("8.7",), "double of a GPU"))
    config = EngineConfig(timing_cache=tmp_path)
    with pytest.raises(
        OutputError, match=r"timing cache .* cannot be read: .*; wanted a file, or a free name"
    ):
        export_engine(own, tmp_path / "model.engine", config)


def _run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.engine"
    arguments = ["export", own, "--format", "engine", "--target", "rtx", "--out", out]
    arguments += ["--compute-capability", "8.6, 12.0", "--batch", "1,2,4", "--workspace", "1.5"]
    result = _run(*arguments, "--opt-level", "1", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["model"] == str(out)
    assert printed["engine"]["compute_capabilities"] == ["8.6", "12.0"]
    assert printed["engine"]["batch"] == [1, 2, 4]
    assert printed["engine"]["options"]["workspace_gib"] == 1.5
    assert printed["engine"]["executed"] is False
    text = _run(*arguments).stdout
    assert "built for  rtx 1." in text
    assert "precision  fp32, 0% of its products in half precision, by its network" in text
    assert (
        "note       The engine was not run: its graph was. On the box run: cada-edge verify model.eng" in text
    )


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["a.pt", "--batch", "1", "--target", "rtx"], "--target and --batch came with --format onnx; wanted"),
        (["a.onnx"], "a.onnx came with --format onnx; wanted a checkpoint. To build an engine"),
        (
            ["a.onnx", "--format", "engine", "--batch", "1,2"],
            "the batch '1,2' came; wanted one number, or MIN",
        ),
        (
            ["a.onnx", "--format", "engine", "--compute-capability", "8.6"],
            "--compute-capability came with --target tensorrt",
        ),
    ],
)
def test_commands_that_cannot_be(arguments: list[str], wanted: str) -> None:
    result = _run("export", *arguments)
    assert result.exit_code == 2
    assert wanted in result.stderr


def test_data_belongs_to_a_checkpoint(own: Path, small_line: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.engine"
    arguments = ["export", own, "--format", "engine", "--target", "rtx", "--compute-capability", "8.6"]
    result = _run(*arguments, "--data", small_line, "--out", out)
    assert result.exit_code == 2
    assert f"--data came with {own.name}; wanted it with a checkpoint only" in result.stderr


def test_the_reason_why_it_was_not_run_is_logged(
    graph_of: GraphOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="cada_edge.export.to_engine"):
        export_engine(graph_of("revdist", "fp32"), tmp_path / "model.engine", _config())
    assert "so its graph is checked on the CPU. There is no CUDA driver" in caplog.text
