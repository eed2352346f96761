"""How busy the machine was while something was measured: our own process, everything else, and the clock."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "CpuTimes",
    "LoadMeter",
    "parse_stat",
    "read_frequency_mhz",
    "read_power_throttle_count",
    "read_throttle_count",
]

_ROOT = Path("/")


@dataclass(frozen=True)
class CpuTimes:
    """Time that all processors have spent since the machine started, in ticks."""

    busy: int
    """User, system and interrupts."""
    idle: int
    """Idle, and waiting for disks."""
    stolen: int
    """Given to other virtual machines by the one below."""


def parse_stat(text: str) -> CpuTimes:
    """Read the first line of /proc/stat (proc(5)).

    Example:
        >>> parse_stat("cpu  10 1 5 80 4 0 1 2 0 0")
        CpuTimes(busy=17, idle=84, stolen=2)
    """
    user, nice, system, idle, waiting, irq, soft_irq, stolen, *_ = (
        *(int(value) for value in text.split("\n", 1)[0].split()[1:]),
        *(0,) * 8,
    )
    # Guests' time is in user and nice already.
    return CpuTimes(user + nice + system + irq + soft_irq, idle + waiting, stolen)


class LoadMeter:
    """Compares two moments; where the system does not tell, the figures are None."""

    def __init__(self, root: Path = _ROOT) -> None:
        """Remember now.

        Args:
            root: Of the file system.
        """
        self._root = root
        self._ticks_per_s = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
        self._cpu = _cpu_times(root)
        self._own = _own_usage()
        self._started_s = time.perf_counter()
        self._throttled = read_throttle_count(root)
        self._power_throttled = read_power_throttle_count(root)

    def read(self) -> dict[str, Any]:
        """Return what happened since.

        Returns:
            own_cores and other_cores (processors kept busy on average, by this process and by all others),
            stolen_share and idle_share (0-1 of all processors' time), switched_out (times that another
            process took our processor), pages_read (page faults that waited for a disk), throttled (events
            of processors slowed down for heat), power_throttled (events of a Jetson slowed down for its
            current or voltage), peak_memory_mib of this process since it began.
        """
        seconds = max(time.perf_counter() - self._started_s, 1e-9)
        now, own = _cpu_times(self._root), _own_usage()
        found: dict[str, Any] = dict.fromkeys(
            (
                "own_cores",
                "other_cores",
                "stolen_share",
                "idle_share",
                "switched_out",
                "pages_read",
                "peak_memory_mib",
                "throttled",
                "power_throttled",
            )
        )
        own_s = None
        if own is not None and self._own is not None:
            own_s = own.cpu_s - self._own.cpu_s
            found["own_cores"] = own_s / seconds
            found["switched_out"] = own.switched_out - self._own.switched_out
            found["pages_read"] = own.pages_read - self._own.pages_read
            found["peak_memory_mib"] = own.peak_kib / 1024
        if now is not None and self._cpu is not None:
            busy, idle = now.busy - self._cpu.busy, now.idle - self._cpu.idle
            stolen = now.stolen - self._cpu.stolen
            whole = max(busy + idle + stolen, 1)
            found["stolen_share"], found["idle_share"] = stolen / whole, idle / whole
            if own_s is not None:
                # Ticks are coarse: a short run may come out a little below zero.
                found["other_cores"] = max(0.0, busy / self._ticks_per_s - own_s) / seconds
        throttled = read_throttle_count(self._root)
        if throttled is not None and self._throttled is not None:
            found["throttled"] = throttled - self._throttled
        power_throttled = read_power_throttle_count(self._root)
        if power_throttled is not None and self._power_throttled is not None:
            found["power_throttled"] = power_throttled - self._power_throttled
        return found


@dataclass(frozen=True)
class _Usage:
    cpu_s: float
    switched_out: int
    pages_read: int
    peak_kib: float


def _own_usage() -> _Usage | None:
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    used = resource.getrusage(resource.RUSAGE_SELF)
    # KiB on Linux, bytes on macOS.
    peak_kib = used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return _Usage(used.ru_utime + used.ru_stime, used.ru_nivcsw, used.ru_majflt, peak_kib)


def _cpu_times(root: Path) -> CpuTimes | None:
    try:
        return parse_stat((root / "proc/stat").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def read_frequency_mhz(root: Path = _ROOT) -> float | None:
    """Return the mean frequency of the processors now, in MHz; None where the system does not tell."""
    found = []
    for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"):
        try:
            found.append(int(path.read_text(encoding="ascii")) / 1e3)
        except (OSError, ValueError):  # a processor that has just been switched off
            continue
    if not found:
        try:
            lines = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        found = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return sum(found) / len(found) if found else None


def read_throttle_count(root: Path = _ROOT) -> int | None:
    """Return how often processors were slowed down for heat; None where the kernel does not count it."""
    return _sum_of((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))


def read_power_throttle_count(root: Path = _ROOT) -> int | None:
    """Return how often a Jetson Orin was slowed down for too little voltage or too much current.

    Its kernel counts undervoltage (oc1), average (oc2) and instantaneous overcurrent (oc3), the reasons of
    what the desktop calls "System throttled due to over-current"; see "Platform Power and Performance" in
    NVIDIA's Jetson Linux Developer Guide. None on any other machine.
    """
    return _sum_of((root / "sys/class/hwmon").glob("hwmon*/oc[0-9]_event_cnt"))


def _sum_of(counters: Iterable[Path]) -> int | None:
    counts = []
    for path in counters:
        try:
            counts.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return sum(counts) if counts else None
