"""AUPRO at the size of a whole test set: the time from maps and masks to the figure."""

from __future__ import annotations

import json
import time
from typing import Any

import click
import numpy as np

from cada_edge.benchmarks.machine import describe_machine
from cada_edge.runtime.aupro import RegionScores, aupro
from cada_edge.runtime.metrics import PixelScores

__all__ = ["main", "measure"]


def measure(images: int, size: int, *, seed: int = 0) -> dict[str, Any]:
    """Compute AUPRO of drawn maps with one to four square defects each, a tenth to a quarter of the side.

    Args:
        images: How many maps and masks.
        size: Their side, in pixels.
        seed: Of the drawing.

    Returns:
        images, size, regions, aupro (0-1), wall_s and cpu_s without the drawing.
    """
    rng = np.random.default_rng(seed)
    pixels, regions = PixelScores(), RegionScores()
    wall_s = cpu_s = 0.0
    for _ in range(images):
        mask = np.zeros((size, size), np.uint8)
        for _ in range(rng.integers(1, 5)):
            side = int(rng.integers(size // 10, size // 4))
            row, column = rng.integers(0, size - side, 2)
            mask[row : row + side, column : column + side] = 1
        anomaly_map = rng.standard_normal((size, size), dtype=np.float32) + mask
        wall, cpu = time.perf_counter(), time.process_time()
        pixels.append(anomaly_map, mask)
        regions.append(anomaly_map, mask)
        wall_s += time.perf_counter() - wall
        cpu_s += time.process_time() - cpu
    wall, cpu = time.perf_counter(), time.process_time()
    area = aupro([regions], [pixels.negative])
    return {
        "images": images,
        "size": size,
        "regions": regions.regions,
        "aupro": area,
        "wall_s": wall_s + time.perf_counter() - wall,
        "cpu_s": cpu_s + time.process_time() - cpu,
    }


@click.command()
@click.option("--images", type=click.IntRange(min=1), default=1258, show_default=True, help="As MVTec AD's.")
@click.option("--size", type=click.IntRange(min=16), default=256, show_default=True, help="Side, in pixels.")
def main(images: int, size: int) -> None:
    """Print the time of AUPRO over IMAGES drawn maps and masks, as JSON."""
    click.echo(json.dumps({**measure(images, size), "machine": describe_machine()}, indent=2))


if __name__ == "__main__":
    main()
