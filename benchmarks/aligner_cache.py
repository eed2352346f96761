"""How much faster does the aligner train on cached features than by running the base in each iteration?

Both sides hold the same decoded images in memory and go through `train_regressor` with the same seed, so with
the same batches and the same dropout: only where a batch's features come from differs. The base is frozen,
therefore the results agree up to rounding (a base run on 32 images may round otherwise than on 16).

The base is timed untrained: its weights change no time, and a trained one would be needed for nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from cada_edge.benchmarks.machine import describe_machine
from cada_edge.runtime.datasets import index_dataset
from cada_edge.trainer.aligner import Regressor, Statistics, train_regressor
from cada_edge.trainer.config import AlignerConfig, TrainConfig
from cada_edge.trainer.data import batches, decode
from cada_edge.trainer.feature_cache import FeatureCache
from cada_edge.trainer.model import TrainedModel, build_model
from cada_edge.trainer.synthetic import KINDS, SyntheticConfig, write_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Fetch = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]

__all__ = ["AlignerCacheConfig", "AlignerCacheFigures", "cached_fetch", "main", "measure", "uncached_fetch"]

_PASS_BATCH = 32
"""Images at a time in the caching pass, as in a training run."""

_PAPER_ITERATIONS = 5_000
"""Of the regressor on RevDist (paper section 4.2)."""


@dataclass(frozen=True)
class AlignerCacheConfig:
    """What is trained."""

    encoder: str = "resnet18"
    """timm name and tag."""
    encoder_weights: str | None = "random"
    """As in `TrainConfig`; they change no time."""
    size: int = 256
    """Side of the network input, in pixels."""
    images: int = 64
    """Training images."""
    iterations: int = 200
    """SGD steps on cached features."""
    uncached_iterations: int = 40
    """SGD steps with the base in each; the results are compared after so many on both sides."""
    seed: int = 0
    """Of the images, the weights, the sampling and the dropout."""
    device: str = "cpu"
    """'cpu' or 'cuda'."""


@dataclass(frozen=True)
class AlignerCacheFigures:
    """What was measured; times are of whole iterations, getting the batch included."""

    cached_s: float
    """Mean seconds of an iteration on cached features, over all of them."""
    uncached_s: float
    """Mean seconds of an iteration with the base in it, over all of them."""
    cached_p50_s: float
    """Median of the same."""
    uncached_p50_s: float
    """Median of the same."""
    pass_s: float
    """Seconds of the caching pass over all images, writing the file included."""
    ratio: float
    """uncached_s / cached_s: the caching pass apart."""
    ratio_p50: float
    """uncached_p50_s / cached_p50_s."""
    ratio_with_pass: float
    """The same with the caching pass counted, over the paper's 5,000 iterations."""
    compared_iterations: int
    """Iterations after which both results were compared."""
    weight_difference: float
    """Largest absolute difference of a weight, a bias or a BatchNorm statistic."""
    prediction_difference: float
    """Largest absolute difference of a predicted u^ or g^ over all training images."""


def cached_fetch(kept: Statistics) -> Fetch:
    """Give batches from the cache, as a training run does."""
    return lambda rows: (kept.features[rows], kept.mean[rows], kept.maximum[rows])


