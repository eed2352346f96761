"""Training of the base method on all good parts mixed, resumable to the bit on the CPU."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cada_edge.errors import CheckpointError, TrainingError
from cada_edge.trainer.base_features import FrozenFeatures
from cada_edge.trainer.base_step import BASE_SEED_STREAM, BaseStep
from cada_edge.trainer.checkpoint import load_tensors, save_tensors
from cada_edge.trainer.config import PER_MACHINE, TrainConfig
from cada_edge.trainer.divergence import LossWatch
from cada_edge.trainer.loader import prefetched
from cada_edge.trainer.model import TrainedModel
from cada_edge.trainer.processes import Processes
from cada_edge.trainer.run_log import RunLog
from cada_edge.trainer.sampling import batch_indices

__all__ = ["fit_base"]

_log = logging.getLogger(__name__)

_STATE = ("config", "data_fingerprint", "base", "optimizer", "iteration")

_AHEAD = 2
"""Batches held ready for a GPU."""


def fit_base(
    model: TrainedModel,
    frames: NDArray[np.uint8],
    config: TrainConfig,
    *,
    state_path: Path,
    data_fingerprint: str,
    device: torch.device,
    resume: bool,
    names: Sequence[str] | None = None,
    processes: Processes | None = None,
    log: RunLog | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Train the base in place with AdamW (paper section 4.2), saving a resumable state now and then.

    Args:
        model: With the base to train; moved to the device.
        frames: uint8 (N, S, S, 3), BGR, normal images of all kinds.
        config: The run's configuration.
        state_path: Where the resumable state lies; only the leading process reads and writes it.
        data_fingerprint: Of the training images; a state of other data is refused.
        device: Where to train.
        resume: Go on from the state, when there is one.
        names: Of the images, for messages; None for their numbers.
        processes: Those that share each batch; None for this one alone.
        log: Gets the iterations; None for none.
        progress: Called with iteration and loss.

    Raises:
        CheckpointError: The state is damaged, or of another configuration or other data.
        TrainingError: The loss or a weight is not finite, or the loss has diverged (`LossWatch`).
    """
    processes = processes or Processes()
    step = BaseStep(model, config, device, processes)
    first, watch = 0, LossWatch()
    if resume:
        first, watch = _go_on(state_path, step, config, data_fingerprint, device)
    features = FrozenFeatures(model, frames, config, device, sharers=processes.place.local_count)
    if log is not None:
        log.start(first)

    def batch(iteration: int) -> torch.Tensor:
        return batch_indices(
            len(frames), config.batch_size, iteration, seed=config.seed, stream=BASE_SEED_STREAM
        )

    saved, due = first, False
    iterations = range(first, config.iterations)
    loaded = prefetched(
        features.gather,
        (processes.share(batch(iteration)) for iteration in iterations),
        ahead=_AHEAD if device.type == "cuda" else 0,
        device=device,
    )
    with closing(loaded):
        for iteration, gathered in zip(iterations, loaded, strict=True):
            loss = step(features.finish(gathered), iteration)
            done = iteration + 1
            due = due or done % config.save_every == 0 or done == config.iterations
            problem = _problem(loss, watch, step if due else None)
            if problem is not None:
                shown = [str(row) if names is None else names[int(row)] for row in batch(iteration).tolist()]
                raise TrainingError(
                    f"{problem} at iteration {iteration}, on the images {', '.join(shown)}. "
                    + _advice(state_path, saved, config)
                )
            if log is not None:
                log.step(
                    "base",
                    done,
                    config.iterations,
                    loss,
                    learning_rate=step.learning_rate,
                    images=config.batch_size,
                )
            if progress is not None:
                progress(done, loss)
            # A state from the midst of a rise may be no good one: it waits until the loss is down again.
            if due and (not watch.is_high or done == config.iterations):
                if processes.place.leads:
                    _save(state_path, done, step, watch, config, data_fingerprint)
                saved, due = done, False
    step.base.eval()


def _problem(loss: float, watch: LossWatch, step: BaseStep | None) -> str | None:
    """Say what is wrong with an iteration; a step is given where its weights are to be looked at."""
    if not math.isfinite(loss):
        return f"The loss became {loss}"
    limit = watch.limit()
    if watch.diverged(loss):
        return (
            f"The loss has diverged: it is {loss:.4g}, for {watch.patience} iterations in a row above "
            f"{limit:.4g}, which is far from what it was before,"
        )
    if step is not None and not step.weights_are_finite():
        return f"A weight became infinite or not a number with the loss still {loss:.4g}"
    return None


def _advice(state_path: Path, saved: int, config: TrainConfig) -> str:
    kept = (
        f"The last good state is {state_path}, of iteration {saved}; --resume goes on from it, which helps "
        "after a fault of the machine only, since the same batches follow. "
        if saved
        else "No state had been saved yet. "
    )
    return (
        f"{kept}Look at these images; if they are sound, start again with a --learning-rate lower than "
        f"{config.learning_rate:g}, or with --gradient-clip 1, in another run folder (--out)."
    )


def _go_on(
    path: Path, step: BaseStep, config: TrainConfig, data: str, device: torch.device
) -> tuple[int, LossWatch]:
    """Take the state up, where there is one; the leading process reads it and tells the others."""
    processes, told = step.processes, None
    if processes.place.leads and path.is_file():
        first, watched = _restore(path, step.base, step.optimizer, config, data)
        told = (first, watched, step.optimizer.state_dict() if processes.several else None)
    told = processes.object_from_leader(told, device)
    if told is None:
        return 0, LossWatch()
    first, watched, optimizer_state = told
    processes.copy_from_leader(list(step.base.state_dict().values()))
    if not processes.place.leads:
        step.optimizer.load_state_dict(optimizer_state)
    _log.info("resumed at iteration %d", first)
    return first, LossWatch(watched)


def _save(
    path: Path,
    iteration: int,
    step: BaseStep,
    watch: LossWatch,
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
            "base": step.base.state_dict(),
            "optimizer": step.optimizer.state_dict(),
            "losses": watch.state(),
        },
    )


def _restore(
    path: Path, base: torch.nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, data: str
) -> tuple[int, Any]:
    """Load a state into base and optimizer; return the iterations done and what the watch kept."""
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
    changed = sorted(key for key in now if key not in PER_MACHINE and now[key] != then.get(key))
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
        return int(state["iteration"]), state.get("losses")
    except Exception as error:  # broad: plain values of any type may stand anywhere in the file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"The state {path} does not fit the model ({reason}). Remove it and start again."
        ) from error
