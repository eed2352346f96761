from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cada_edge.errors import CheckpointError, TrainingError
from cada_edge.trainer.checkpoint import load_tensors, save_tensors
from cada_edge.trainer.config import TrainConfig
from cada_edge.trainer.fit_base import fit_base
from cada_edge.trainer.model import TrainedModel, build_model
from cada_edge.trainer.revdist import RevDist
from cada_edge.trainer.sampling import batch_indices

FRAMES = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)


NAMES = [f"gear/train/good/{number:03d}.png" for number in range(len(FRAMES))]


def _fit(
    config: TrainConfig, run: Path, *, resume: bool = False, frames: NDArray[np.uint8] = FRAMES
) -> TrainedModel:
    model, _ = build_model(config, encoder_weights="random")
    fit_base(
        model,
        frames,
        config,
        state_path=run / "state.pt",
        data_fingerprint="these frames",
        device=torch.device("cpu"),
        resume=resume,
        names=NAMES,
    )
    return model


def _files(iteration: int, config: TrainConfig) -> str:
    """Name the images of an iteration as the message does, in their order."""
    rows = batch_indices(len(FRAMES), config.batch_size, iteration, seed=config.seed, stream=1)
    return ", ".join(NAMES[row] for row in rows.tolist())


def test_a_spoiled_batch_ends_with_its_files_and_the_last_good_state(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image gives features that are no numbers; everything before its batch is sound."""
    config = dataclasses.replace(tiny_config, iterations=6, save_every=1)
    batches = [batch_indices(8, 4, iteration, seed=0, stream=1).tolist() for iteration in range(6)]
    spoiled = batches[1][0]
    first = next(iteration for iteration, rows in enumerate(batches) if spoiled in rows)
    frames = FRAMES.copy()
    frames[spoiled, 0, 0] = (1, 2, 3)
    frames[:spoiled, 0, 0] = frames[spoiled + 1 :, 0, 0] = (9, 9, 9)
    encode = RevDist.encode

    def spoil(base: RevDist, images: Tensor) -> tuple[Tensor, ...]:
        mark = images[:, 2, 0, 0]  # blue: the lowest value there is
        features = encode(base, images)
        bad = (mark == mark.min()) & (mark < -1.7)
        return (features[0].masked_fill(bad[:, None, None, None], float("nan")), *features[1:])

    monkeypatch.setattr(RevDist, "encode", spoil)
    with pytest.raises(TrainingError) as stopped:
        _fit(config, tmp_path, frames=frames)
    message = str(stopped.value)
    assert message.startswith(
        f"The loss became nan at iteration {first}, on the images {_files(first, config)}. "
    )
    assert (
        f"start again with a --learning-rate lower than {config.learning_rate:g}, or with --grad" in message
    )
    if first:
        assert f"The last good state is {tmp_path / 'state.pt'}, of iteration {first}; --resume" in message
        assert load_tensors(tmp_path / "state.pt", kind="training state")["iteration"] == first
    else:
        assert "No state had been saved yet. Look at these images" in message
        assert not (tmp_path / "state.pt").exists()


def _flat_loss(monkeypatch: pytest.MonkeyPatch, value: Callable[[int], float], iterations: int) -> None:
    """Put a loss in RevDist's place that follows a curve and moves no weight."""

    def loss_on(base: RevDist, encoded: tuple[Tensor, ...], *, progress: float = 0.0) -> Tensor:
        weight = next(iter(base.bottleneck.parameters()))
        return weight.sum() * 0 + value(round(progress * iterations))

    monkeypatch.setattr(RevDist, "loss_on", loss_on)


def test_divergence_ends_with_the_state_from_before_it(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(tiny_config, iterations=300, save_every=60)
    _flat_loss(monkeypatch, lambda iteration: 1.0 if iteration < 150 else 11.0, 300)
    wanted = (
        r"The loss has diverged: it is 11, for 50 iterations in a row above 10, .* at iteration 199, on the "
        rf"images {_files(199, config)}\. The last good state is .*state\.pt, of iteration 120; --resume"
    )
    with pytest.raises(TrainingError, match=wanted):
        _fit(config, tmp_path)
    # Iteration 180 was due for a state, and in the midst of the rise.
    state = load_tensors(tmp_path / "state.pt", kind="training state")
    assert state["iteration"] == 120
    assert state["losses"]["recent"] == [1.0] * 120


def test_a_state_that_was_due_in_a_short_rise_is_saved_after_it(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(tiny_config, iterations=131, save_every=115)
    _flat_loss(monkeypatch, lambda iteration: 11.0 if 110 <= iteration < 125 else 1.0, 131)
    saved: list[int] = []

    def spy(path: Path, content: dict[str, Any]) -> None:
        saved.append(content["iteration"])
        save_tensors(path, content)

    monkeypatch.setattr("cada_edge.trainer.fit_base.save_tensors", spy)
    _fit(config, tmp_path)
    assert saved == [126, 131]


def test_weights_that_are_no_numbers_are_never_saved(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss with an infinite gradient: only the next iteration's loss would tell."""

    def loss_on(base: RevDist, encoded: tuple[Tensor, ...], *, progress: float = 0.0) -> Tensor:
        weight = next(iter(base.bottleneck.parameters()))
        return (weight * 0).sum().sqrt()

    monkeypatch.setattr(RevDist, "loss_on", loss_on)
    config = dataclasses.replace(tiny_config, save_every=1)
    wanted = r"A weight became infinite or not a number with the loss still 0 at iteration 0, .*No state had"
    with pytest.raises(TrainingError, match=wanted):
        _fit(config, tmp_path)
    assert not (tmp_path / "state.pt").exists()


def test_a_compiled_run_has_the_state_keys_of_an_eager_one(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def note(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        seen.append(loss)
        return loss

    # The compiler itself is tested in test_compiling.py; here it is what the run makes of it.
    monkeypatch.setattr(torch, "compile", note)
    _fit(tiny_config, tmp_path / "eager")
    assert seen == []
    compiling = dataclasses.replace(tiny_config, compile=True)
    model = _fit(compiling, tmp_path / "compiled")
    assert seen == [model.base.loss_on]
    states = [load_tensors(tmp_path / name / "state.pt", kind="state") for name in ("eager", "compiled")]
    assert list(states[0]["base"]) == list(states[1]["base"]) == list(model.base.state_dict())
    _fit(dataclasses.replace(tiny_config, compile=True), tmp_path / "eager", resume=True)


def test_a_loss_that_is_not_finite_ends_with_advice_that_works(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(tiny_config, learning_rate=1e30)
    with pytest.raises(
        TrainingError,
        match=r"loss became \w+ at iteration .* start again with a --learning-rate lower than 1e\+30, or",
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