def uncached_fetch(model: TrainedModel, frames: NDArray[np.uint8], device: torch.device) -> Fetch:
    """Give batches by running the frozen base on the decoded images.

    Args:
        model: On the device, in eval mode.
        frames: uint8 (N, S, S, 3), BGR.
        device: The model's.
    """
    import torch

    def fetch(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Not inference_mode: the regressor's backward pass keeps the feature.
        with torch.no_grad():
            maps, bottleneck = model.base(model.normalize(torch.from_numpy(frames[rows.numpy()]).to(device)))
            raw = model.scorer.raw_map(maps)
        # The base works in channels_last, the cache does not. Another layout rounds otherwise, and once a
        # unit of the regressor that lies at zero comes out on its other side, the weights part by 1e-3.
        return bottleneck.float().contiguous(), raw.float().mean((1, 2)), raw.float().amax((1, 2))

    return fetch


def measure(config: AlignerCacheConfig, folder: Path) -> AlignerCacheFigures:
    """Train the regressor both ways.

    Args:
        config: What to train.
        folder: For the drawn images and the cache.
    """
    import torch

    device = torch.device(config.device)
    frames = _draw(config, folder / "line")
    aligner = AlignerConfig()
    model, _ = build_model(
        TrainConfig(encoder=config.encoder, size=config.size, seed=config.seed),
        encoder_weights=config.encoder_weights,
    )
    model = model.to(device).eval()
    cache = FeatureCache(folder, "benchmark")
    # Memory is taken and kernels are chosen on the first batch: let that be on no side's account.
    uncached = uncached_fetch(model, frames, device)
    _train(config, model, uncached, aligner, 2)
    started = time.perf_counter()
    kept = cache.fill(model.raw_batches(batches(frames, _PASS_BATCH, device)), len(frames))
    pass_s = time.perf_counter() - started
    _train(config, model, cached_fetch(kept), aligner, 2)
    slow, slow_times = _train(config, model, uncached, aligner, config.uncached_iterations)
    _, fast_times = _train(config, model, cached_fetch(kept), aligner, config.iterations)
    fast, _ = _train(config, model, cached_fetch(kept), aligner, config.uncached_iterations)
    weights = [
        float((one - other).abs().max())
        for one, other in zip(fast.state_dict().values(), slow.state_dict().values(), strict=True)
    ]
    with torch.inference_mode():
        predicted = [
            (fast(part) - slow(part)).abs().max().item()
            for part in torch.split(kept.features.to(device), _PASS_BATCH)
        ]
    cached_s, uncached_s = statistics.fmean(fast_times), statistics.fmean(slow_times)
    cached_p50_s, uncached_p50_s = statistics.median(fast_times), statistics.median(slow_times)
    return AlignerCacheFigures(
        cached_s=cached_s,
        uncached_s=uncached_s,
        cached_p50_s=cached_p50_s,
        uncached_p50_s=uncached_p50_s,
        pass_s=pass_s,
        ratio=uncached_s / cached_s,
        ratio_p50=uncached_p50_s / cached_p50_s,
        ratio_with_pass=uncached_s * _PAPER_ITERATIONS / (pass_s + cached_s * _PAPER_ITERATIONS),
        compared_iterations=config.uncached_iterations,
        weight_difference=max(weights),
        prediction_difference=max(predicted),
    )


def _draw(config: AlignerCacheConfig, folder: Path) -> NDArray[np.uint8]:
    per_kind = -(-config.images // len(KINDS))
    line = SyntheticConfig(
        size=config.size,
        train_per_kind=per_kind,
        test_normal_per_kind=0,
        test_anomalous_per_kind=0,
        seed=config.seed,
    )
    samples = index_dataset(write_line(folder, line)).train
    # Every so many: the kinds stay in proportion.
    rows = [position * len(samples) // config.images for position in range(config.images)]
    return decode([samples[row] for row in rows], config.size)


def _train(
    config: AlignerCacheConfig, model: TrainedModel, fetch: Fetch, aligner: AlignerConfig, iterations: int
) -> tuple[Regressor, list[float]]:
    """Train one regressor; return it and the seconds of each iteration."""
    import torch

    stamps: list[float] = []

    def now() -> float:
        if config.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def stamped(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stamps.append(now())
        return fetch(rows)

    torch.manual_seed(config.seed)
    regressor = Regressor(model.base.bottleneck_channels, aligner)
    train_regressor(
        regressor,
        config.images,
        stamped,
        dataclasses.replace(aligner, iterations=iterations),
        seed=config.seed,
        device=config.device,
    )
    stamps.append(now())
    return regressor, np.diff(stamps).tolist()


def _text(figures: AlignerCacheFigures) -> str:
    return (
        f"with the base in it  {figures.uncached_s * 1e3:9.2f} ms an iteration "
        f"(median {figures.uncached_p50_s * 1e3:.2f})\n"
        f"on cached features   {figures.cached_s * 1e3:9.2f} ms an iteration "
        f"(median {figures.cached_p50_s * 1e3:.2f})\n"
        f"ratio                {figures.ratio:9.1f} (of medians {figures.ratio_p50:.1f}); "
        f"{figures.ratio_with_pass:.1f} with the caching pass, over {_PAPER_ITERATIONS:,} iterations\n"
        f"caching pass         {figures.pass_s:9.2f} s\n"
        f"largest difference   {figures.weight_difference:9.1e} in weights, "
        f"{figures.prediction_difference:.1e} in predictions, after {figures.compared_iterations} iterations"
    )


@click.command()
@click.option("--encoder", default=AlignerCacheConfig.encoder, show_default=True, help="timm name and tag.")
@click.option("--size", type=int, default=AlignerCacheConfig.size, show_default=True, help="Side, in pixels.")
@click.option("--images", type=int, default=AlignerCacheConfig.images, show_default=True, help="How many.")
@click.option(
    "--iterations",
    type=int,
    default=AlignerCacheConfig.iterations,
    show_default=True,
    help="On cached features.",
)
@click.option(
    "--uncached-iterations",
    type=int,
    default=AlignerCacheConfig.uncached_iterations,
    show_default=True,
    help="With the base in each.",
)
@click.option("--seed", type=int, default=AlignerCacheConfig.seed, show_default=True, help="Of everything.")
@click.option("--device", default=AlignerCacheConfig.device, show_default=True, help="cpu or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(as_json: bool, **options: Any) -> None:
    """Time the aligner's training on cached features and with the base in each iteration."""
    config = AlignerCacheConfig(**options)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(config, Path(folder))
    if as_json:
        record = {**dataclasses.asdict(config), **dataclasses.asdict(figures), "machine": describe_machine()}
        click.echo(json.dumps(record, indent=2))
    else:
        click.echo(_text(figures))


if __name__ == "__main__":
    main()
