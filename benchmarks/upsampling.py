"""Do marks lie where the defects are? The two ways of upsampling the maps, on one checkpoint.

The authors' code aligns the corners of maps and image. A convolutional encoder does not: position i of a
ResNet's stride-16 map is centred on pixel 16 i, so aligned corners shift marks by up to a cell, most at the
lower right. Only the upsampling is exchanged here; base and aligner stay as they were trained.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click
import torch

from cada_edge.runtime.datasets import index_dataset
from cada_edge.runtime.evaluation import Figures
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.evaluate_checkpoint import evaluate_scored, score_samples
from cada_edge.trainer.model import TrainedModel

__all__ = ["compare", "main"]


def compare(checkpoint_path: Path, data: Path) -> dict[str, Figures]:
    """Evaluate a checkpoint's own alignment under both ways.

    Returns:
        'corners' and 'centred' -> mixed figures, in %.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    index = index_dataset(data)
    trained = checkpoint.model
    results = {}
    for upsampling in ("corners", "centred"):
        config = dataclasses.replace(checkpoint.config, upsampling=upsampling)
        model = TrainedModel(trained.base, trained.regressor, config, floor=trained.floor).eval()
        variant = dataclasses.replace(checkpoint, model=model, config=config)
        name = config.alignment
        scored = score_samples(variant, index.test, [name], device=torch.device("cpu"))[name]
        results[upsampling] = evaluate_scored(
            variant, index.test, scored, alignment=name, threshold=None
        ).mixed
    return results


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
def main(checkpoint: Path, data: Path) -> None:
    """Print the mixed figures of CHECKPOINT on DATA under both ways of upsampling, as JSON."""
    click.echo(json.dumps(compare(checkpoint, data), indent=2))


if __name__ == "__main__":
    main()
