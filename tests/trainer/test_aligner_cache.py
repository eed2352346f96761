"""The aligner learns from cached features what it would with the base in each iteration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cada_edge.benchmarks.aligner_cache import cached_fetch, uncached_fetch
from cada_edge.errors import OutputError
from cada_edge.runtime.datasets import index_dataset
from cada_edge.trainer.aligner import Regressor, train_regressor
from cada_edge.trainer.config import AlignerConfig, TrainConfig
from cada_edge.trainer.data import batches, decode
from cada_edge.trainer.feature_cache import FeatureCache
from cada_edge.trainer.model import build_model

CPU = torch.device("cpu")


def _passes(value: float = 1.0, images: int = 5) -> Iterator[tuple[Tensor, Tensor]]:
    """Give maps and features in batches of two; image i has mean and maximum value + i."""
    numbers = torch.arange(images, dtype=torch.float32) + value
    for rows in torch.split(numbers, 2):
        yield rows[:, None, None].expand(-1, 4, 4), rows[:, None, None, None].expand(-1, 3, 2, 2)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_cached_and_uncached_training_agree(
    tiny_line: Path, tiny_config: TrainConfig, tmp_path: Path, dropout: float
) -> None:
    config = dataclasses.replace(
        tiny_config, aligner=AlignerConfig(iterations=30, batch_size=8, dropout=dropout)
    )
    frames = decode(index_dataset(tiny_line).train, config.size)
    model, _ = build_model(config, encoder_weights="random")
    model.eval()
    # The pass takes other batches than the training: an image's feature may not depend on its neighbours.
    kept = FeatureCache(tmp_path, "key").fill(model.raw_batches(batches(frames, 5, CPU)), len(frames))
    trained = []
    for fetch in (cached_fetch(kept), uncached_fetch(model, frames, CPU)):
        torch.manual_seed(0)
        regressor = Regressor(model.base.bottleneck_channels, config.aligner)
        before = regressor(kept.features).detach()
        train_regressor(regressor, len(frames), fetch, config.aligner, seed=3)
        trained.append(regressor)
    cached, uncached = trained
    with torch.inference_mode():
        predicted, expected = cached(kept.features), uncached(kept.features)
    assert (predicted - before).abs().max() > 0.1, "nothing was learnt, so nothing is compared"
    torch.testing.assert_close(predicted, expected, rtol=0, atol=1e-5)
    for name, weight in uncached.state_dict().items():
        torch.testing.assert_close(cached.state_dict()[name], weight, rtol=0, atol=1e-5, msg=name)


def test_a_filled_cache_holds_each_images_feature_mean_and_maximum(tmp_path: Path) -> None:
    filled = FeatureCache(tmp_path, "key").fill(_passes(), 5)
    loaded = FeatureCache(tmp_path, "key").load()
    assert loaded is not None
    for statistics in (filled, loaded):
        assert statistics.features.shape == (5, 3, 2, 2)
        assert statistics.features[:, 1, 0, 1].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
        assert statistics.mean.tolist() == statistics.maximum.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_training_cannot_change_the_file(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "key")
    cache.fill(_passes(), 5).features.zero_()
    loaded = cache.load()
    assert loaded is not None
    assert loaded.features[0, 0, 0, 0] == 1.0


def test_another_key_finds_nothing_and_fills_anew(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "old").fill(_passes(1.0), 5)
    cache = FeatureCache(tmp_path, "new")
    assert cache.load() is None
    assert cache.fill(_passes(7.0, images=3), 3).mean.tolist() == [7.0, 8.0, 9.0]
    assert FeatureCache(tmp_path, "old").load() is None


@pytest.mark.parametrize("name", ["aligner_features.npy", "aligner_targets.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "other bytes"])
def test_a_damaged_file_is_no_cache(tmp_path: Path, name: str, damage: str) -> None:
    cache = FeatureCache(tmp_path, "key")
    cache.fill(_passes(), 5)
    path = tmp_path / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) - 9] if damage == "truncated" else b"\xff" * len(data))
    assert cache.load() is None
    assert cache.fill(_passes(2.0), 5).mean.tolist() == [2.0, 3.0, 4.0, 5.0, 6.0]


def test_features_of_fewer_images_than_targets_are_no_cache(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "key")
    cache.fill(_passes(), 5)
    np.save(tmp_path / "aligner_features.npy", np.zeros((4, 3, 2, 2), np.float32))
    assert cache.load() is None


def test_an_interrupted_fill_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "key")
    cache.fill(_passes(1.0), 5)

    def interrupted() -> Iterator[tuple[Tensor, Tensor]]:
        yield next(_passes(9.0))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fill(interrupted(), 5)
    # Neither the half-filled file nor the one before it.
    assert cache.load() is None
    assert cache.fill(_passes(3.0), 5).mean.tolist() == [3.0, 4.0, 5.0, 6.0, 7.0]


def test_a_full_disk_is_said_and_leaves_no_file(
    tmp_path: Path, small_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    with (
        small_disk(64),
        pytest.raises(OutputError, match=r"Cannot write .*aligner_features\.npy: File too large.*--resume"),
    ):
        FeatureCache(tmp_path, "key").fill(_passes(), 5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY"])
def test_damaged_files_are_not_used(tmp_path: Path, damage: bytes) -> None:
    cache = FeatureCache(tmp_path, "key")
    cache.fill(_passes(), 5)
    (tmp_path / "aligner_features.npy").write_bytes(damage)
    assert cache.load() is None
    (tmp_path / "aligner_targets.json").write_text("[]")
    assert cache.load() is None


def test_delete_removes_both_files_and_is_harmless_without_any(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "key")
    cache.fill(_passes(), 5)
    (tmp_path / "checkpoint.pt").touch()
    cache.delete()
    cache.delete()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert cache.load() is None
