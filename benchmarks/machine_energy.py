"""Energy as a curve over time, from counters (RAPL, newer GPUs) or from readings of power."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["EnergyCurve", "RaplMeter"]


@dataclass
class EnergyCurve:
    """Energy that something has used since the first reading."""

    scope: str
    """What the reading covers, in words."""
    of_gpu: bool = False
    """Whether it is of a GPU alone, which a model on the CPU leaves idle."""
    is_counted: bool = False
    """Whether it counts energy. Readings of power are means over some time before, and follow late."""
    at_s: list[float] = field(default_factory=list)
    """Times of the readings, of `time.perf_counter`, in seconds."""
    joules: list[float] = field(default_factory=list)
    """Energy used up to each."""
    _last_w: float = 0.0

    def add_counter(self, at_s: float, joules: float) -> None:
        """Add a counter's reading."""
        self.is_counted = True
        self._add(at_s, joules)

    def _add(self, at_s: float, joules: float) -> None:
        self.at_s.append(at_s)
        self.joules.append(joules)

    def add_power(self, at_s: float, watts: float) -> None:
        """Add a reading of power, which is joined to the last one by a straight line."""
        before = self.joules[-1] if self.joules else 0.0
        step = (at_s - self.at_s[-1]) * (watts + self._last_w) / 2 if self.at_s else 0.0
        self._last_w = watts
        self._add(at_s, before + step)

    def between(self, spans_s: Sequence[tuple[float, float]]) -> float | None:
        """Return the energy used in stretches of time, in joules.

        Args:
            spans_s: Start and end of each. At an end without a reading the power is taken to go on as it was.

        Returns:
            None with fewer than two readings.
        """
        if len(self.at_s) < 2:
            return None
        at_s, joules = np.asarray(self.at_s), np.asarray(self.joules)
        mean_w = (joules[-1] - joules[0]) / (at_s[-1] - at_s[0])

        def at(moment_s: float) -> float:
            inside = min(max(moment_s, at_s[0]), at_s[-1])
            return float(np.interp(inside, at_s, joules) + (moment_s - inside) * mean_w)

        return sum(at(end_s) - at(start_s) for start_s, end_s in spans_s)


class RaplMeter:
    """The processor's own energy counters (Intel and AMD), which many systems let root alone read."""

    def __init__(self, root: Path = Path("/")) -> None:
        """Look for packages.

        Args:
            root: Of the file system.
        """
        zones = sorted((root / "sys/class/powercap").glob("*rapl:*"))
        self._zones: list[Path] = []
        names = []
        for zone in zones:
            # Sub-zones, as intel-rapl:0:0, are parts of their package; -mmio shows the same package again.
            if not re.fullmatch(r"[a-z]+-rapl:\d+", zone.name):
                continue
            try:
                int((zone / "energy_uj").read_text(encoding="ascii"))
                name = (zone / "name").read_text(encoding="ascii").strip()
            except (OSError, ValueError):
                continue
            # psys is the whole platform, with the packages in it.
            if not name.startswith("package"):
                continue
            names.append(name)
            self._zones.append(zone)
        self._last = [0] * len(self._zones)
        self._joules = 0.0
        self._is_first = True
        self.curve = EnergyCurve(f"processor, without memory and board (RAPL: {', '.join(names)})")

    @property
    def is_readable(self) -> bool:
        """Whether there is a counter that this user may read."""
        return bool(self._zones)

    def sample(self, at_s: float) -> None:
        """Read the counters; each starts anew at its end, so at least every few minutes."""
        for position, zone in enumerate(self._zones):
            try:
                now = int((zone / "energy_uj").read_text(encoding="ascii"))
                step = now - self._last[position]
                if step < 0:
                    step += int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
            except (OSError, ValueError):
                return
            self._last[position] = now
            if not self._is_first:
                self._joules += step / 1e6
        self._is_first = False
        self.curve.add_counter(at_s, self._joules)
