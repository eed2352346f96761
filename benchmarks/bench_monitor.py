"""Everything that is watched while models are measured, by one thread that sleeps most of the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cada_edge.benchmarks.machine_energy import EnergyCurve, RaplMeter
from cada_edge.benchmarks.machine_gpu import NvmlMeter
from cada_edge.benchmarks.machine_jetson import TegrastatsMeter, describe_jetson
from cada_edge.benchmarks.machine_load import LoadMeter, read_frequency_mhz

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Monitor"]

_EVERY_S = 0.25
_FREQUENCY_EVERY = 8
"""Readings between two of the processors' frequencies, which the kernel asks each of them for."""


class Monitor:
    """A context manager around the measured blocks; what it found is read after its end."""

    def __init__(self, *, root: Path = Path("/"), every_s: float = _EVERY_S) -> None:
        """Prepare.

        Args:
            root: Of the file system.
            every_s: Time between two readings, in seconds.
        """
        self._root = root
        self._every_s = every_s
        self._ended = threading.Event()
        self._reading = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="bench monitor", daemon=True)
        self._frequencies: list[float] = []
        self._found: dict[str, Any] = {}
        self.curves: tuple[EnergyCurve, ...] = ()
        """Energy of what has a reading, after the end."""

    def __enter__(self) -> Self:
        self._jetson = describe_jetson(self._root)
        self._tegrastats = None if self._jetson is None else TegrastatsMeter()
        self._nvml = NvmlMeter()
        self._rapl = RaplMeter(self._root)
        self._load = LoadMeter(self._root)
        # However late the thread begins, what is measured begins after a reading.
        self.mark()
        self._thread.start()
        return self

    def _watch(self) -> None:
        number, has_ended = 0, False
        while True:
            self.mark()
            # The last reading comes after the end, so that every block lies between two of them.
            if has_ended:
                return
            if number % _FREQUENCY_EVERY == 0:
                frequency = read_frequency_mhz(self._root)
                if frequency is not None:
                    self._frequencies.append(frequency)
            number += 1
            has_ended = self._ended.wait(self._every_s)

    def mark(self) -> None:
        """Read the meters now.

        Called where one model's turn ends and another's begins: between two readings energy is taken to be
        used evenly, which would give a part of each model's to its neighbours.
        """
        with self._reading:
            now_s = time.perf_counter()
            self._nvml.sample(now_s)
            if self._rapl.is_readable:
                self._rapl.sample(now_s)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        load = self._load.read()
        values = self._frequencies
        load["frequency_mhz"] = [min(values), sum(values) / len(values), max(values)] if values else None
        if self._tegrastats is not None:
            self._tegrastats.close()
        self._found = {
            "load": load,
            "gpu": self._nvml.read() if self._nvml.is_open else None,
            "gpu_reason": self._nvml.reason,
            "jetson": self._jetson_found(),
        }
        self._nvml.close()
        meters: Sequence[Any] = [self._nvml, self._rapl, *([self._tegrastats] if self._tegrastats else [])]
        self.curves = tuple(meter.curve for meter in meters if len(meter.curve.at_s) > 1)

    def _jetson_found(self) -> dict[str, Any] | None:
        if self._jetson is None or self._tegrastats is None:
            return None
        return {
            **self._jetson,
            "tegrastats": self._tegrastats.read(),
            "tegrastats_reason": self._tegrastats.reason,
        }

    def read(self) -> dict[str, Any]:
        """Return what was found, after the end: load, gpu, gpu_reason, jetson; JSON-safe."""
        return self._found
