"""A Jetson while something is measured: the rails and temperatures that tegrastats prints.

Its line has changed its form: ``VDD_GPU_SOC 2340mW/2340mW`` and ``cpu@53.968C`` of JetPack 5 and 6,
``POM_5V_IN 1750/1628`` and ``CPU@31.5C`` of JetPack 4; AGX Xavier's rails are called GPU, CPU, SOC, CV.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cada_edge.benchmarks.machine_energy import EnergyCurve
from cada_edge.runtime.doctor import jetson_findings

__all__ = ["TegraReading", "TegrastatsMeter", "describe_jetson", "parse_tegrastats"]

_INPUT_RAILS = ("VDD_IN", "POM_5V_IN")
"""Rails that carry everything else, where the module has one: Orin Nano and NX, Xavier NX, TX2; Nano."""

_NOT_ADDED = ("NC", "VDDQ_VDD2_1V8AO")
"""Not connected; and an AGX Orin's memory, which is taken to be fed from VIN_SYS_5V0 and counted there."""

_RAIL = re.compile(r"(?<![\w/@])([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?(?![\w/])")
_TEMPERATURE = re.compile(r"([A-Za-z][A-Za-z0-9_]*)@(-?\d+(?:\.\d+)?)C\b")
_GPU = re.compile(r"GR3D_FREQ (\d+)%(?:@\[?(\d+))?")

_ABSENT_BELOW_C = -100.0
"""A sensor that is switched off prints -256."""

_PMIC = "PMIC"
"""Its sensor prints a fixed number."""


@dataclass(frozen=True)
class TegraReading:
    """One line of tegrastats."""

    rails_mw: dict[str, int]
    """Rail -> power now, in milliwatts."""
    temperatures_c: dict[str, float]
    """Sensor -> degrees Celsius, without those that are off."""
    gpu_share: float | None
    """Load of the GPU, 0-1."""
    gpu_mhz: int | None
    """Its frequency, where the line has it."""

    @property
    def total_mw(self) -> tuple[int, str] | None:
        """Power of the module in milliwatts and what it was taken from; None without a rail."""
        for name in _INPUT_RAILS:
            if name in self.rails_mw:
                return self.rails_mw[name], name
        added = [name for name in self.rails_mw if name not in _NOT_ADDED]
        return (sum(self.rails_mw[name] for name in added), " + ".join(added)) if added else None


def parse_tegrastats(line: str) -> TegraReading:
    """Read a line of tegrastats, of any JetPack from 4.2 on; what is not in it is left empty."""
    rails = {name: int(now) for name, now, _ in _RAIL.findall(line)}
    temperatures = {
        name: float(value)
        for name, value in _TEMPERATURE.findall(line)
        if float(value) > _ABSENT_BELOW_C and name != _PMIC
    }
    gpu = _GPU.search(line)
    return TegraReading(
        rails,
        temperatures,
        int(gpu[1]) / 100 if gpu else None,
        int(gpu[2]) if gpu and gpu[2] else None,
    )


def describe_jetson(root: Path = Path("/")) -> dict[str, str] | None:
    """Return model and power mode of a Jetson; None on any other machine.

    Args:
        root: Of the file system.
    """
    findings = jetson_findings(root)
    return {finding.name.lower(): finding.detail for finding in findings} or None


class TegrastatsMeter:
    """tegrastats in a process of its own, read by a thread."""

    def __init__(self, command: str = "tegrastats", *, interval_ms: int = 200) -> None:
        """Start it; where there is none, `reason` says so.

        Args:
            command: Name of the program, or its path.
            interval_ms: Time between two lines.
        """
        self.reason: str | None = None
        self.curve = EnergyCurve("Jetson module")
        self._readings: list[TegraReading] = []
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        found = shutil.which(command)
        if found is None:
            self.reason = f"{command} is not on the PATH"
            return
        try:
            self._process = subprocess.Popen(
                [found, "--interval", str(interval_ms)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError as error:
            self.reason = f"{command} cannot be run: {error}"
            return
        self._thread = threading.Thread(target=self._follow, name="tegrastats", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            reading = parse_tegrastats(line)
            total = reading.total_mw
            with self._lock:
                self._readings.append(reading)
                if total is not None:
                    self.curve.scope = f"Jetson module (tegrastats: {total[1]})"
                    self.curve.add_power(time.perf_counter(), total[0] / 1e3)

    def read(self) -> dict[str, Any] | None:
        """Return the readings' mean rails_mw, highest temperatures_c, mean gpu_share, range of gpu_mhz."""
        with self._lock:
            readings = list(self._readings)
        if not readings:
            return None
        rails = {
            name: [each.rails_mw[name] for each in readings if name in each.rails_mw]
            for name in _names(readings, "rails_mw")
        }
        sensors = {
            name: max(each.temperatures_c[name] for each in readings if name in each.temperatures_c)
            for name in _names(readings, "temperatures_c")
        }
        loads = [each.gpu_share for each in readings if each.gpu_share is not None]
        clocks = [each.gpu_mhz for each in readings if each.gpu_mhz is not None]
        return {
            "readings": len(readings),
            "rails_mw": {name: sum(values) / len(values) for name, values in rails.items()},
            "temperatures_c": sensors,
            "gpu_share": sum(loads) / len(loads) if loads else None,
            "gpu_mhz": [min(clocks), max(clocks)] if clocks else None,
        }

    def close(self) -> None:
        """End it; harmless when called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._thread.join(5)
        if process.stdout is not None:
            process.stdout.close()


def _names(readings: list[TegraReading], part: str) -> list[str]:
    return list(dict.fromkeys(name for reading in readings for name in getattr(reading, part)))
