from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner

from cada_edge.benchmarks import line_study
from cada_edge.benchmarks.line_report import Cell
from cada_edge.benchmarks.line_study import (
    STUDIES,
    Study,
    StudyConfig,
    Variant,
    describe_findings,
    report_text,
    run_study,
)
from cada_edge.errors import ConfigError
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.config import ALIGNMENTS, BASES

_TINY = StudyConfig(
    size=64,
    iterations=2,
    batch_size=4,
    encoder="mobilenetv3_small_050",
    encoder_weights="random",
    train_per_kind=4,
    test_per_kind=1,
    aligner_iterations=20,
    device="cpu",
)


def test_the_studies_are_the_issues() -> None:
    variants = STUDIES["variants"]
    assert variants.bases == tuple(BASES)
    assert {variant.alignment for variant in variants.variants} == set(ALIGNMENTS)
    assert STUDIES["noise"].shares == (0.0, 0.05, 0.1, 0.2)
    assert [variant.kernel for variant in STUDIES["kernel"].variants] == [1, 3]


def test_a_study_trains_each_base_once_and_is_resumed(tmp_path: Path) -> None:
    study = Study(
        ("revdist",), (*STUDIES["variants"].variants, Variant("3x3", "cada", kernel=3)), shares=(0.0, 0.25)
    )
    stages: list[str] = []

    def report(stage: str, done: int, total: int, loss: float) -> None:
        stages.append(stage)

    cells = list(run_study(study, [5], tmp_path, _TINY, report=report))
    assert [(cell.share, cell.label) for cell in cells] == [
        (share, label)
        for share in (0.0, 0.25)
        for label in ("none", "cada", "cada-sigma", "class-predicted", "class-aware", "3x3")
    ]
    assert stages.count("base") == 2 * _TINY.iterations
    wide = load_checkpoint(tmp_path / "seed5-spoiled0" / "revdist" / "3x3" / "checkpoint.pt")
    assert wide.config.aligner.kernel == 3
    lines = [
        (tmp_path / f"seed5-spoiled{share}" / "line" / "gear/train/good/000.png") for share in ("0", "0.25")
    ]
    assert lines[0].read_bytes() != lines[1].read_bytes()

    stages.clear()
    assert list(run_study(study, [5], tmp_path, _TINY, report=report)) == cells
    assert stages == []
    with pytest.raises(ConfigError, match=r"holds a study with another iterations. Choose another folder"):
        list(run_study(study, [5], tmp_path, dataclasses.replace(_TINY, iterations=3)))


def test_the_command_prints_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_study, "STUDIES", {"kernel": Study(("revdist",), (Variant("none", "none"),))})
    monkeypatch.setattr(line_study, "StudyConfig", lambda **options: dataclasses.replace(_TINY, device="cpu"))
    result = CliRunner().invoke(line_study.main, ["kernel", "--seeds", "3", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "| revdist | 0 % | none |" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1;2"], "--seeds '1;2' came; wanted whole numbers with commas"),
        (["--bases", "revdist,padim"], "base 'padim' came; wanted one of revdist"),
        (["--size", "50"], "size 50 came; wanted a multiple of 32"),
    ],
)
def test_what_cannot_be_run_is_a_usage_error(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(line_study.main, ["noise", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()  # before anything is drawn


def test_cells_on_disk_are_read_as_they_are(tmp_path: Path) -> None:
    """The noise study's files as the first version wrote them: nothing is trained, and all is said."""
    study = dataclasses.replace(STUDIES["noise"], shares=(0.0, 0.2))
    figures = '{"i_auroc": %s, "i_ap": 80.0, "p_auroc": 70.0, "p_ap": 60.0}'
    for share in study.shares:
        place = tmp_path / f"seed20-spoiled{share:g}" / "revdist"
        (place / "base").mkdir(parents=True)
        (place / "base" / "checkpoint.pt").touch()
        for label, value in (("none", 50.0), ("cada", 90.0), ("cada-sigma", 85.0 + 100 * share)):
            (place / f"{label}.json").write_text(
                f'{{"base": "revdist", "label": "{label}", "share": {share}, "seed": 20, '
                f'"mixed": {figures % value}, "averaged": {figures % value}}}'
            )
    stages: list[str] = []

    def report(stage: str, done: int, total: int, loss: float) -> None:
        stages.append(stage)

    cells = list(run_study(study, [20], tmp_path, _TINY, report=report))
    assert cells[1] == Cell("revdist", "cada", 0.0, 20, cells[1].averaged, cells[1].averaged)
    assert stages == []
    text = report_text("noise", cells)
    assert "| revdist | 20 % | cada-sigma | 105.0 (105.0-105.0) |" in text
    assert "| here, revdist, 20 % spoiled: cada-sigma less cada | +15.0 | +0.0 | +0.0 | +0.0 |" in text
    assert "\n- revdist, mixed I-AUROC: cada-sigma overtakes cada at 20 %: 105.0 (105.0-105.0)" in text
    assert describe_findings("variants", cells) == []
    assert report_text("variants", cells).count("\n\n") == 0
