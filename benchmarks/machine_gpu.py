"""A GPU while something is measured, by NVML (the package nvidia-ml-py): clocks, power, heat, throttling.

A Jetson's GPU is not in NVML: see `cada_edge.benchmarks.machine_jetson`.
"""

from __future__ import annotations

import importlib
from typing import Any

from cada_edge.benchmarks.machine_energy import EnergyCurve

__all__ = ["THROTTLE_REASONS", "NvmlMeter"]

# Bits of nvmlClocksEventReasons (NVML's documentation); those that do not slow a busy GPU are left out.
THROTTLE_REASONS = {
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x020: "thermal slowdown by software",
    0x040: "thermal slowdown by hardware",
    0x080: "power brake",
}
"""Bit -> why the clocks are held down."""

_CLOCK_SM, _CLOCK_MEMORY, _TEMPERATURE_GPU = 1, 2, 0


class NvmlMeter:
    """One GPU, read now and then."""

    def __init__(self, index: int = 0) -> None:
        """Open NVML; what fails is in `reason`, and nothing is measured.

        Args:
            index: Of the GPU, in NVML's order, which knows nothing of CUDA_VISIBLE_DEVICES.
        """
        self.reason: str | None = None
        self.curve = EnergyCurve("GPU board (NVML)", of_gpu=True)
        self._readings: list[dict[str, float]] = []
        self._reasons = 0
        self._has_counter = True
        self._nvml: Any = None
        self._about: dict[str, Any] = {}
        try:
            nvml: Any = importlib.import_module("pynvml")
        except ImportError:
            self.reason = "nvidia-ml-py is not installed: pip install 'cada-edge[bench]'"
            return
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            self.reason = f"NVML does not start: {error}"
            return
        self._nvml = nvml
        try:
            self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
            self._about = {
                "gpus": nvml.nvmlDeviceGetCount(),
                "name": _text(nvml.nvmlDeviceGetName(self._handle)),
                "driver": _text(nvml.nvmlSystemGetDriverVersion()),
                "persistence": self._ask("nvmlDeviceGetPersistenceMode"),
                "power_limit_w": self._scaled("nvmlDeviceGetEnforcedPowerLimit", 1e-3),
                "max_sm_mhz": self._ask("nvmlDeviceGetMaxClockInfo", _CLOCK_SM),
                "max_memory_mhz": self._ask("nvmlDeviceGetMaxClockInfo", _CLOCK_MEMORY),
            }
        except nvml.NVMLError as error:
            self.reason = f"NVML does not describe GPU {index}: {error}"
            self.close()

    @property
    def is_open(self) -> bool:
        """Whether there is a GPU to read."""
        return self._nvml is not None

    def _ask(self, name: str, *arguments: Any) -> Any:
        """Ask for one value; a GPU that does not have it gives None."""
        try:
            return getattr(self._nvml, name)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None

    def _scaled(self, name: str, factor: float) -> float | None:
        value = self._ask(name)
        return None if value is None else value * factor

    def sample(self, at_s: float) -> None:
        """Read the GPU.

        Args:
            at_s: Now, of `time.perf_counter`.
        """
        if not self.is_open:
            return
        power_w = self._scaled("nvmlDeviceGetPowerUsage", 1e-3)
        values = {
            "sm_mhz": self._ask("nvmlDeviceGetClockInfo", _CLOCK_SM),
            "memory_mhz": self._ask("nvmlDeviceGetClockInfo", _CLOCK_MEMORY),
            "temperature_c": self._ask("nvmlDeviceGetTemperature", _TEMPERATURE_GPU),
            "power_w": power_w,
        }
        self._readings.append({name: float(value) for name, value in values.items() if value is not None})
        # Older bindings, and older drivers, have it under its first name alone.
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        self._reasons |= reasons or 0
        joules = self._scaled("nvmlDeviceGetTotalEnergyConsumption", 1e-3) if self._has_counter else None
        if joules is not None:
            self.curve.add_counter(at_s, joules)
        elif power_w is not None:
            # Once without the counter, always without: the two do not go on from each other.
            if self._has_counter and self.curve.at_s:
                return
            self._has_counter = False
            self.curve.add_power(at_s, power_w)

    def read(self) -> dict[str, Any]:
        """Return what was read.

        Returns:
            gpus, how many there are; name, driver, limits; lowest, mean and highest sm_mhz, memory_mhz,
            temperature_c and power_w; throttled, a list of reasons of which at least one reading told;
            readings, their number.
        """
        found: dict[str, Any] = {**self._about, "readings": len(self._readings)}
        for name in ("sm_mhz", "memory_mhz", "temperature_c", "power_w"):
            values = [reading[name] for reading in self._readings if name in reading]
            found[name] = [min(values), sum(values) / len(values), max(values)] if values else None
        found["throttled"] = [text for bit, text in THROTTLE_REASONS.items() if self._reasons & bit]
        return found

    def close(self) -> None:
        """Leave NVML; harmless when called twice."""
        if self._nvml is not None:
            nvml, self._nvml = self._nvml, None
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                return


def _text(value: Any) -> str:
    # Bindings before 11.5 give bytes.
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
