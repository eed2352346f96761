"""Pretrain the demo's encoder, a ResNet-18 without its last stage, on procedural scenes.

One command repeats the shipped file::

    python -m cada_edge.trainer.pretrain --out trainer/weights/resnet18_procedural.safetensors

The pretext is dense (`cada_edge.trainer.pretext`): at each position of the three feature maps (strides 4,
8, 16) a linear head names the material out of 2,000, a second one says which structures lie in that cell, a
third one gives the cell's mean colour. The heads sit on the maps themselves, so that what they need must
be in the features that RevDist compares. Classifying whole pictures of 256 textures was solved after 300
steps and taught little; here an image carries hundreds of labels and the materials differ by little.

The learning rate rises, stays, and falls linearly over the last part of the run. The constant part does not
depend on the number of steps, so a run may be cut short: stop it, start it again with fewer `--steps`, and
it goes on from its last save to the same weights that fewer steps would have given from the start.

Measured for the shipped weights: 6,000 steps, seed 0, 2 threads, 4,773 s on a 2-core machine that was busy
with other work as well (2.6 steps a second in its quieter moments). Held out are 480 fresh scenes of
materials redrawn with fresh noise; guessing gives 0.05 % and 0.25 %, and an AUROC of 50 %.

====== ============== ============== =====================================================
stride material top 1 material top 5 AUROC of boundary, object, hole, stroke, spot, stain
====== ============== ============== =====================================================
4      24.0           49.7           95.5, 67.9, 89.0, 77.9, 76.2, 61.7
8      35.2           63.1           96.4, 77.7, 91.5, 78.1, 75.7, 64.3
16     40.1           67.7           97.2, 91.5, 93.4, 74.7, 72.7, 62.1
====== ============== ============== =====================================================
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from cada_edge.errors import ConfigError
from cada_edge.files import atomic_path
from cada_edge.trainer.checkpoint import save_tensors
from cada_edge.trainer.encoders import IMAGENET_MEAN, IMAGENET_STD
from cada_edge.trainer.pretext import Scene, TextureBank, draw_bank, draw_batch
from cada_edge.trainer.pretrain_heads import DenseHeads, evaluate, to_tensors

__all__ = ["PretrainConfig", "build_encoder", "pretrain", "round_weights", "save_weights"]

_LOGGER = logging.getLogger(__name__)
_FRESH = 1_000_000
"""Seed offset and first realisation of what is drawn for the held-out figures only."""


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that decides the weights."""

    steps: int = 6000
    """Optimiser steps, one batch each."""
    seed: int = 0
    """Seed of the recipes, the scenes, the initial weights and the sampling of labels."""
    threads: int = 2
    """CPU threads of PyTorch; another number rounds differently."""
    recipes: int = 2000
    """Materials to be told apart."""
    realisations: int = 2
    """Tiles drawn of each material for training."""
    tile_size: int = 160
    """Pixels along one side of a tile."""
    crop: int = 128
    """Pixels along one side of a scene."""
    batch: int = 24
    """Scenes a step."""
    labels: int = 1200
    """Positions a step and feature map at which the material is asked for."""
    learning_rate: float = 2e-3
    """AdamW's, at its height."""
    weight_decay: float = 0.02
    """AdamW's."""
    warmup: int = 200
    """Steps of linear rise."""
    fall: float = 0.4
    """Part of the steps, at the end, over which the learning rate falls to zero."""
    bfloat16: bool = True
    """Run the network in bfloat16 autocast: 1.8 times faster on a CPU with AVX512-BF16."""

    def __post_init__(self) -> None:
        for name in ("steps", "threads", "recipes", "realisations", "batch", "labels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least 1 is needed: raise --{name}.")
        if self.crop % 16 or self.crop < 32:
            raise ConfigError(f"crop is {self.crop}; a multiple of 16 from 32 on is needed, such as 128.")

    def rate_at(self, step: int) -> float:
        """Compute the learning rate of a step: warm-up, constant, linear fall."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = min(1.0, (self.steps - step) / max(1.0, self.fall * self.steps))
        return self.learning_rate * min(rise, fall)


def build_encoder() -> nn.Module:
    """Make timm's ResNet-18 with random weights, as the feature maps of strides 4, 8 and 16."""
    encoder: nn.Module = timm.create_model(
        "resnet18", pretrained=False, features_only=True, out_indices=(1, 2, 3)
    )
    return encoder.to(memory_format=torch.channels_last)


