"""How much faster is our training step of a base method than a plain loop, on this device?

Ours is the step of `cada_edge.trainer.fit_base`: bf16 where the device has it, channels_last on CUDA, batches
fetched ahead, the frozen encoder's features from memory where that pays, and optionally torch.compile. Plain
is what one writes first: the same model in fp32 with torch's defaults (which let cuDNN's convolutions use
TF32), eager, encoder and decoder in every step. Both start from the same weights, see the same batches and
use the same optimiser; rounds of one and the other alternate, so that a change of the machine's load or clock
meets both.

Ours leaves the one pass that fills the memory of features out: it is paid once, not by each step. It is
printed beside.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from cada_edge.benchmarks.machine import describe_machine
from cada_edge.trainer.base_features import FrozenFeatures
from cada_edge.trainer.base_step import BASE_SEED_STREAM, BaseStep
from cada_edge.trainer.config import BASES, TrainConfig
from cada_edge.trainer.fit import choose_device
from cada_edge.trainer.loader import prefetched
from cada_edge.trainer.model import TrainedModel, build_model
from cada_edge.trainer.sampling import batch_indices

__all__ = ["TrainStepConfig", "TrainStepFigures", "main", "measure"]

_WARM_UP = 3
"""Steps of each side that are not timed: memory is taken, kernels are chosen, graphs compiled."""


@dataclass(frozen=True)
class TrainStepConfig:
    """What is timed."""

    base: str = "revdist"
    """Base method."""
    encoder: str = "wide_resnet50_2"
    """timm name and tag; the weights are random, which changes no time."""
    size: int = 256
    """Side of the network input, in pixels."""
    batch_size: int = 16
    """Images in a step."""
    images: int = 64
    """Training images, random pixels."""
    steps: int = 10
    """Steps in a round."""
    rounds: int = 5
    """Rounds of each side."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda' or 'cuda:N'."""
    amp: str = "auto"
    """As in `TrainConfig`."""
    cache_features: str = "auto"
    """As in `TrainConfig`."""
    compile: bool = False
    """As in `TrainConfig`; of our side."""
    seed: int = 0
    """Of weights, images and sampling."""


@dataclass(frozen=True)
class TrainStepFigures:
    """What was measured; times are of whole steps, the batch's way to the device included."""

    ours_ms: float
    """Median milliseconds of a step."""
    plain_ms: float
    """The same of the plain loop."""
    ours_images_per_s: float
    """Batch size over the median."""
    plain_images_per_s: float
    """The same of the plain loop."""
    ratio: float
    """plain_ms / ours_ms."""
    ours_memory_mib: float | None
    """Most GPU memory, weights and optimiser included; None on a CPU."""
    plain_memory_mib: float | None
    """The same of the plain loop."""
    features_s: float
    """Seconds of our side before the first step: the pass over all images where features are kept."""
    loss_difference: float
    """Relative difference of both sides' first loss: it is the same function but for rounding."""
    device: str
    """What it ran on."""


