from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cada_edge.errors import CheckpointError, TrainingError
from cada_edge.trainer.checkpoint import load_tensors, save_tensors
from cada_edge.trainer.config import TrainConfig
from cada_edge.trainer.fit_base import fit_base
from cada_edge.trainer.model import TrainedModel, build_model
from cada_edge.trainer.revdist import RevDist

FRAMES = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)


def _fit(config: TrainConfig, run: Path, *, resume: bool = False) -> TrainedModel:
    model, _ = build_model(config, encoder_weights="random")
    fit_base(
        model,
        FRAMES,
        config,
        state_path=run / "state.pt",
        data_fingerprint="these frames",
        device=torch.device("cpu"),
        resume=resume,
    )
    return model


def test_a_loss_that_is_not_finite_ends_with_advice_that_works(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(tiny_config, learning_rate=1e30)
    with pytest.raises(
        TrainingError,
        match=r"loss became \w+ at iteration .* Start again with a lower --learning-rate in another",
    ):
        _fit(config, tmp_path)


def test_cached_features_are_those_of_mixed_precision(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, ...]] = []
    loss_on = RevDist.loss_on

    def spy(base: RevDist, encoded: tuple[Tensor, ...], **options: Any) -> Tensor:
        seen.append(encoded)
        return loss_on(base, encoded, **options)

    monkeypatch.setattr(RevDist, "loss_on", spy)
    for cache in ("off", "on"):
        _fit(dataclasses.replace(tiny_config, amp="on", cache_features=cache, iterations=1), tmp_path)
    off, on = seen
    for computed, cached in zip(off, on, strict=True):
        assert cached.dtype == computed.dtype == torch.bfloat16
        assert torch.equal(cached, computed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": None}, r"does not fit the model \(.*\). Remove it and start again"),
        ({"base": {}}, "does not fit the model"),
        ({"config": 3}, "is damaged: it lacks a configuration. Remove it and start again"),
        ({"format": "other"}, "is no training state of cada-edge. Remove it"),
    ],
)
def test_damaged_states_are_refused(
    tiny_config: TrainConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    _fit(tiny_config, tmp_path)
    path = tmp_path / "state.pt"
    state: dict[str, Any] = load_tensors(path, kind="training state")
    save_tensors(path, {**state, **changes})
    with pytest.raises(CheckpointError, match=message):
        _fit(tiny_config, tmp_path, resume=True)
    del state["iteration"]
    save_tensors(path, state)
    with pytest.raises(CheckpointError, match="is damaged: it lacks iteration"):
        _fit(tiny_config, tmp_path, resume=True)
