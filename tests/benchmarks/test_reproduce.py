"""Whole reproductions on a tiny procedural line, in the layouts of the paper's three data sets."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from cada_edge.benchmarks.paper import Method
from cada_edge.errors import ConfigError

pytest.importorskip("torch", reason="a reproduction trains: pip install 'cada-edge[train]'")

from cada_edge.benchmarks.reproduce import reproduce
from cada_edge.benchmarks.reproduction_cells import (
    Settings,
    cell_config,
    list_departures,
    read_cell,
    read_example_maps,
)
from cada_edge.benchmarks.reproduction_plan import Cell
from cada_edge.cli import main
from cada_edge.runtime.datasets import index_dataset
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.evaluate_checkpoint import evaluate_checkpoint, score_samples
from cada_edge.trainer.fit import choose_device, fit
from cada_edge.trainer.synthetic import KINDS, SyntheticConfig, write_line

SMALL: dict[str, Any] = {
    "encoder": "mobilenetv3_small_050",
    "encoder_weights": "random",
    "size": 64,
    "iterations": 3,
    "batch_size": 4,
    "aligner": {"iterations": 3, "batch_size": 4},
}
METRICS = ("i_auroc", "i_ap", "p_auroc", "p_ap")
NONE = Method("revdist", "none", 1, 2, 0.25, 0.01)
CADA = dataclasses.replace(NONE, alignment="cada")


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds at 64 pixels in the MVTec layout."""
    config = SyntheticConfig(
        size=64, train_per_kind=6, test_normal_per_kind=2, test_anomalous_per_kind=2, kinds=KINDS[:2]
    )
    return write_line(tmp_path_factory.mktemp("line") / "mvtec", config)


def _as_btad(line: Path, folder: Path) -> Path:
    for kind in (path for path in line.iterdir() if path.is_dir()):
        shutil.copytree(kind / "train" / "good", folder / kind.name / "train" / "ok")
        shutil.copytree(kind / "test" / "good", folder / kind.name / "test" / "ok")
        _join_defects(kind, folder / kind.name, "ko", "ko")
    return folder


def _as_visa(line: Path, folder: Path) -> Path:
    for kind in (path for path in line.iterdir() if path.is_dir()):
        for split in ("train", "test"):
            shutil.copytree(kind / split / "good", folder / "1cls" / kind.name / split / "good")
        _join_defects(kind, folder / "1cls" / kind.name, "bad", "bad")
    return folder


def _join_defects(kind: Path, out: Path, images: str, masks: str) -> None:
    """Put all defects of a kind into one folder, as VisA and BTAD have them."""
    (out / "test" / images).mkdir(parents=True)
    (out / "ground_truth" / masks).mkdir(parents=True)
    for mask in sorted(kind.glob("ground_truth/*/*_mask.png")):
        name = f"{mask.parent.name}_{mask.name.removesuffix('_mask.png')}.png"
        image = kind / "test" / mask.parent.name / mask.name.replace("_mask", "")
        shutil.copy(image, out / "test" / images / name)
        shutil.copy(mask, out / "ground_truth" / masks / name)


