"""The commands as a person runs them; the model is the small one that training gives in a few steps."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from cada_edge.cli import main
from cada_edge.manifest import Manifest
from cada_edge.options import read_bytes

COMMANDS = (
    "bench",
    "calibrate",
    "demo",
    "doctor",
    "eval",
    "export",
    "inspect",
    "predict",
    "reproduce",
    "stream",
    "train",
    "verify",
)


def _run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


def test_sigterm_is_left_to_whoever_has_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        "cada_edge.cli.print_result", lambda *_, **__: seen.append(signal.getsignal(signal.SIGTERM))
    )
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        _run("doctor", "--json")
        assert callable(seen[-1])
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _run("doctor", "--json")
        assert seen[-1] is signal.SIG_IGN is signal.getsignal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_help_of_every_command_needs_no_torch() -> None:
    script = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from cada_edge.cli import main\n"
        "for name in sorted(main.commands):\n"
        "    result = CliRunner().invoke(main, [name, '--help'])\n"
        "    assert result.exit_code == 0, result.output\n"
        "    print(name)\n"
        "heavy = {'torch', 'cv2', 'onnxruntime', 'openvino', 'timm', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tuple(done.stdout.split()) == COMMANDS


def test_defaults_in_the_help_come_from_the_dataclass() -> None:
    output = _run("train", "--help").output
    assert "wide_resnet50_2.tv_in1k" in output
    assert "5000" in output
    words = " ".join(output.split())
    # Another base has other values, which win over those that are shown.
    assert "Steps of the base method. [default: (5000, or --base's own)]" in words
    assert "Steps of the regressor. [default: (5000, or --base's own)]" in words
    assert "Side of the network input, in pixels. [default: (256, or --base's own)]" in words


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="training needs torch: pip install 'cada-edge[train]'")
    from cada_edge.trainer.synthetic import KINDS, SyntheticConfig, write_line

    config = SyntheticConfig(
        size=64, train_per_kind=12, test_normal_per_kind=2, test_anomalous_per_kind=2, kinds=KINDS[:2]
    )
    return write_line(tmp_path_factory.mktemp("line") / "line", config)


@pytest.fixture(scope="module")
def trained(line: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    config = run / "train.yaml"
    config.write_text("encoder: resnet18\nencoder_weights: random\niterations: 99\n")
    result = _run(
        "train", line, "--out", run, "--config", config, "--size", 64, "--iterations", 3, "--batch-size", 4,
        "--aligner-iterations", 20, "--device", "cpu", "--json",
    )  # fmt: skip
    values = json.loads(result.stdout)
    assert values["checkpoint"] == str(run / "checkpoint.pt")
    assert values["training_images"] + values["held_out_images"] == 24
    assert "base" in result.stderr  # the progress bar
    return run / "checkpoint.pt"


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    model = trained.with_name("model.onnx")
    result = _run("export", trained, "--format", "onnx", "--out", model)
    assert "parity" in result.stdout
    assert "largest score difference" in result.stdout
    return model


def test_eval_of_checkpoint_and_export_agree(trained: Path, exported: Path, line: Path) -> None:
    first = json.loads(_run("eval", trained, line, "--device", "cpu", "--json").stdout)
    second = json.loads(_run("eval", exported, line, "--json").stdout)
    for part in ("mixed", "averaged"):
        for name in ("i_auroc", "i_ap", "p_auroc", "p_ap"):
            assert first[part][name] == pytest.approx(second[part][name], abs=0.05)
    assert "mixed" in _run("eval", exported, line).stdout


def test_eval_saves_maps_and_shows_progress(
    exported: Path, trained: Path, line: Path, tmp_path: Path
) -> None:
    images = sorted(path.relative_to(line) for path in line.glob("*/test/*/*.png"))
    for model in (exported, trained):
        maps = tmp_path / model.suffix
        arguments = ("eval", model, line, "--json", "--max-memory", "1MiB")
        result = _run(*arguments, "--save-maps", maps)
        assert "evaluate" in result.stderr
        found = sorted(path.relative_to(maps) for path in maps.rglob("*.npy"))
        assert found == [path.with_name(f"{path.name}.npy") for path in images]
        assert np.load(maps / found[0]).shape == (64, 64)
        assert json.loads(result.stdout) == json.loads(_run(*arguments).stdout)
    assert "wanted a new or an empty folder" in " ".join(
        _run("eval", exported, line, "--save-maps", tmp_path, code=2).stderr.split()
    )


@pytest.mark.parametrize("text", ["2", "GiB", "2 bananas", "-1GiB"])
def test_a_memory_without_number_or_unit_is_refused(text: str, tmp_path: Path) -> None:
    error = " ".join(_run("eval", "a.onnx", tmp_path, "--max-memory", text, code=2).stderr.split())
    assert f"{text!r} came; wanted a number with its unit, as 512MiB, 2GiB or 1.5GB." in error


def test_memory_sizes_are_read_with_their_unit() -> None:
    sizes = {"1048576B": 2**20, "512MiB": 2**29, "1.5 GB": 1_500_000_000, "2gib": 2**31}
    assert {text: read_bytes(None, None, text) for text in sizes} == sizes


def test_eval_under_other_alignments(trained: Path, exported: Path, line: Path) -> None:
    for alignment in ("none", "class-aware"):
        values = json.loads(
            _run("eval", trained, line, "--alignment", alignment, "--device", "cpu", "--json").stdout
        )
        assert values["protocol"]["alignment"] == alignment
    assert "part of the file" in " ".join(
        _run("eval", exported, line, "--alignment", "none", code=2).stderr.split()
    )
    assert "wanted one of none, cada" in _run("eval", trained, line, "--alignment", "best", code=2).stderr
    error = " ".join(_run("eval", trained, line, "--alignment", "cada-sigma", code=2).stderr.split())
    assert "alignment 'cada-sigma' came for" in error
    assert "which was trained with 'cada'; wanted one of none, class-aware, cada. Train it with" in error


@pytest.mark.parametrize(
    ("name", "option", "wanted"),
    [
        (
            "a.pt",
            ("--backend", "openvino"),
            "--backend came with a.pt, which is a checkpoint and runs in PyT",
        ),
        ("a.pth", ("--threads", "1"), "wanted --threads with an exported model only. Leave it out"),
        ("a.onnx", ("--device", "cuda"), "--device came with a.onnx, which is an exported model and runs in"),
        ("a.onnx", ("--resize", "pil-bilinear"), "wanted --resize with a checkpoint only"),
        ("a.engine", ("--device", "cuda"), "an exported model and runs in TensorRT on the GPU; wanted --dev"),
    ],
)
def test_eval_refuses_options_that_would_change_nothing(
    name: str, option: tuple[str, str], wanted: str, tmp_path: Path
) -> None:
    assert wanted in " ".join(_run("eval", name, tmp_path, *option, code=2).stderr.split())


def test_calibrate_verify_inspect(exported: Path, line: Path) -> None:
    kind = sorted(path.name for path in line.iterdir() if path.is_dir())[0]
    values = json.loads(_run("calibrate", exported, line / kind / "train" / "good", "--json").stdout)
    assert values["calibration"]["images"] == 12
    assert json.loads(_run("inspect", exported, "--json").stdout)["threshold"] == values["threshold"]
    assert "frames on" in _run("verify", exported).stdout
    assert "revdist" in _run("inspect", exported).stdout


def test_train_keeps_an_earlier_run(trained: Path, line: Path) -> None:
    before = trained.read_bytes()
    message = " ".join(_run("train", line, "--out", trained.parent, "--device", "cpu", code=2).stderr.split())
    assert "holds state.pt and checkpoint.pt of an earlier run; wanted an empty folder" in message
    assert "--overwrite to start again" in message
    assert trained.read_bytes() == before


def test_predict_prints_a_line_a_frame_and_saves_overlays(exported: Path, line: Path, tmp_path: Path) -> None:
    kind = sorted(path.name for path in line.iterdir() if path.is_dir())[0]
    folder = line / kind / "test" / "good"
    result = _run("predict", exported, folder, "--json", "--save", tmp_path / "out", "--threshold", "0.5")
    rows = [json.loads(row) for row in result.stdout.splitlines()]
    assert [row["frame_index"] for row in rows] == [0, 1]
    assert all(row["threshold"] == 0.5 for row in rows)
    saved = sorted((tmp_path / "out").iterdir())
    assert len(saved) == 2
    overlay = cv2.imread(str(saved[0]))
    assert overlay is not None
    assert overlay.shape == (64, 64, 3)
    assert _run("stream", exported, folder).stdout.count("Detection(") == 2


def test_exit_codes(exported: Path, trained: Path, tmp_path: Path) -> None:
    _run("train", code=2)
    assert "Did you mean" in _run("train", tmp_path, "--schedule", "cosin", code=2).stderr
    assert "error: " in _run("predict", exported, tmp_path / "none", code=2).stderr
    assert "no model file" in _run("predict", tmp_path / "none.onnx", tmp_path, code=3).stderr
    assert "no checkpoint" in _run("export", tmp_path / "none.pt", code=3).stderr
    damaged = tmp_path / "model.onnx"
    damaged.write_bytes(exported.read_bytes()[:-1])
    damaged.with_name("model.onnx.json").write_bytes(exported.with_name("model.onnx.json").read_bytes())
    assert "damaged or was replaced" in _run("predict", damaged, tmp_path, code=3).stderr
    assert "damaged or was replaced" in _run("inspect", damaged, code=3).stderr


def test_unreadable_images_end_the_stream_or_are_skipped(exported: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "c.png"), np.zeros((8, 8, 3), np.uint8))
    assert "b.png is empty" in _run("predict", exported, tmp_path, code=2).stderr
    assert _run("predict", exported, tmp_path, "--skip-unreadable").stdout.count("Detection(") == 2


def test_predict_writes_records(exported: Path, line: Path, tmp_path: Path) -> None:
    kind = sorted(path.name for path in line.iterdir() if path.is_dir())[0]
    folder = line / kind / "test" / "good"
    database, lines = tmp_path / "new" / "verdicts.db", tmp_path / "verdicts.jsonl"
    run = ("predict", exported, folder, "--record", database, "--record", lines, "--threshold", "0.5")
    scores = [json.loads(row)["score"] for row in _run(*run, "--json").stdout.splitlines()]
    _run(*run, "--save", tmp_path / "out")
    connection = sqlite3.connect(database)
    query = "SELECT source, frame, score, model_sha256, image FROM verdicts ORDER BY id"
    rows = connection.execute(query).fetchall()
    connection.close()
    assert [row[2] for row in rows] == scores * 2
    assert {row[0] for row in rows} == {str(folder)}
    assert {row[3] for row in rows} == {Manifest.read(exported).model_sha256}
    assert all(image is None for *_, image in rows[: len(scores)])
    assert all(Path(image).is_file() for *_, image in rows[len(scores) :])
    written = [json.loads(row) for row in lines.read_text().splitlines()]
    assert [row["score"] for row in written] == scores * 2
    assert "has the extension '.txt'" in _run(*run[:3], "--record", tmp_path / "a.txt", code=2).stderr


def test_a_missing_extra_is_exit_5(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # import torch now fails as if it were not installed
        "from cada_edge.cli import main\n"
        f"main(['export', 'checkpoint.pt', '--out', {str(tmp_path / 'm.onnx')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert "pip install 'cada-edge[train]'" in done.stderr
    assert "Traceback" not in done.stderr
