"""One optimiser step of the base method: rate, precision, compilation, and the mean over all processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cada_edge.errors import ConfigError
from cada_edge.trainer.base_features import autocast, is_mixed
from cada_edge.trainer.base_method import BaseMethod
from cada_edge.trainer.compiling import compiled
from cada_edge.trainer.config import TrainConfig
from cada_edge.trainer.model import TrainedModel
from cada_edge.trainer.processes import Place, Processes
from cada_edge.trainer.sampling import seeded
from cada_edge.trainer.shared_norm import share_batch_norm

__all__ = ["BASE_SEED_STREAM", "BaseStep", "check_compile", "learning_rate_factor"]

BASE_SEED_STREAM = 1
"""Keeps the base's random numbers apart from the aligner's."""

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


def check_compile(config: TrainConfig, place: Place) -> None:
    """Refuse compilation where several processes train.

    Raises:
        ConfigError: It is asked for there.
    """
    if config.compile and place.count > 1:
        raise ConfigError(
            f"compile came with {place.count} processes; wanted one of the two, since the batch statistics "
            "that processes share cut the compiled graph at every layer. Leave --compile out."
        )


class _Loss(nn.Module):
    """A base's loss as a module's forward pass: what DistributedDataParallel wraps."""

    def __init__(self, base: BaseMethod) -> None:
        super().__init__()
        self.base = base

    def forward(self, encoded: Sequence[Tensor], progress: float) -> Tensor:
        return self.base.loss_on(encoded, progress=progress)


class BaseStep:
    """Steps a base method's weights with AdamW (paper section 4.2)."""

    def __init__(
        self,
        model: TrainedModel,
        config: TrainConfig,
        device: torch.device,
        processes: Processes | None = None,
    ) -> None:
        """Move the model to the device, in training mode, and join the processes' copies.

        Args:
            model: With the base to train.
            config: The run's configuration.
            device: Where to train.
            processes: Those that share each batch; None for this one alone.
        """
        self.base = model.base.to(device)
        model.to(device)
        if device.type == "cuda":
            self.base.to(memory_format=torch.channels_last)
        self.base.train()
        self.processes = processes or Processes()
        self.optimizer = torch.optim.AdamW(
            self.base.parameter_groups(),
            config.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=config.weight_decay,
        )
        self._config = config
        self._device = device
        self._mixed = is_mixed(config.amp, device)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._loss = self._prepare()

    def _prepare(self) -> Callable[[Sequence[Tensor], float], Tensor]:
        if self.processes.several:
            share_batch_norm(self.base, self._device)
            # Unused parameters: an encoder that is trained too may have layers behind its last map. Where
            # there are none, torch says so once on stderr.
            return DistributedDataParallel(
                _Loss(self.base),
                find_unused_parameters=True,
                gradient_as_bucket_view=True,
            )
        loss = compiled(self.base.loss_on, self._device) if self._config.compile else self.base.loss_on
        return lambda encoded, progress: loss(encoded, progress=progress)

    @property
    def learning_rate(self) -> float:
        """Of the first group of parameters, as last used."""
        return float(self.optimizer.param_groups[0]["lr"])

    def __call__(self, encoded: Sequence[Tensor], iteration: int) -> float:
        """Make one step.

        Args:
            encoded: Features of this process's share of the batch, as `BaseMethod.encode` gives them.
            iteration: From 0.

        Returns:
            The whole batch's loss before the step; it may not be finite.
        """
        config = self._config
        factor = learning_rate_factor(config.schedule, iteration, config.iterations)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        random = seeded(config.seed, BASE_SEED_STREAM, iteration, process=self.processes.place.rank)
        with random, autocast(self._device, mixed=self._mixed):
            loss = self._loss(encoded, iteration / config.iterations)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self._trained, config.gradient_clip)
        self.optimizer.step()
        return float(self.processes.mean(loss.detach()))

    def weights_are_finite(self) -> bool:
        """Tell whether every trained weight is a finite number."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self._trained)
