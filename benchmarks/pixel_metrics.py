"""Exact AUROC and average precision of millions of pixels: ours against scikit-learn's on the same scores.

Each side runs in a process of its own, so that neither inherits memory of the other, and computes both
metrics, several times if asked to: then the fastest counts, on either side. Time is given twice: as it
passed, and as the processor's, which other programs change less (they still take the caches away). Memory is
the highest resident set above what the arrays of the scores themselves take.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from cada_edge.benchmarks.machine import describe_machine
from cada_edge.errors import MissingExtraError
from cada_edge.runtime.metrics import rank_metrics

__all__ = ["DRAWS", "SIDES", "SideFigures", "draw_scores", "main", "measure_side"]

SIDES = ("cada-edge", "scikit-learn")
DRAWS = ("gaussian", "tied", "narrow")
"""Normal scores of mean 0 and anomalous ones of mean 1, deviation 1; the same on a grid of 1/8; the same,
hundred times narrower, around 1000."""


@dataclass(frozen=True)
class SideFigures:
    """What one side took and found."""

    side: str
    """One of `SIDES`."""
    pixels: int
    """Pixels of both classes."""
    wall_s: float
    """Seconds that passed."""
    cpu_s: float
    """Seconds of the processor, all threads."""
    peak_mib: float | None
    """Highest resident memory above what was there before, the scores included there; None off Linux."""
    auroc: float
    """0-1."""
    average_precision: float
    """0-1."""


def draw_scores(
    draw: str, pixels: int, *, share: float, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw scores of anomalous and of normal pixels.

    Args:
        draw: One of `DRAWS`.
        pixels: How many of both.
        share: Share of the anomalous, 0-1.
        seed: Of the drawing.

    Returns:
        float32 (P,) and (N,).
    """
    rng = np.random.default_rng(seed)
    positives = round(pixels * share)
    positive = rng.standard_normal(positives, dtype=np.float32)
    normal = rng.standard_normal(pixels - positives, dtype=np.float32)
    positive += 1
    for scores in (positive, normal):
        if draw == "tied":
            scores *= 8
            np.rint(scores, out=scores)
            scores /= 8
        elif draw == "narrow":
            scores /= 100
            scores += 1000
    return positive, normal


def measure_side(
    side: str, positive: NDArray[np.float32], normal: NDArray[np.float32], *, repeats: int = 1
) -> SideFigures:
    """Compute both metrics by one side.

    Args:
        side: One of `SIDES`.
        positive: float32 (P,).
        normal: float32 (N,).
        repeats: How often, at least once; the fastest wall and processor times count.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    if side == "scikit-learn":
        try:
            from sklearn.metrics import average_precision_score, roc_auc_score
        except ImportError as error:
            raise MissingExtraError("The comparison", "scikit-learn", "test") from error

        labels = np.zeros(positive.size + normal.size, np.uint8)
        labels[: positive.size] = 1
        scores = np.concatenate([positive, normal])

        def compute() -> tuple[float | None, float | None]:
            return float(roc_auc_score(labels, scores)), float(average_precision_score(labels, scores))
    else:

        def compute() -> tuple[float | None, float | None]:
            return rank_metrics(positive, normal)

    before = _start_peak()
    wall_s, cpu_s = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        auroc, precision = compute()
        wall_s.append(time.perf_counter() - wall)
        cpu_s.append(time.process_time() - cpu)
    after = _status_kib("VmHWM")
    # Scores of both classes were drawn.
    assert auroc is not None
    assert precision is not None
    return SideFigures(
        side=side,
        pixels=positive.size + normal.size,
        wall_s=min(wall_s),
        cpu_s=min(cpu_s),
        peak_mib=None if before is None or after is None else (after - before) / 1024,
        auroc=auroc,
        average_precision=precision,
    )


def _start_peak() -> int | None:
    """Set the highest resident memory back to the present one and return it, in KiB; None off Linux."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status_kib("VmHWM")


def _status_kib(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def _in_own_process(side: str, pixels: int, draw: str, share: float, repeats: int) -> SideFigures:
    command = [sys.executable, "-m", "cada_edge.benchmarks.pixel_metrics", "--json", "--side", side]
    command += ["--pixels", str(pixels), "--draw", draw, "--share", str(share)]
    command += ["--repeats", str(repeats)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return SideFigures(**json.loads(done.stdout)["sides"][0])


def _text(sides: list[SideFigures]) -> str:
    lines = [
        f"{each.side:<13}{each.wall_s:9.2f} s, {each.cpu_s:9.2f} s of the processor, "
        f"{'unknown' if each.peak_mib is None else f'{each.peak_mib:.0f} MiB'} beside the arrays, "
        f"AUROC {each.auroc:.12f}, AP {each.average_precision:.12f}"
        for each in sides
    ]
    if len(sides) == len(SIDES):
        ours, theirs = sides
        lines.append(
            f"ratio        {theirs.wall_s / ours.wall_s:9.1f}    {theirs.cpu_s / ours.cpu_s:9.1f}; "
            f"differences: AUROC {abs(ours.auroc - theirs.auroc):.1e}, "
            f"AP {abs(ours.average_precision - theirs.average_precision):.1e}"
        )
    return "\n".join(lines)


@click.command()
@click.option("--pixels", type=click.IntRange(min=2), default=40_000_000, show_default=True)
@click.option("--draw", type=click.Choice(DRAWS), default=DRAWS[0], show_default=True, help="How scores lie.")
@click.option(
    "--share", type=click.FloatRange(0, 1), default=0.02, show_default=True, help="Of the anomalous."
)
@click.option("--side", type=click.Choice(["both", *SIDES]), default="both", show_default=True)
@click.option(
    "--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="The fastest counts."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(pixels: int, draw: str, share: float, side: str, repeats: int, as_json: bool) -> None:
    """Compare time and memory of the pixel metrics with scikit-learn's."""
    if side == "both":
        sides = [_in_own_process(each, pixels, draw, share, repeats) for each in SIDES]
    else:
        sides = [measure_side(side, *draw_scores(draw, pixels, share=share), repeats=repeats)]
    if as_json:
        record = {"sides": [dataclasses.asdict(each) for each in sides], "draw": draw, "share": share}
        click.echo(json.dumps({**record, "machine": describe_machine()}, indent=2))
    else:
        click.echo(f"{pixels} pixels, {draw}, {share:.1%} anomalous\n{_text(sides)}")


if __name__ == "__main__":
    main()