class _Memory:
    """Tells each side's share of the GPU's memory while both models lie in it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._resident: dict[str, int] = {}
        self._peak: dict[str, int] = {}

    @contextmanager
    def of(self, side: str) -> Iterator[None]:
        """Charge what is taken in the block, and stays, to a side."""
        if not self._cuda:
            yield
            return
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        yield
        torch.cuda.synchronize(self._device)
        others = sum(size for name, size in self._resident.items() if name != side)
        stays = torch.cuda.memory_allocated(self._device) - before
        self._resident[side] = self._resident.get(side, 0) + stays
        peak = torch.cuda.max_memory_allocated(self._device) - others
        self._peak[side] = max(self._peak.get(side, 0), peak)

    def peak_mib(self, side: str) -> float | None:
        return round(self._peak[side] / 2**20, 1) if self._cuda else None


def measure(config: TrainStepConfig) -> TrainStepFigures:
    """Time both sides in turns.

    Args:
        config: What to time.

    Raises:
        ConfigError: No such base method, encoder or device.
        TrainingError: `compile` is asked for and there is no compiler.
    """
    device = choose_device(config.device)
    frames = np.random.default_rng(config.seed).integers(
        0, 256, (config.images, config.size, config.size, 3), np.uint8
    )
    memory = _Memory(device)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    losses: dict[str, float] = {}
    with memory.of("ours"):
        started = time.perf_counter()
        ours, batches = _our_side(config, frames, device)
        features_s = time.perf_counter() - started
    with memory.of("plain"):
        plain = _plain_side(config, frames, device)
    with closing(batches):
        for round_number in range(config.rounds + 1):
            for name, step in (("ours", ours), ("plain", plain)):
                with memory.of(name):
                    for number in range(_WARM_UP if round_number == 0 else config.steps):
                        started = time.perf_counter()
                        loss = step()  # a number, so the device has done its work
                        if round_number:
                            times[name].append((time.perf_counter() - started) * 1e3)
                        elif number == 0:
                            losses[name] = loss
    ours_ms, plain_ms = statistics.median(times["ours"]), statistics.median(times["plain"])
    return TrainStepFigures(
        ours_ms=ours_ms,
        plain_ms=plain_ms,
        ours_images_per_s=config.batch_size / ours_ms * 1e3,
        plain_images_per_s=config.batch_size / plain_ms * 1e3,
        ratio=plain_ms / ours_ms,
        ours_memory_mib=memory.peak_mib("ours"),
        plain_memory_mib=memory.peak_mib("plain"),
        features_s=features_s,
        loss_difference=abs(losses["ours"] / losses["plain"] - 1),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    )


def _train_config(config: TrainStepConfig) -> TrainConfig:
    return TrainConfig(
        base=config.base,
        encoder=config.encoder,
        size=config.size,
        batch_size=config.batch_size,
        # What anneals over a run does so slowly, as in a real one.
        iterations=5_000,
        device=config.device,
        amp=config.amp,
        cache_features=config.cache_features,
        compile=config.compile,
        seed=config.seed,
    )


def _model(config: TrainConfig) -> TrainedModel:
    model, _ = build_model(config, encoder_weights="random")
    return model


def _rows(config: TrainConfig, images: int, iteration: int) -> torch.Tensor:
    return batch_indices(images, config.batch_size, iteration, seed=config.seed, stream=BASE_SEED_STREAM)


def _our_side(
    config: TrainStepConfig, frames: NDArray[np.uint8], device: torch.device
) -> tuple[Callable[[], float], Any]:
    """Return what makes one of our steps, and the batches, to be closed at the end."""
    values = _train_config(config)
    model = _model(values)
    step = BaseStep(model, values, device)
    features = FrozenFeatures(model, frames, values, device)
    batches = prefetched(
        features.gather,
        (_rows(values, len(frames), iteration) for iteration in count()),
        ahead=2 if device.type == "cuda" else 0,
        device=device,
    )
    iterations = count()
    return lambda: step(features.finish(next(batches)), next(iterations)), batches


def _plain_side(
    config: TrainStepConfig, frames: NDArray[np.uint8], device: torch.device
) -> Callable[[], float]:
    """Return what makes one step of the plain loop."""
    values = _train_config(config)
    model = _model(values).to(device)
    base = model.base.train()
    optimizer = torch.optim.AdamW(
        base.parameter_groups(), values.learning_rate, weight_decay=values.weight_decay
    )
    iterations = count()

    def step() -> float:
        iteration = next(iterations)
        batch = torch.from_numpy(frames[_rows(values, len(frames), iteration).numpy()]).to(device)
        loss = base.training_loss(model.normalize(batch), progress=iteration / values.iterations)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step


def _text(figures: TrainStepFigures) -> str:
    def row(name: str, milliseconds: float, rate: float, memory: float | None) -> str:
        used = "" if memory is None else f"{memory:10.0f} MiB"
        return f"{name:6}{milliseconds:10.1f} ms a step{rate:10.1f} images/s{used}"

    return "\n".join(
        [
            row("ours", figures.ours_ms, figures.ours_images_per_s, figures.ours_memory_mib),
            row("plain", figures.plain_ms, figures.plain_images_per_s, figures.plain_memory_mib),
            f"ratio {figures.ratio:10.2f} on {figures.device}; first losses differ by "
            f"{figures.loss_difference:.1e}; {figures.features_s:.1f} s before our first step",
        ]
    )


@click.command()
@click.option("--base", type=click.Choice(list(BASES)), default=TrainStepConfig.base, show_default=True)
@click.option("--encoder", default=TrainStepConfig.encoder, show_default=True, help="timm name and tag.")
@click.option("--size", type=int, default=TrainStepConfig.size, show_default=True, help="Side, in pixels.")
@click.option("--batch-size", type=int, default=TrainStepConfig.batch_size, show_default=True)
@click.option("--images", type=int, default=TrainStepConfig.images, show_default=True, help="How many.")
@click.option("--steps", type=int, default=TrainStepConfig.steps, show_default=True, help="In a round.")
@click.option("--rounds", type=int, default=TrainStepConfig.rounds, show_default=True, help="Of each side.")
@click.option("--device", default=TrainStepConfig.device, show_default=True, help="auto, cpu, cuda, cuda:N.")
@click.option("--amp", default=TrainStepConfig.amp, show_default=True, help="bf16: auto, on or off.")
@click.option(
    "--cache-features", default=TrainStepConfig.cache_features, show_default=True, help="auto, on or off."
)
@click.option("--compile", is_flag=True, help="Compile our side's loss.")
@click.option("--seed", type=int, default=TrainStepConfig.seed, show_default=True, help="Of everything.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(as_json: bool, **options: Any) -> None:
    """Time our training step beside a plain fp32 loop of the same model."""
    config = TrainStepConfig(**options)
    figures = measure(config)
    if as_json:
        record = {**dataclasses.asdict(config), **dataclasses.asdict(figures), "machine": describe_machine()}
        click.echo(json.dumps(record, indent=2))
    else:
        click.echo(_text(figures))


if __name__ == "__main__":
    main()
