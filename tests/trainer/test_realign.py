from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cada_edge.errors import CheckpointError, ConfigError, DatasetError, OutputError
from cada_edge.runtime.datasets import index_dataset
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.config import AlignerConfig, TrainConfig
from cada_edge.trainer.fit import fit
from cada_edge.trainer.realign import discard_features, realign

OTHER = AlignerConfig(iterations=5, batch_size=4, convolutions=0, linears=3, dropout=0.5)


@pytest.fixture(scope="module")
def base_run(tiny_line: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without alignment, of `tiny_config`'s values."""
    run = tmp_path_factory.mktemp("runs") / "base"
    config = TrainConfig(
        encoder="mobilenetv3_small_050",
        encoder_weights="random",
        size=64,
        iterations=4,
        batch_size=4,
        alignment="none",
        device="cpu",
        save_every=2,
    )
    fit(index_dataset(tiny_line), run, config, keep_features=True)
    return run


def _assert_same(first: Path, second: Path) -> None:
    a, b = load_checkpoint(first), load_checkpoint(second)
    weights, others = a.model.state_dict(), b.model.state_dict()
    assert weights.keys() == others.keys()
    assert any(name.startswith("regressor.") for name in weights)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    for name in (
        "config",
        "threshold",
        "calibration",
        "class_table",
        "data_fingerprint",
        "encoder_fingerprint",
    ):
        assert getattr(a, name) == getattr(b, name), name
    assert a.model.floor == b.model.floor
    assert np.array_equal(a.reference_frames, b.reference_frames)
    assert np.array_equal(a.reference_labels, b.reference_labels)


def test_an_aligner_on_a_trained_base_is_that_of_a_whole_run(
    base_run: Path, tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    """With several aligners: from the features that training kept, then from a pass of their own."""
    index = index_dataset(tiny_line)
    variants = (("cada", tiny_config.aligner), ("cada-sigma", OTHER), ("class-predicted", OTHER))
    for number, (alignment, aligner) in enumerate(variants):
        config = dataclasses.replace(tiny_config, alignment=alignment, aligner=aligner)
        whole = fit(index, tmp_path / f"whole{number}", config)
        stages: list[str] = []
        again = realign(
            base_run,
            tmp_path / f"again{number}",
            index,
            alignment=alignment,
            aligner=aligner,
            device="cpu",
            progress=lambda stage, done, total, loss, stages=stages: stages.append(stage),  # type: ignore[misc]
        )
        assert again == dataclasses.replace(whole, checkpoint=again.checkpoint)
        _assert_same(whole.checkpoint, again.checkpoint)
        assert set(stages) == ({"aligner"} if number == 0 else {"statistics", "aligner"})
        assert [path.name for path in again.checkpoint.parent.iterdir()] == ["checkpoint.pt"]
        assert (base_run / "aligner_features.npy").is_file()
        discard_features(base_run)
        assert sorted(path.name for path in base_run.iterdir()) == ["checkpoint.pt", "log.jsonl", "state.pt"]
    discard_features(base_run)


def test_a_base_with_an_aligner_of_its_own_may_be_given_none(
    tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    index = index_dataset(tiny_line)
    fit(index, tmp_path / "cada", tiny_config)
    result = realign(
        tmp_path / "cada", tmp_path / "none", index, alignment="none", aligner=OTHER, device="cpu"
    )
    model = load_checkpoint(result.checkpoint).model
    assert model.regressor is None
    assert load_checkpoint(tmp_path / "cada" / "checkpoint.pt").model.regressor is not None


def test_one_category_cannot_be_told_apart(tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path) -> None:
    index = index_dataset(tiny_line)
    alone = dataclasses.replace(
        index, samples=tuple(s for s in index.samples if s.category == index.categories[0])
    )
    config = dataclasses.replace(tiny_config, alignment="none", iterations=1)
    fit(alone, tmp_path / "base", config)
    with pytest.raises(DatasetError, match="'class-predicted' came with images of a single category"):
        realign(
            tmp_path / "base",
            tmp_path / "run",
            alone,
            alignment="class-predicted",
            aligner=OTHER,
            device="cpu",
        )
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_is_refused(
    base_run: Path, tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    index = index_dataset(tiny_line)
    aligner = tiny_config.aligner
    with pytest.raises(CheckpointError, match=r"lacks checkpoint\.pt and state\.pt; wanted a finished run"):
        realign(tmp_path / "nothing", tmp_path / "run", index, alignment="cada", aligner=aligner)
    kind = index.categories[0]
    kept = tuple(s for s in index.samples if s.split == "test" or s.category != kind)
    fewer = dataclasses.replace(index, samples=kept)
    with pytest.raises(CheckpointError, match=r"trained on other images than .* wanted the same data set"):
        realign(base_run, tmp_path / "run", fewer, alignment="cada", aligner=aligner, device="cpu")
    with pytest.raises(ConfigError, match="alignment 'best' came"):
        realign(base_run, tmp_path / "run", index, alignment="best", aligner=aligner, device="cpu")
    with pytest.raises(OutputError, match="of an earlier run; wanted an empty folder"):
        realign(base_run, base_run, index, alignment="cada", aligner=aligner, device="cpu")


def test_an_earlier_checkpoint_is_replaced_on_request_alone(
    base_run: Path, tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    index = index_dataset(tiny_line)
    realign(base_run, tmp_path, index, alignment="cada", aligner=OTHER, device="cpu")
    with pytest.raises(OutputError, match="wanted an empty folder"):
        realign(base_run, tmp_path, index, alignment="cada", aligner=tiny_config.aligner, device="cpu")
    realign(
        base_run,
        tmp_path,
        index,
        alignment="cada",
        aligner=tiny_config.aligner,
        device="cpu",
        overwrite=True,
    )
    assert load_checkpoint(tmp_path / "checkpoint.pt").config.aligner == tiny_config.aligner
    discard_features(base_run)
