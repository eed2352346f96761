"""How a TensorRT engine was built: the part of a manifest that only engines have."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

__all__ = ["HARDWARE_COMPATIBILITY", "PRECISION_SOURCES", "TARGETS", "EngineBuild"]

TARGETS = ("tensorrt", "rtx")
"""Libraries that an engine is built for: TensorRT, or TensorRT for RTX."""

HARDWARE_COMPATIBILITY = ("none", "same", "ampere+")
"""GPUs that an engine runs on beside the model it was built on: none, those of the same compute capability,
all from compute capability 8.0."""

PRECISION_SOURCES = ("inspector", "network")
"""Where an engine's precision is read: from the engine itself by the engine inspector, which takes a GPU, or
from the strongly typed network that it was built from, whose types the library must keep."""


@dataclass(frozen=True)
class EngineBuild:
    """What the runtime holds against the machine before it loads an engine."""

    target: str
    """One of `TARGETS`."""
    tensorrt_version: str
    """Version of that library, as '10.3.0': no other one loads the engine."""
    compute_capabilities: tuple[str, ...]
    """Of the GPUs that it was built for, as ('8.6', '8.9')."""
    hardware_compatibility: str
    """One of `HARDWARE_COMPATIBILITY`."""
    batch: tuple[int, int, int]
    """Smallest, best and largest batch of the optimisation profile."""
    executed: bool
    """Whether the parity figures come from this engine on a GPU, not from its graph on a CPU."""
    gpu: str | None = None
    """GPU that it was built on; None where it was built without one."""
    onnx_sha256: str | None = None
    """SHA-256 of the ONNX file that it was built from."""
    half_share: float | None = None
    """Share of half precision, 0-1: by the inspector of its layers, by the network of its convolutions and
    matrix products."""
    int8_share: float | None = None
    """The same of INT8; by the network those that read INT8 values."""
    precision_from: str | None = None
    """One of `PRECISION_SOURCES`: what the manifest's precision and these shares were read from."""
    options: dict[str, Any] = field(default_factory=dict)
    """The other options of the build."""

    def is_possible(self) -> bool:
        """Tell whether a build could have written these values."""
        smallest, best, largest = self.batch
        return (
            self.target in TARGETS
            and self.hardware_compatibility in HARDWARE_COMPATIBILITY
            and self.precision_from in (None, *PRECISION_SOURCES)
            and all(share is None or 0 <= share <= 1 for share in (self.half_share, self.int8_share))
            and 1 <= smallest <= best <= largest
            and len(self.compute_capabilities) > 0
            and all(re.fullmatch(r"\d+\.\d", capability) for capability in self.compute_capabilities)
            and re.fullmatch(r"\d+\.\d+(\.\w+)*", self.tensorrt_version) is not None
        )
