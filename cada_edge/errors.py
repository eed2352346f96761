"""Every error that cada-edge raises on purpose, in one tree.

::

    CadaEdgeError
    ├── InputError (ValueError)                a frame, option or file content that cannot be used
    │   ├── FrameError                         a frame of the wrong type, dtype or shape
    │   ├── ImageReadError                     an image file that is missing, empty or damaged
    │   ├── DatasetError                       a data set whose layout or content cannot be used
    │   ├── SourceError                        a source that cannot be opened at all
    │   └── ConfigError                        an unknown or impossible configuration value
    ├── CheckFailedError                       a check ran and failed: parity, accuracy, latency
    ├── ModelError                             a model that is damaged or does not fit this machine
    │   ├── ModelNotFoundError (FileNotFoundError)
    │   ├── ManifestError                      the manifest is missing, damaged or of another schema
    │   ├── ModelMismatchError                 the manifest does not describe this model file
    │   ├── CheckpointError                    a training checkpoint that cannot be used
    │   └── BackendError                       the inference engine refused the model or failed on it
    │       └── CudaError                      no CUDA driver or GPU, or one of its calls failed
    ├── ClosedError (RuntimeError)             used after close
    ├── ThreadOwnerError (RuntimeError)        used from a thread that does not own it
    ├── OutputError (OSError)                  a result could not be written
    ├── SourceLostError                        a live source went away and stayed away
    ├── TrainingError                          training could not go on
    └── MissingExtraError (ImportError)        an optional package is not installed

A message has three parts: what came, what was wanted, what to do next. ``exit_code`` is what the
command line exits with.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BackendError",
    "CadaEdgeError",
    "CheckFailedError",
    "CheckpointError",
    "ClosedError",
    "ConfigError",
    "CudaError",
    "DatasetError",
    "FrameError",
    "ImageReadError",
    "InputError",
    "ManifestError",
    "MissingExtraError",
    "ModelError",
    "ModelMismatchError",
    "ModelNotFoundError",
    "OutputError",
    "SourceError",
    "SourceLostError",
    "ThreadOwnerError",
    "TrainingError",
]


class CadaEdgeError(Exception):
    """Any error that cada-edge raises on purpose."""

    exit_code: ClassVar[int] = 2
    """What the command line exits with: 1 a check failed, 2 bad input, 3 the model is damaged or does not
    fit this machine, 4 source lost, 5 a missing extra."""


class InputError(CadaEdgeError, ValueError):
    """What was given cannot be used."""


class FrameError(InputError):
    """A frame has the wrong type, dtype or shape."""


class ImageReadError(InputError):
    """An image file is missing, empty or cannot be decoded."""


class DatasetError(InputError):
    """A data set's layout or content cannot be used."""


class SourceError(InputError):
    """A source of frames cannot be opened."""


class ConfigError(InputError):
    """A configuration value is unknown or impossible."""


class CheckFailedError(CadaEdgeError):
    """A check ran to its end and failed."""

    exit_code = 1


class ModelError(CadaEdgeError):
    """A model is damaged or does not fit this machine."""

    exit_code = 3


class ModelNotFoundError(ModelError, FileNotFoundError):
    """There is no model file at the path."""


class ManifestError(ModelError):
    """The manifest is missing, damaged or of a schema that this version cannot read."""


class ModelMismatchError(ModelError):
    """The manifest beside a model does not describe that model file."""


class CheckpointError(ModelError):
    """A training checkpoint is damaged or of another kind."""


class BackendError(ModelError):
    """The inference engine refused the model or failed while running it."""


class CudaError(BackendError):
    """There is no CUDA driver or GPU that can be used, or a call of the driver failed."""


class ClosedError(CadaEdgeError, RuntimeError):
    """Something was used after it had been closed."""


class ThreadOwnerError(CadaEdgeError, RuntimeError):
    """Something that belongs to one thread was used from another."""


class OutputError(CadaEdgeError, OSError):
    """A result could not be written."""


class SourceLostError(CadaEdgeError):
    """A live source went away and did not come back within its limit."""

    exit_code = 4


class TrainingError(CadaEdgeError):
    """Training could not go on."""

    exit_code = 1


class MissingExtraError(CadaEdgeError, ImportError):
    """An optional package that the called feature needs is not installed."""

    exit_code = 5

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the package '{package}', which is not installed. "
            f"Install it with: pip install 'cada-edge[{extra}]'"
        )
        self.feature = feature
        self.package = package
        self.extra = extra
