"""NVML through a double of its Python bindings, which gives known values: there is no GPU here."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from cada_edge.benchmarks.machine_gpu import NvmlMeter


class NvmlDouble:
    """The functions of pynvml that are used, with their names and units."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, has_counter: bool = True, reasons: int = 0, refuses: str = "") -> None:
        self.has_counter, self.reasons, self.refuses = has_counter, reasons, refuses
        self.readings = 0
        self.shut_down = 0
        if refuses != "events":
            self.nvmlDeviceGetCurrentClocksEventReasons = lambda handle: self.reasons
        self.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x08

    def _refuse(self, name: str) -> None:
        if self.refuses == name:
            raise self.NVMLError(f"{name} refused")

    def nvmlInit(self) -> None:
        self._refuse("init")

    def nvmlShutdown(self) -> None:
        self.shut_down += 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        self._refuse("handle")
        return f"gpu {index}"

    def nvmlDeviceGetName(self, handle: str) -> bytes:
        return b"NVIDIA RTX A2000"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65"

    def nvmlDeviceGetPersistenceMode(self, handle: str) -> int:
        return 1

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        return 70_000

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:
        return {1: 2100, 2: 6001}[kind]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self.readings += 1
        return 30_000 + 1000 * self.readings

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return {1: 1800, 2: 6000}[kind]

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        assert kind == 0
        return 60 + self.readings

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if not self.has_counter:
            raise self.NVMLError("not supported")
        return 5000 * self.readings


def put(monkeypatch: pytest.MonkeyPatch, **options: Any) -> NvmlDouble:
    double = NvmlDouble(**options)
    monkeypatch.setitem(sys.modules, "pynvml", double)
    return double


def sampled(meter: NvmlMeter) -> NvmlMeter:
    for at_s in (10.0, 11.0, 12.0):
        meter.sample(at_s)
    return meter


def test_clocks_power_heat_and_throttling(monkeypatch: pytest.MonkeyPatch) -> None:
    double = put(monkeypatch, reasons=0x04 | 0x40 | 0x01)
    meter = sampled(NvmlMeter())
    found = meter.read()
    assert (found["name"], found["driver"], found["readings"]) == ("NVIDIA RTX A2000", "580.65", 3)
    assert (found["power_limit_w"], found["max_sm_mhz"]) == (70.0, 2100)
    assert found["power_w"] == [31.0, 32.0, 33.0]
    assert found["temperature_c"] == [61.0, 62.0, 63.0]
    assert found["sm_mhz"] == [1800.0, 1800.0, 1800.0]
    # Idle (bit 0) is no throttling.
    assert found["throttled"] == ["power cap", "thermal slowdown by hardware"]
    assert meter.curve.between([(10.0, 12.0)]) == pytest.approx(10.0)
    meter.close()
    meter.close()
    assert double.shut_down == 1


def test_without_an_energy_counter_power_is_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, has_counter=False)
    meter = sampled(NvmlMeter())
    assert meter.curve.between([(10.0, 12.0)]) == pytest.approx((31 + 32) / 2 + (32 + 33) / 2)


def test_older_bindings_have_the_reasons_under_their_first_name(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, refuses="events")
    assert sampled(NvmlMeter()).read()["throttled"] == ["hardware slowdown"]


@pytest.mark.parametrize(
    ("refuses", "reason"), [("init", "NVML does not start: init refused"), ("handle", "describe GPU 0")]
)
def test_without_a_gpu_it_says_why(monkeypatch: pytest.MonkeyPatch, refuses: str, reason: str) -> None:
    put(monkeypatch, refuses=refuses)
    meter = sampled(NvmlMeter())
    assert reason in (meter.reason or "")
    assert not meter.is_open
    meter.close()


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = NvmlMeter()
    assert "pip install 'cada-edge[bench]'" in (meter.reason or "")
    assert not meter.is_open


def test_the_double_has_the_real_functions() -> None:
    real = pytest.importorskip("pynvml", reason="pip install 'cada-edge[bench]'")
    used = [name for name in dir(NvmlDouble) if name.startswith("nvml")]
    assert len(used) > 10
    assert not [name for name in used if not hasattr(real, name)]
    assert (real.NVML_CLOCK_SM, real.NVML_CLOCK_MEM, real.NVML_TEMPERATURE_GPU) == (1, 2, 0)
    assert issubclass(real.NVMLError, Exception)
    bits = SimpleNamespace(
        cap=real.nvmlClocksThrottleReasonSwPowerCap,
        hardware=real.nvmlClocksThrottleReasonHwSlowdown,
        software=real.nvmlClocksThrottleReasonSwThermalSlowdown,
        thermal=real.nvmlClocksThrottleReasonHwThermalSlowdown,
        brake=real.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
    )
    assert (bits.cap, bits.hardware, bits.software, bits.thermal, bits.brake) == (4, 8, 0x20, 0x40, 0x80)
