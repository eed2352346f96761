"""What makes a measurement doubtful, found in its own record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["find_noise"]

_VARIATION = 0.10
"""Largest standard deviation over the mean that is taken for quiet."""
_DRIFT = 0.05
"""Largest change of the median from the first third of the time to the last."""
_OTHER_LOAD, _OTHER_CORES = 0.05, 0.5
"""Largest share of the processors that this process may use which others may take; at most half a processor:
on a large machine too they take caches, memory bandwidth and the turbo clock."""
_STOLEN = 0.01
_FEW_FRAMES = 8


def find_noise(record: Mapping[str, Any]) -> list[str]:
    """Return a line for each reason to doubt the figures of a record of `run_bench`."""
    lines = [line for subject in record["subjects"] for line in _of_subject(subject, record)]
    return [*lines, *_of_machine(record["machine"]), *_of_run(record)]


def _of_subject(subject: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[str]:
    label, latency = subject["label"], subject["latency_ms"]
    variation = latency["deviation"] / latency["mean"] if latency["mean"] > 0 else 0.0
    if variation > _VARIATION:
        yield f"{label}: the latencies vary by {100 * variation:.0f} % (standard deviation over mean)"
    total_ms = np.asarray(subject["samples"]["total_ms"])
    third = len(total_ms) // 3
    if third >= 10:
        early, late = float(np.median(total_ms[:third])), float(np.median(total_ms[-third:]))
        if early > 0 and abs(late / early - 1) > _DRIFT:
            yield f"{label}: the median of the first third was {early:.3g} ms, of the last {late:.3g} ms"
    samples = latency["n"] if subject["camera"] is None else subject["camera"]["due"]
    if samples < subject["p99_samples_needed"]:
        yield (
            f"{label}: {samples} samples are too few to bound the p99 from above; it takes "
            f"{subject['p99_samples_needed']}. Measure longer with --duration"
        )


def _of_machine(machine: Mapping[str, Any]) -> Iterator[str]:
    load = machine["load"]
    cores = machine["cores"] or machine["cores_installed"] or 1
    other = load["other_cores"]
    if other is not None and other > min(_OTHER_LOAD * cores, _OTHER_CORES):
        yield (
            f"other processes kept {other:.1f} of {machine['cores_installed'] or cores} processors busy; "
            f"this one may use {cores}"
        )
    if (load["stolen_share"] or 0) > _STOLEN:
        share = 100 * load["stolen_share"]
        yield f"the machine below this virtual one took {share:.0f} % of the processors' time"
    if load["throttled"]:
        yield f"processors were slowed down for heat {load['throttled']} times"
    if load["power_throttled"]:
        yield (
            f"the module was slowed down {load['power_throttled']} times for its current or voltage; look at "
            "the power supply and the power mode (nvpmodel)"
        )
    if load["pages_read"]:
        yield f"{load['pages_read']} pages of memory were read from a disk"
    if machine["governor"] not in (None, "performance"):
        yield (
            f"the CPU governor is {machine['governor']}, which changes the clock with the load; "
            "for steady figures: sudo cpupower frequency-set -g performance"
        )
    gpu = machine["gpu"]
    if gpu and gpu["throttled"]:
        yield f"the GPU's clocks were held down: {', '.join(gpu['throttled'])}"


def _of_run(record: Mapping[str, Any]) -> Iterator[str]:
    if record["interrupted"]:
        yield "the run was interrupted: this is what had been measured"
    if record["frames"]["distinct"] < _FEW_FRAMES:
        yield f"there were {record['frames']['distinct']} different frames only; they may lie in the caches"
    if record["config"]["warmup_s"] == 0:
        yield "there was no warm-up: first calls are among the samples"
    if len(record["subjects"]) > 1 and any(
        not each["is_counted"] for subject in record["subjects"] for each in subject["energy"]
    ):
        yield (
            "power was read, not counted: readings are means over some time, so that models that take turns "
            "seem more alike than they are; for watts and images per joule measure each by itself"
        )
    machine = record["machine"]
    on_gpu = any(subject["model"]["format"] == "engine" for subject in record["subjects"])
    gpu = machine["gpu"]
    if on_gpu and gpu and gpu["gpus"] > 1:
        yield (
            f"clocks, power and throttling are of the first of {gpu['gpus']} GPUs, {gpu['name']}, which need "
            "not be the one that computed"
        )
    if on_gpu and machine["gpu"] is None and machine["jetson"] is None:
        yield f"clocks, power and throttling of the GPU are not known: {machine['gpu_reason']}"
