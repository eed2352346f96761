"""The machine of a benchmark's report, as names and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["machine_lines"]


def machine_lines(machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the machine was and how busy, as names and values; what is not known is left out."""
    load = machine["load"]
    frequency, peak = load["frequency_mhz"], _number(load["peak_memory_mib"])
    packages = machine["packages"]
    shown = (
        "numpy",
        "opencv-python-headless",
        "opencv-python",
        "onnxruntime",
        "openvino",
        "tensorrt",
        "tensorrt-rtx",
    )
    values: list[tuple[str, Any]] = [
        ("processor", f"{machine['cpu']}, {machine['cores']} of {machine['cores_installed']} cores usable"),
        ("board", machine["board"]),
        ("clock", frequency and _range(frequency, "MHz")),
        ("governor", machine["governor"] or "not told by the system"),
        ("memory", f"{machine['memory_gib']} GiB, of which this process used {peak} MiB at most"),
        ("load while measuring", _load(load)),
        ("system", f"{machine['system']}, {machine['kernel']}, {machine['python']}"),
        ("packages", ", ".join(f"{name} {packages[name]}" for name in shown if name in packages)),
        ("GPU", ", ".join(machine["gpus"]) or None),
        ("driver", machine["driver"] and f"{machine['driver']}, CUDA up to {machine['driver_cuda']}"),
        *_gpu_lines(machine["gpu"]),
        *_jetson_lines(machine["jetson"]),
        (
            "commit",
            machine["commit"]
            and machine["commit"][:7] + (", with changes" if machine["commit_modified"] else ""),
        ),
    ]
    return [(name, str(value)) for name, value in values if value]


def _load(load: Mapping[str, Any]) -> str | None:
    if load["own_cores"] is None:
        return None
    text = f"{load['own_cores']:.2f} processors by this process"
    if load["other_cores"] is not None:
        text += f", {load['other_cores']:.2f} by others, {100 * load['idle_share']:.0f} % idle"
    if load["stolen_share"]:
        text += f", {100 * load['stolen_share']:.1f} % taken by the machine below"
    return text


def _gpu_lines(gpu: Mapping[str, Any] | None) -> Iterator[tuple[str, Any]]:
    if gpu is None:
        return
    yield "GPU that was read", gpu["name"]
    for name, key, unit in (
        ("GPU clock", "sm_mhz", "MHz"),
        ("GPU memory clock", "memory_mhz", "MHz"),
        ("GPU temperature", "temperature_c", "°C"),
        ("GPU power", "power_w", "W"),
    ):
        yield name, gpu[key] and _range(gpu[key], unit)
    yield "GPU throttling", ", ".join(gpu["throttled"]) or "none"


def _jetson_lines(jetson: Mapping[str, Any] | None) -> Iterator[tuple[str, Any]]:
    if jetson is None:
        return
    yield "Jetson", jetson["jetson"]
    yield "power mode", jetson["power mode"]
    stats = jetson["tegrastats"]
    if stats is None:
        yield "tegrastats", jetson["tegrastats_reason"] or "gave no line"
        return
    yield "rails, mean", ", ".join(f"{name} {value / 1e3:.2f} W" for name, value in stats["rails_mw"].items())
    yield (
        "temperatures, highest",
        ", ".join(f"{name} {value:.1f} °C" for name, value in stats["temperatures_c"].items()),
    )
    if stats["gpu_mhz"]:
        yield "GPU clock", f"{stats['gpu_mhz'][0]} to {stats['gpu_mhz'][1]} MHz"


def _range(values: Sequence[float], unit: str) -> str:
    low, mean, high = values
    return f"{low:.0f} to {high:.0f} {unit}, mean {mean:.0f}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}"
