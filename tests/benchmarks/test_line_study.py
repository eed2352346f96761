from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner

from cada_edge.benchmarks import line_study
from cada_edge.benchmarks.line_study import (
    STUDIES,
    Study,
    StudyConfig,
    Variant,
    run_study,
)
from cada_edge.errors import ConfigError
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.config import ALIGNMENTS, BASES

_TINY = StudyConfig(
    size=64,
    iterations=2,
    batch_size=4,
    encoder="resnet18",
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