def pretrain(
    config: PretrainConfig,
    out: Path,
    *,
    watch: Callable[[float], None] | None = None,
    save_every: int = 100,
    held_out_scenes: int = 480,
) -> dict[str, object]:
    """Train an encoder, write its weights to `out` and return the metadata that went with them.

    Args:
        config: what decides the weights.
        out: safetensors file to write; a run that was stopped left its state beside it and goes on.
        watch: is given the loss of each step.
        save_every: steps from one saved state to the next.
        held_out_scenes: scenes on which the finished encoder is measured.
    """
    started = time.perf_counter()
    torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(config.seed)
    encoder, heads = build_encoder(), DenseHeads(config.recipes)
    optimiser = torch.optim.AdamW(
        [*encoder.parameters(), *heads.parameters()],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    partial = out.with_suffix(".partial.pt")
    first, spent = 0, 0.0
    if partial.is_file():
        state = torch.load(partial, weights_only=True)
        _check_same_run(state["config"], state["step"], config, partial)
        encoder.load_state_dict(state["encoder"])
        heads.load_state_dict(state["heads"])
        optimiser.load_state_dict(state["optimiser"])
        first, spent = state["step"], state["seconds"]
        _LOGGER.info("going on from step %d of %s", first, partial)
    bank = draw_bank(
        recipes=config.recipes, realisations=config.realisations, tile_size=config.tile_size, seed=config.seed
    )

    def seconds() -> float:
        return spent + time.perf_counter() - started

    encoder.train()
    progress = tqdm(total=config.steps, initial=first, unit="step", mininterval=5.0)
    for step, scene in enumerate(_batches(bank, config, first), start=first):
        for group in optimiser.param_groups:
            group["lr"] = config.rate_at(step)
        images, recipe, marks = to_tensors(scene)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            picks = torch.Generator().manual_seed(config.seed * _FRESH + step)
            loss = heads.loss(images, encoder(images), recipe, marks, picks=picks, labels=config.labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        nn.utils.clip_grad_norm_(encoder.parameters(), 5.0)
        optimiser.step()
        progress.update()
        if watch is not None:
            watch(loss.item())
        if step % 10 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % save_every == 0:
            state = {"config": asdict(config), "encoder": encoder.state_dict(), "heads": heads.state_dict()}
            state |= {"optimiser": optimiser.state_dict(), "step": step + 1, "seconds": seconds()}
            save_tensors(partial, state)
    progress.close()

    round_weights(encoder)
    metadata: dict[str, object] = {
        "architecture": "timm resnet18, conv1 to layer3",
        "recipe": "cada_edge.trainer.pretrain",
        "config": asdict(config),
        "wall_time_s": round(seconds()),
        "held_out": evaluate(encoder, heads, _held_out(config, held_out_scenes), labels=config.labels),
        "input": {"colour_order": "RGB", "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        "versions": {
            "torch": torch.__version__,
            "timm": timm.__version__,
            "opencv": cv2.__version__,
            "numpy": np.__version__,
        },
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    save_weights(encoder, metadata, out)
    partial.unlink(missing_ok=True)
    return metadata


@torch.no_grad()
def round_weights(encoder: nn.Module) -> None:
    """Round the convolutions to what half precision can hold, so that what is measured is what is shipped."""
    for parameter in encoder.parameters():
        if parameter.ndim == 4:
            parameter.copy_(parameter.half())


def save_weights(encoder: nn.Module, metadata: dict[str, object], out: Path) -> None:
    """Write timm's names: convolutions in half precision, batch-norms in single, metadata in the header."""
    tensors = {
        name: (tensor.half() if tensor.ndim == 4 else tensor).contiguous()
        for name, tensor in encoder.state_dict().items()
    }
    with atomic_path(out) as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt", "pretrain": json.dumps(metadata)})


def _batches(bank: TextureBank, config: PretrainConfig, first: int) -> Iterator[Scene]:
    """Draw the batches from step `first` on, two ahead of their use, in a thread of their own."""

    def draw(step: int) -> Scene:
        rng = np.random.default_rng([config.seed, step])
        return draw_batch(bank, rng, count=config.batch, size=config.crop)

    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(draw, step) for step in range(first, min(first + 2, config.steps))]
        for step in range(first, config.steps):
            if step + 2 < config.steps:
                waiting.append(pool.submit(draw, step + 2))
            yield waiting.pop(0).result()


def _held_out(config: PretrainConfig, scenes: int) -> Iterator[Scene]:
    """Draw fresh scenes of the same materials, each redrawn with fresh noise."""
    bank = draw_bank(
        recipes=config.recipes,
        realisations=1,
        tile_size=config.tile_size,
        seed=config.seed,
        first_realisation=_FRESH,
    )
    for index in range(math.ceil(scenes / config.batch)):
        rng = np.random.default_rng([config.seed, _FRESH, index])
        yield draw_batch(bank, rng, count=config.batch, size=config.crop)


def _check_same_run(saved: dict[str, Any], step: int, config: PretrainConfig, partial: Path) -> None:
    """Refuse to go on from a save that would not lead to the weights of an uninterrupted run."""
    wanted = asdict(config)
    differing = [name for name in wanted if name != "steps" and saved.get(name) != wanted[name]]
    if differing:
        raise ConfigError(
            f"{partial} was saved with another {', '.join(differing)} than this run has. "
            f"Delete it to start afresh, or give the same options to go on."
        )
    constant_until = (1 - config.fall) * min(config.steps, saved["steps"])
    if saved["steps"] != config.steps and step > constant_until:
        raise ConfigError(
            f"{partial} is at step {step} of {saved['steps']}; going on to {config.steps} steps needs a save "
            f"from before step {constant_until:.0f}, where the learning rate falls. "
            f"Give --steps {saved['steps']}, or delete it to start afresh."
        )


_DEFAULT = PretrainConfig()


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Weights to write."
)
@click.option("--steps", default=_DEFAULT.steps, show_default=True, help="Optimiser steps.")
@click.option("--seed", default=_DEFAULT.seed, show_default=True, help="Seed of everything that is drawn.")
@click.option("--threads", default=_DEFAULT.threads, show_default=True, help="CPU threads.")
def main(out: Path, steps: int, seed: int, threads: int) -> None:
    """Pretrain the demo's encoder and print its metadata as JSON."""
    metadata = pretrain(PretrainConfig(steps=steps, seed=seed, threads=threads), out)
    click.echo(json.dumps(metadata, indent=2))


if __name__ == "__main__":
    main()
