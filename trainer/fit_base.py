"""Training of the base method on all good parts mixed, resumable to the bit on the CPU."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cada_edge.errors import CheckpointError, TrainingError
from cada_edge.trainer.checkpoint import load_tensors, save_tensors
from cada_edge.trainer.config import TrainConfig
from cada_edge.trainer.data import MEMORY_LIMIT_BYTES
from cada_edge.trainer.model import TrainedModel
from cada_edge.trainer.sampling import batch_indices, seeded

__all__ = ["fit_base", "learning_rate_factor"]

_log = logging.getLogger(__name__)

_SEED_STREAM = 1
"""Keeps the base's random numbers apart from the aligner's."""

_PER_MACHINE = ("device", "threads", "cache_features", "save_every")
"""Fields that may differ when a run is resumed: they say where it runs, not what it computes."""

_STATE = ("config", "data_fingerprint", "base", "optimizer", "iteration")

_WARM_UP_SHARE = 0.05
_STEP_AT, _STEP_FACTOR = 0.8, 0.2


def learning_rate_factor(schedule: str, iteration: int, iterations: int) -> float:
    """Return the share of the learning rate at an iteration, 0-1.

    Args:
        schedule: 'constant'; 'step': a fifth from 80 % of the run on; or 'cosine': linear warm-up over 5 % of
            the run, then half a cosine to zero.
        iteration: From 0.
        iterations: Length of the run.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return _STEP_FACTOR if iteration >= _STEP_AT * iterations else 1.0
    warm = max(1, int(iterations * _WARM_UP_SHARE))
    if iteration < warm:
        return (iteration + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (iteration - warm) / max(1, iterations - warm)))


def _feature_fetcher(
    model: TrainedModel, frames: NDArray[np.uint8], config: TrainConfig, device: torch.device
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return what gives the frozen features of image numbers: from memory where that pays, else computed."""

    def encode(rows: Tensor) -> tuple[Tensor, ...]:
        batch = torch.from_numpy(frames[rows.numpy()]).to(device, non_blocking=True)
        with torch.no_grad():
            return model.base.encode(model.normalize(batch))

    one = encode(torch.zeros(1, dtype=torch.int64))
    total = sum(feature.numel() * feature.element_size() for feature in one) * len(frames)
    wanted = config.cache_features == "on" or (
        config.cache_features == "auto" and device.type == "cpu" and total <= MEMORY_LIMIT_BYTES
    )
    if not wanted:
        return encode
    cached = [torch.empty(len(frames), *feature.shape[1:], dtype=feature.dtype) for feature in one]
    for start in range(0, len(frames), 32):
        rows = torch.arange(start, min(start + 32, len(frames)))
        for store, feature in zip(cached, encode(rows), strict=True):
            store[start : start + len(rows)] = feature.cpu()
    _log.info("encoder features of %d images kept in memory: %.0f MiB", len(frames), total / 2**20)
    return lambda rows: tuple(store[rows].to(device) for store in cached)


def _is_mixed(amp: str, device: torch.device) -> bool:
    """Tell whether to compute in bf16: asked for, or on a CUDA device that has it (since Ampere)."""
    if amp == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return amp == "on"


def _autocast(device: torch.device, *, mixed: bool) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if mixed else contextlib.nullcontext()


def fit_base(
    model: TrainedModel,
    frames: NDArray[np.uint8],
    config: TrainConfig,
    *,
    state_path: Path,
    data_fingerprint: str,
    device: torch.device,
    resume: bool,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Train the base in place with AdamW (paper section 4.2), saving a resumable state now and then.

    Args:
        model: With the base to train; moved to the device.
        frames: uint8 (N, S, S, 3), BGR, normal images of all kinds.
        config: The run's configuration.
        state_path: Where the resumable state lies.
        data_fingerprint: Of the training images; a state of other data is refused.
        device: Where to train.
        resume: Go on from the state, when there is one.
        progress: Called with iteration and loss.

    Raises:
        CheckpointError: The state is damaged, or of another configuration or other data.
        TrainingError: The loss is not finite.
    """
    base = model.base.to(device)
    model.to(device)
    if device.type == "cuda":
        base.to(memory_format=torch.channels_last)
    base.train()
    optimizer = torch.optim.AdamW(
        base.parameter_groups(), config.learning_rate, betas=(0.9, 0.999), weight_decay=config.weight_decay
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    first = 0
    if resume and state_path.is_file():
        first = _restore(state_path, base, optimizer, config, data_fingerprint)
        _log.info("resumed at iteration %d", first)
    mixed = _is_mixed(config.amp, device)
    with _autocast(device, mixed=mixed):
        fetch = _feature_fetcher(model, frames, config, device)
    for iteration in range(first, config.iterations):
        factor = learning_rate_factor(config.schedule, iteration, config.iterations)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        rows = batch_indices(len(frames), config.batch_size, iteration, seed=config.seed, stream=_SEED_STREAM)
        with seeded(config.seed, _SEED_STREAM, iteration), _autocast(device, mixed=mixed):
            encoded = fetch(rows)
            loss = base.loss_on(encoded, progress=iteration / config.iterations)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(trained, config.gradient_clip)
        optimizer.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"The loss became {value} at iteration {iteration} "
                f"(images {rows.tolist()} of the training set). "
                "Start again with a lower --learning-rate in another run folder (--out)."
            )
        if progress is not None:
            progress(iteration + 1, value)
        done = iteration + 1
        if done % config.save_every == 0 or done == config.iterations:
            _save(state_path, done, base, optimizer, config, data_fingerprint)
    base.eval()


def _save(
    path: Path,
    iteration: int,
    base: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    data: str,
) -> None:
    save_tensors(
        path,
        {
            "format": "cada-edge-state",
            "iteration": iteration,
            "config": config.to_dict(),
            "data_fingerprint": data,
            "base": base.state_dict(),
            "optimizer": optimizer.state_dict(),
        },
    )


def _restore(
    path: Path, base: torch.nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, data: str
) -> int:
    state: dict[str, Any] = load_tensors(path, kind="training state")
    if state.get("format") != "cada-edge-state":
        raise CheckpointError(
            f"{path} is no training state of cada-edge. Remove it, or choose another run folder."
        )
    missing = [name for name in _STATE if name not in state]
    if missing or not isinstance(state["config"], dict):
        raise CheckpointError(
            f"The state {path} is damaged: it lacks {', '.join(missing) or 'a configuration'}. "
            "Remove it and start again."
        )
    now, then = config.to_dict(), state["config"]
    changed = sorted(key for key in now if key not in _PER_MACHINE and now[key] != then.get(key))
    if changed:
        differences = ", ".join(f"{key} {then.get(key)!r} -> {now[key]!r}" for key in changed)
        raise CheckpointError(
            f"The state {path} was trained with another configuration ({differences}). "
            "Resume with the same values, or choose another run folder."
        )
    if state["data_fingerprint"] != data:
        raise CheckpointError(
            f"The state {path} was trained on other images. "
            "Resume with the same data, or choose another run folder."
        )
    try:
        base.load_state_dict(state["base"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["iteration"])
    except Exception as error:  # broad: plain values of any type may stand anywhere in the file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"The state {path} does not fit the model ({reason}). Remove it and start again."
        ) from error
