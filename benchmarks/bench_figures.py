"""What the samples of a benchmark say: latencies, stages, rates, energy, and one model against another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cada_edge.benchmarks.bench_blocks import STAGES, Block
from cada_edge.benchmarks.bench_config import ALWAYS, BenchConfig
from cada_edge.benchmarks.bench_stats import ratio_of, samples_needed, summarize
from cada_edge.benchmarks.machine_energy import EnergyCurve

__all__ = ["compare_subjects", "figures_of", "mean_stages", "most_shown_ms"]

_DIGITS = 4
"""Of raw samples in milliseconds: a tenth of a microsecond."""


def figures_of(
    blocks: Sequence[Block],
    warm_up: Block | None,
    config: BenchConfig,
    curves: Sequence[EnergyCurve] = (),
) -> dict[str, Any]:
    """Summarise one model's blocks.

    Args:
        blocks: With at least one sample each.
        warm_up: Its unmeasured calls; None where there were none.
        config: How they were made.
        curves: Energy over the same time.

    Returns:
        latency_ms (see `Summary.to_dict`; a camera's percentiles are of all frames that were due),
        p99_samples_needed, stages_ms, frames, seconds, images_per_second, camera, energy, warm_up, samples:
        JSON-safe.
    """
    levels = sorted({*ALWAYS, *config.percentiles})
    # Coordinated omission: a camera's frame that was given up is later than any that was not.
    dropped = sum(block.dropped for block in blocks) if config.mode == "camera" else 0
    total_ms = np.concatenate([block.total_ms for block in blocks])
    seconds = sum(block.ended_s - block.started_s for block in blocks)
    frames = sum(block.frames for block in blocks)
    return {
        "latency_ms": summarize(total_ms, levels, lost=dropped).to_dict(),
        "p99_samples_needed": samples_needed(99),
        "stages_ms": _stages(blocks, float(total_ms.mean())),
        "frames": frames,
        "seconds": seconds,
        "images_per_second": _rate(blocks),
        "camera": _camera(blocks) if config.mode == "camera" else None,
        "energy": [_energy(curve, blocks, frames) for curve in curves],
        "warm_up": None if warm_up is None or not warm_up.total_ms else _warm_up(warm_up),
        "samples": _samples(blocks),
    }


def mean_stages(record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the mean of each stage that was measured apart, and what is unaccounted for, of every model.

    Args:
        record: Of `run_bench`.

    Returns:
        Label -> stage -> ms.
    """
    found = {}
    for subject in record["subjects"]:
        stages = subject["stages_ms"]
        found[subject["label"]] = {name: stages[name]["mean"] for name in STAGES if stages[name] is not None}
        found[subject["label"]]["unaccounted"] = stages["unaccounted"]
    return found


def most_shown_ms(record: Mapping[str, Any]) -> float:
    """Return the latency up to which all models' histograms reach: somewhat beyond the p99.

    Args:
        record: Of `run_bench`.
    """
    latencies = [subject["latency_ms"] for subject in record["subjects"]]
    # Where the p99 is a dropped frame the slowest verdict is the last that there is to see.
    return 1.25 * max(float(each["max"] if each["p99"] is None else each["p99"]) for each in latencies)


def _stages(blocks: Sequence[Block], mean_ms: float) -> dict[str, Any]:
    """Return each stage's mean and median (None: not measured apart), and what is left over."""
    found: dict[str, Any] = {}
    for name in STAGES:
        values = np.concatenate([block.stages_ms.get(name, []) for block in blocks])
        found[name] = None
        if len(values):
            mean = float(values.mean())
            found[name] = {"mean": mean, "p50": float(np.median(values)), "share": mean / mean_ms}
    known = sum(stage["mean"] for stage in found.values() if stage is not None)
    found["sum"] = known
    found["total"] = mean_ms
    found["unaccounted"] = mean_ms - known
    return found


def _rate(blocks: Sequence[Block]) -> float:
    """Weigh each block's rate by its frames: the harmonic mean, as of a way driven in parts."""
    frames = sum(block.frames for block in blocks if block.rate > 0)
    seconds = sum(block.frames / block.rate for block in blocks if block.rate > 0)
    return frames / seconds if seconds > 0 else 0.0


def _camera(blocks: Sequence[Block]) -> dict[str, Any]:
    due = sum(block.due for block in blocks)
    dropped, late = (sum(getattr(block, name) for block in blocks) for name in ("dropped", "late"))
    return {
        "due": due,
        "delivered": sum(block.frames for block in blocks),
        "dropped": dropped,
        "late": late,
        "dropped_share": dropped / due if due else 0.0,
        "late_share": late / due if due else 0.0,
    }


def _energy(curve: EnergyCurve, blocks: Sequence[Block], frames: int) -> dict[str, Any]:
    """Return the energy of the model's own blocks, idle power included."""
    spans_s = [(block.started_s, block.ended_s) for block in blocks]
    seconds = sum(end_s - start_s for start_s, end_s in spans_s)
    joules = curve.between(spans_s)
    known = joules is not None and joules > 0
    return {
        "scope": curve.scope,
        "is_counted": curve.is_counted,
        "joules": joules,
        "mean_w": joules / seconds if known and joules is not None and seconds > 0 else None,
        "images_per_joule": frames / joules if known and joules is not None else None,
    }


def _warm_up(block: Block) -> dict[str, Any]:
    return {
        "n": len(block.total_ms),
        "first_ms": block.total_ms[0],
        "p50": float(np.median(block.total_ms)),
        "max": max(block.total_ms),
    }


def _samples(blocks: Sequence[Block]) -> dict[str, Any]:
    """Return every sample, in the order in which they ended; the clock begins with the first block."""
    start_s = blocks[0].started_s

    def rounded(values: Sequence[float]) -> list[float]:
        return [round(float(value), _DIGITS) for value in values]

    names = [name for name in STAGES if any(block.stages_ms.get(name) for block in blocks)]
    return {
        "block": [number for number, block in enumerate(blocks) for _ in block.total_ms],
        "at_ms": rounded([(at_s - start_s) * 1e3 for block in blocks for at_s in block.at_s]),
        "total_ms": rounded([value for block in blocks for value in block.total_ms]),
        "stages_ms": {
            name: rounded([value for block in blocks for value in block.stages_ms[name]]) for name in names
        },
    }


def compare_subjects(
    labels: Sequence[str], blocks: Sequence[Block], config: BenchConfig
) -> list[dict[str, Any]]:
    """Set every model beside the first one, pair of blocks by pair of blocks.

    Args:
        labels: Of the models, in the order of their positions.
        blocks: All of them, in the order of their time.
        config: What they measured.

    Returns:
        For each of the others: label, to, what ('p50 latency' or 'images a second'), and the ratio's fields.
    """
    of_each = [
        [block for block in blocks if block.subject == number and block.total_ms]
        for number in range(len(labels))
    ]
    rates = config.mode == "throughput"
    found = []
    for number in range(1, len(labels)):
        pairs = list(zip(of_each[number], of_each[0], strict=False))
        if not pairs:
            continue
        columns = zip(*(((_figure(a, rates), _figure(b, rates)) for a, b in pairs)), strict=True)
        ours, first = (list(column) for column in columns)
        kept = [(a, b) for a, b in zip(ours, first, strict=True) if b > 0]
        if not kept:
            continue
        ratio = ratio_of([a for a, _ in kept], [b for _, b in kept])
        found.append(
            {
                "label": labels[number],
                "to": labels[0],
                "what": "images a second" if rates else "p50 latency",
                **dataclasses.asdict(ratio),
            }
        )
    return found


def _figure(block: Block, rates: bool) -> float:
    return block.rate if rates else float(np.median(block.total_ms))
