"""One anomaly detector and one threshold for every product on the line, without labels.

Everything an application needs is importable from here, and nothing heavy is loaded until it is used:
``import cada_edge`` imports neither torch, nor OpenCV, nor an inference engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cada_edge.errors import (
        BackendError,
        CadaEdgeError,
        CheckFailedError,
        CheckpointError,
        ClosedError,
        ConfigError,
        CudaError,
        DatasetError,
        FrameError,
        ImageReadError,
        InputError,
        ManifestError,
        MissingExtraError,
        ModelError,
        ModelMismatchError,
        ModelNotFoundError,
        OutputError,
        SourceError,
        SourceLostError,
        ThreadOwnerError,
        TrainingError,
    )
    from cada_edge.manifest import Manifest
    from cada_edge.runtime.camera import CameraOptions
    from cada_edge.runtime.detection import Detection
    from cada_edge.runtime.detector import Detector
    from cada_edge.runtime.draw import draw
    from cada_edge.runtime.inspection_log import InspectionLog
    from cada_edge.runtime.live_page import LivePage
    from cada_edge.runtime.live_source import Reconnect
    from cada_edge.runtime.run import Run
    from cada_edge.runtime.run_options import RunOptions
    from cada_edge.runtime.sources import Frame, open_source
    from cada_edge.runtime.stream_events import StatusEvent

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "CadaEdgeError",
    "CameraOptions",
    "CheckFailedError",
    "CheckpointError",
    "ClosedError",
    "ConfigError",
    "CudaError",
    "DatasetError",
    "Detection",
    "Detector",
    "Frame",
    "FrameError",
    "ImageReadError",
    "InputError",
    "InspectionLog",
    "LivePage",
    "Manifest",
    "ManifestError",
    "MissingExtraError",
    "ModelError",
    "ModelMismatchError",
    "ModelNotFoundError",
    "OutputError",
    "Reconnect",
    "Run",
    "RunOptions",
    "SourceError",
    "SourceLostError",
    "StatusEvent",
    "ThreadOwnerError",
    "TrainingError",
    "draw",
    "open_source",
]

_HOMES = {
    "CameraOptions": "cada_edge.runtime.camera",
    "Detection": "cada_edge.runtime.detection",
    "Detector": "cada_edge.runtime.detector",
    "Frame": "cada_edge.runtime.sources",
    "InspectionLog": "cada_edge.runtime.inspection_log",
    "LivePage": "cada_edge.runtime.live_page",
    "Manifest": "cada_edge.manifest",
    "Reconnect": "cada_edge.runtime.live_source",
    "Run": "cada_edge.runtime.run",
    "RunOptions": "cada_edge.runtime.run_options",
    "StatusEvent": "cada_edge.runtime.stream_events",
    "draw": "cada_edge.runtime.draw",
    "open_source": "cada_edge.runtime.sources",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'cada_edge' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "cada_edge.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