def _run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["reproduce", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`SMALL` less the iterations, as a configuration file."""
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(
        "encoder: mobilenetv3_small_050\nencoder_weights: random\nsize: 64\nbatch_size: 4\n"
        "aligner:\n  batch_size: 4\n"
    )
    return path


def test_a_killed_reproduction_goes_on_where_it_was(line: Path, small_file: Path, tmp_path: Path) -> None:
    """Kill -9 in the aligner's training, run again, and hold every figure against a run from the start."""
    script = (
        "import os, signal\n"
        "from cada_edge.benchmarks.reproduce import reproduce\n"
        "def stop(stage, done, total, loss):\n"
        "    if stage == 'aligner':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"reproduce(1, [{str(line)!r}], {str(tmp_path / 'out')!r}, bases=['revdist'], device='cpu', "
        f"overrides={SMALL!r}, progress=stop)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    (base_run,) = (tmp_path / "out" / "mvtec").iterdir()
    assert (base_run / "none" / "top-0.01.json").is_file()
    trained_at = (base_run / "checkpoint.pt").stat().st_mtime_ns

    command = (
        "--table", 1, "--data", line, "--out", tmp_path / "out", "--base", "revdist", "--device", "cpu",
        "--config", small_file, "--iterations", 3, "--aligner-iterations", 3,
    )  # fmt: skip
    result = _run(*command)
    assert (base_run / "checkpoint.pt").stat().st_mtime_ns == trained_at
    assert result.stderr.count("done: ") == 1  # the cell without alignment was finished before the kill
    assert sorted(path.name for path in base_run.iterdir() if path.is_file()) == [
        "checkpoint.pt",
        "log.jsonl",
        "state.pt",
    ]
    text = result.stdout
    assert "NOT THE PAPER'S: revdist: iterations 3 (the paper's recipe: 5000)" in text
    assert "NOT THE PAPER'S: revdist: aligner.iterations 3 (the paper's recipe: 5000)" in text
    assert "NOT THE PAPER'S, which has 15 kinds, 3629 and 1725 images" in text
    assert "masks: pil-bilinear>0; resolution: 64x64; average precision: step-wise" in text
    markdown = (tmp_path / "out" / "table-1.md").read_text()
    assert markdown.startswith("## Table 1: ")
    assert (
        markdown.count("Figures in the manner of the paper's Fig. 5 (each image's score, kind by kind") == 1
    )
    figures = tmp_path / "out" / "table-1-figures"
    names = [f"mvtec-revdist-seed0-{name}.png" for name in ("maps", "scores-cada", "scores-none")]
    assert sorted(path.name for path in figures.iterdir()) == names
    for name in names:
        assert f"](table-1-figures/{name})" in markdown
        picture = cv2.imread(str(figures / name))
        assert picture is not None
        assert picture.std() > 10  # something is drawn

    (base_run / "none" / "examples-none.npz").unlink()  # as an earlier version left it
    (figures / names[0]).unlink()
    again = _run(*command, "--json")
    assert sorted(path.name for path in figures.iterdir()) == names[1:]
    assert "done: " not in again.stderr
    values = json.loads(again.stdout)
    assert values == json.loads((tmp_path / "out" / "table-1.json").read_text())
    plain, aligned = values["rows"]
    assert (plain["row"], aligned["row"]) == ("revdist", "revdist+cada")
    assert plain["paper"]["mixed"]["i_auroc"] == 85.0
    assert aligned["difference"]["mixed"]["p_ap"] == pytest.approx(aligned["ours"]["mixed"]["p_ap"] - 53.1)

    config = cell_config(CADA, 0, Settings(tmp_path, SMALL, "cpu"))
    assert (config.recipe, config.alignment, config.iterations) == ("paper", "cada", 3)
    whole = fit(index_dataset(line), tmp_path / "whole", config)
    for row, alignment in ((plain, "none"), (aligned, "cada")):
        wanted = evaluate_checkpoint(
            whole.checkpoint, index_dataset(line), alignment=alignment, device="cpu"
        ).to_dict()
        for reading in ("mixed", "averaged"):
            assert row["ours"][reading] == {metric: wanted[reading][metric] for metric in METRICS}
        assert row["cells"][0]["figures"]["per_kind"] == wanted["per_kind"]


def test_one_aligner_serves_every_way_to_score(line: Path, tmp_path: Path) -> None:
    """Table 3's maximum, 0.1 % and 1 %, held against the model's own maps; the other rows train their own."""
    stages: list[tuple[str, int]] = []
    result = reproduce(
        3,
        [line],
        tmp_path,
        rows=["1-linear", "1-conv-2-linear", "top-max", "top-0.1%", "top-1%"],
        device="cpu",
        overrides=SMALL,
        progress=lambda stage, done, total, loss: stages.append((stage, done)),
    )
    assert [row.reason for row in result.rows] == [""] * 5
    # One base, one pass for the features, two aligners of three steps (reported at the first and last).
    assert [stage for stage, done in stages if done == 3] == ["base", "aligner", "aligner"]
    assert [stage for stage, done in stages if done == 12] == ["statistics"]
    by_name = {row.planned.row.name: row.cells[0] for row in result.rows}
    assert by_name["1-conv-2-linear"] == by_name["top-1%"]
    shared = {by_name[name]["checkpoint"]["sha256"] for name in ("top-max", "top-0.1%", "top-1%")}
    assert len(shared) == 1
    assert by_name["1-linear"]["checkpoint"]["sha256"] not in shared

    (folder,) = tmp_path.glob("mvtec/*/cada-1conv-2linear-dropout0.25-*")
    checkpoint = load_checkpoint(folder / "checkpoint.pt")
    samples = index_dataset(line).test
    maps = score_samples(checkpoint, samples, ["cada"], device=choose_device("cpu"))["cada"].maps
    ordered = np.sort(maps.reshape(len(maps), -1), axis=1)[:, ::-1]
    cell = Cell(CADA, "mvtec", 0)
    kept = read_example_maps(cell, index_dataset(line), Settings(tmp_path, SMALL, "cpu"))
    first = {(sample.category, sample.anomalous): row for row, sample in reversed([*enumerate(samples)])}
    assert set(kept) == {samples[row].relative for row in first.values()}
    for row in first.values():
        np.testing.assert_allclose(kept[samples[row].relative], maps[row], rtol=1e-3, atol=1e-3)
    for name, count in (("top-max", 1), ("top-0.1%", 4), ("top-1%", 40)):  # of 64 * 64 pixels
        figures = by_name[name]["figures"]
        assert list(figures["scores"]) == [sample.relative for sample in samples]
        assert list(figures["scores"].values()) == pytest.approx(ordered[:, :count].mean(1), rel=1e-5)
        normal = [figures["scores"][sample.relative] for sample in samples if not sample.anomalous]
        anomalous = [figures["scores"][sample.relative] for sample in samples if sample.anomalous]
        wins = np.mean([[(a > n) + (a == n) / 2 for n in normal] for a in anomalous])
        assert figures["mixed"]["i_auroc"] == pytest.approx(100 * wins)
        for reading in ("mixed", "averaged"):
            for metric in ("p_auroc", "p_ap", "aupro"):
                assert figures[reading][metric] == by_name["top-1%"]["figures"][reading][metric]
        assert all(kind["p_ap"] is not None for kind in figures["per_kind"].values())
        assert not [path for path in figures["reasons"] if "p_a" in path]


def test_table_4_compares_the_variants(line: Path, tmp_path: Path) -> None:
    small = {**SMALL, "iterations": 1}
    result = reproduce(4, [line], tmp_path, device="cpu", overrides=small)
    here, absent = result.rows[:4], result.rows[4:]
    assert [row.reason for row in absent] == ["no folder of VisA was given with --data"] * 4
    names = [row.planned.row.name for row in here]
    assert names == ["revdist", "revdist+class-aware", "revdist+class-predicted", "revdist+cada"]
    (base_run,) = (tmp_path / "mvtec").iterdir()
    (predicted,) = base_run.glob("class-predicted-*")
    for row, checkpoint, alignment in (
        (here[1], base_run / "checkpoint.pt", "class-aware"),
        (here[2], predicted / "checkpoint.pt", "class-predicted"),
    ):
        wanted = evaluate_checkpoint(checkpoint, index_dataset(line), alignment=alignment, device="cpu")
        assert row.reason == ""
        assert row.ours("mixed") == {metric: [dict(wanted.mixed)[metric]] for metric in METRICS}
    assert load_checkpoint(predicted / "checkpoint.pt").config.alignment == "class-predicted"
    # The table has no I-AP of the paper.
    assert set(here[1].paper("mixed")) == {"i_auroc", "p_auroc", "p_ap"}


def test_table_5_on_the_three_layouts(line: Path, tmp_path: Path) -> None:
    folders = [line, _as_visa(line, tmp_path / "visa"), _as_btad(line, tmp_path / "btad")]
    result = reproduce(
        5,
        folders,
        tmp_path / "out",
        rows=["revdist"],
        seeds=(0, 1),
        device="cpu",
        overrides={**SMALL, "iterations": 1},
    )
    assert [row.planned.dataset for row in result.rows] == ["mvtec", "visa", "btad"]
    assert [[cell["seed"] for cell in row.cells] for row in result.rows] == [[0, 1]] * 3
    # The same images in three layouts, seed by seed; the paper's figures are each data set's own.
    figures = [row.ours("mixed") for row in result.rows]
    assert set(figures[0]) == set(METRICS)
    assert [len(values) for values in figures[0].values()] == [2] * 4
    assert [row.paper("mixed")["i_auroc"] for row in result.rows] == [85.0, 83.5, 81.1]
    assert [line for line in result.data if "layout btad" in line] == [
        f"BTAD (noisy) from {tmp_path / 'btad'} (layout btad): 2 kinds, 12 training and 8 test images; "
        "NOT THE PAPER'S, which has 3 kinds"
    ]


def test_a_training_that_fails_costs_its_own_rows_only(line: Path, tmp_path: Path) -> None:
    aligner = {**SMALL["aligner"], "learning_rate": 1e30, "iterations": 30}
    small = {**SMALL, "iterations": 1, "aligner": aligner}
    result = reproduce(1, [line], tmp_path, bases=["revdist"], device="cpu", overrides=small)
    plain, aligned = result.rows
    assert set(plain.ours("mixed")) == set(METRICS)
    assert aligned.ours("mixed") == {}
    assert aligned.reason.startswith("seed 0: The aligner's loss became ")
    assert result.failed == ["revdist+cada on mvtec"]
    small_file = tmp_path / "diverges.yaml"
    small_file.write_text(json.dumps(small))
    failed = _run(
        "--table", 1, "--data", line, "--out", tmp_path, "--base", "revdist", "--device", "cpu",
        "--config", small_file, code=1,
    )  # fmt: skip
    assert "1 rows have no figures because their training failed: revdist+cada on mvtec" in failed.stderr


def test_other_values_never_meet_in_one_folder(tmp_path: Path) -> None:
    from cada_edge.benchmarks.reproduction_cells import cell_file
    from cada_edge.runtime.datasets import DatasetIndex

    index = DatasetIndex(tmp_path, "mvtec", ())
    cell = Cell(CADA, "mvtec", 0)
    settings = Settings(tmp_path, SMALL, "cpu")
    file = cell_file(cell, index, settings)
    same = Settings(tmp_path, {**SMALL, "threads": 1, "save_every": 9}, "auto")
    assert cell_file(cell, index, same) == file
    files = {
        file,
        cell_file(cell, index, Settings(tmp_path, {**SMALL, "iterations": 4}, "cpu")),
        cell_file(cell, index, Settings(tmp_path, {**SMALL, "aligner": {"iterations": 4}}, "cpu")),
        cell_file(dataclasses.replace(cell, seed=1), index, settings),
        cell_file(dataclasses.replace(cell, method=NONE), index, settings),
        cell_file(dataclasses.replace(cell, method=dataclasses.replace(CADA, dropout=0.5)), index, settings),
        cell_file(
            dataclasses.replace(cell, method=dataclasses.replace(CADA, top_fraction=0)), index, settings
        ),
    }
    assert len(files) == 7


def test_a_damaged_cell_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "top-0.01.json"
    assert read_cell(path) is None
    for damaged in ("", "[]", '{"format": "cada-edge-reproduction-1"}', '{"format": 1, "figures": {}}'):
        path.write_text(damaged)
        assert read_cell(path) is None
    figures = dict.fromkeys(METRICS, 1.0)
    whole = {"format": "cada-edge-reproduction-1", "figures": {"mixed": figures, "averaged": figures}}
    path.write_text(json.dumps(whole))
    assert read_cell(path) == whole


def test_departures_from_the_recipe(tmp_path: Path) -> None:
    assert list_departures(CADA, Settings(tmp_path, {}, "cuda")) == []
    weights = {"encoder_weights": "wide_resnet50_2.pth", "threads": 2}
    assert list_departures(CADA, Settings(tmp_path, weights, "cpu")) == []
    assert list_departures(CADA, Settings(tmp_path, {"encoder_weights": "random", "amp": "on"}, "cpu")) == [
        "encoder_weights random (the paper's recipe: None)",
        "amp on (the paper's recipe: off)",
    ]


def test_refusals(line: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"The configuration sets alignment, seed; in a reproduction the"):
        Settings(tmp_path, {"seed": 1, "alignment": "none"}, "cpu")
    out = ("--out", tmp_path / "out")
    assert "table 7 came; wanted one of 1" in _run("--table", 7, "--data", line, *out, code=2).stderr
    wrong = " ".join(_run("--table", 2, "--data", line, *out, code=2).stderr.split())
    assert "which is MVTec AD by its layout; table 2 has the data sets VisA" in wrong
    seeds = _run("--table", 1, "--data", line, "--seeds", "0;1", *out, code=2).stderr
    assert "--seeds '0;1' came; wanted whole numbers with commas, as 0,1,2" in seeds
    assert "row 'x' came" in _run("--table", 1, "--data", line, "--rows", "x", *out, code=2).stderr
    wrong_file = tmp_path / "wrong.yaml"
    wrong_file.write_text("itterations: 3\n")
    wrong = _run("--table", 1, "--data", line, "--config", wrong_file, *out, code=2).stderr
    assert "Did you mean iterations?" in wrong
    wrong_file.write_text("aligner: 3\n")
    wrong = _run(
        "--table", 1, "--data", line, "--config", wrong_file, "--aligner-iterations", 2, *out, code=2
    ).stderr
    assert "aligner 3 came; wanted 'name: value' pairs" in wrong
    assert not (tmp_path / "out").exists()  # all of it before anything is trained
