"""One engine in TensorRT or in TensorRT for RTX: the runtime's only module that touches their objects.

The two modules, and TensorRT 10.3 to 11.x, have everything in common that is used here except what
`NOT_EVERYWHERE` names. A test reads this file and holds every name against the recorded Python bindings.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cada_edge.errors import BackendError, MissingExtraError
from cada_edge.runtime.backend import OUTPUT_NAMES, require_outputs

__all__ = [
    "MODULES",
    "NOT_EVERYWHERE",
    "EngineInput",
    "Messages",
    "Presence",
    "TensorRTEngine",
    "load_tensorrt",
    "message_log",
]

_log = logging.getLogger(__name__)

MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""Target of an engine -> Python module that runs it."""


class Presence(NamedTuple):
    """Where a name is that not every version has."""

    name: str
    """Of an attribute."""
    module: str
    """That has it, a value of `MODULES`; a name in both has two rows."""
    since: str
    """First version that is known to have it."""
    until: str | None
    """Version that lost it; None where none has."""


NOT_EVERYWHERE = (
    Presence("get_engine_validity", "tensorrt_rtx", "1.7", None),
    Presence("EngineValidity", "tensorrt_rtx", "1.7", None),
    Presence("INVALID", "tensorrt_rtx", "1.7", None),
    Presence("EngineInvalidityDiagnostics", "tensorrt_rtx", "1.7", None),
)
"""Names used here that some version lacks; all are RTX's, and only its engines come to them."""

_JETSON: Path = Path("/etc/nv_tegra_release")

_SUPPORTED = {"tensorrt": ((10, 3), (12, 0)), "rtx": ((1, 7), (2, 0))}
"""Target -> (oldest version, first version that is too new)."""

_KEPT_MESSAGES = 20

_T = TypeVar("_T")


class EngineInput(NamedTuple):
    """What an engine takes."""

    name: str
    """Name of the input tensor."""
    frame_hw: tuple[int, int]
    """Height and width of its uint8 BGR frames, in pixels."""
    smallest_batch: int
    """Fewest frames that it runs with."""
    largest_batch: int
    """Most frames that it runs with."""


class Messages(NamedTuple):
    """What a module's logger last heard, the newest last; clear them before a call to know whose they are."""

    errors: deque[str]
    """Messages at level error."""
    warnings: deque[str]
    """Messages at level warning."""

    def clear(self) -> None:
        """Forget all."""
        self.errors.clear()
        self.warnings.clear()


def load_tensorrt(target: str, feature: str = "Running this engine") -> Any:
    """Import the module that runs a target's engines.

    Args:
        target: A key of `MODULES`.
        feature: What needs it, as the start of a sentence.

    Raises:
        MissingExtraError: It is not installed.
        BackendError: It is installed and cannot be imported, or, on a Jetson, cannot be seen.
    """
    name = MODULES[target]
    if find_spec(name) is None:
        if target == "tensorrt" and _JETSON.exists():
            raise BackendError(
                "The Python module tensorrt is not visible; wanted the one that comes with JetPack. Make the "
                "environment with: python3 -m venv --system-site-packages .venv"
            )
        package = "tensorrt-rtx" if target == "rtx" else "tensorrt"
        raise MissingExtraError(feature, package, target)
    try:
        module: Any = import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            f"The Python module {name} is installed and cannot be imported: {error}. Wanted one whose "
            "libraries are in place. Install it again, in the version that the driver supports."
        ) from error
    version: str = module.__version__
    oldest, too_new = _SUPPORTED[target]
    if not oldest <= tuple(int(part) for part in version.split(".")[:2]) < too_new:
        raise BackendError(
            f"{name} {version} is installed; wanted one from {oldest[0]}.{oldest[1]} and below "
            f"{too_new[0]}.{too_new[1]}. Install such a version, or upgrade cada-edge."
        )
    return module


@lru_cache(maxsize=2)
def message_log(module: str) -> tuple[Any, Messages]:
    """Make the one logger of a module, and what it keeps of the module's errors and warnings.

    TensorRT keeps the first logger that it is given for the whole process and calls it from anywhere: a
    second one is refused with a warning, and a freed one crashes. So there is one, for builders too, and it
    stays.

    Args:
        module: A value of `MODULES`.

    Returns:
        The logger and its messages.
    """
    trt: Any = import_module(module)
    messages: Messages = Messages(deque(maxlen=_KEPT_MESSAGES), deque(maxlen=_KEPT_MESSAGES))
    kept: dict[int, deque[str]] = {logging.ERROR: messages.errors, logging.WARNING: messages.warnings}
    levels = [logging.ERROR, logging.ERROR, logging.WARNING, logging.DEBUG, logging.DEBUG]

    class MessageLog(trt.ILogger):  # type: ignore[misc]
        """Sends TensorRT's messages to Python's logging."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            """Take one message; severities count from 0, internal error, to 4, verbose."""
            level = levels[int(severity)]
            if level in kept:
                kept[level].append(msg)
            _log.log(level, "%s", msg)

    return MessageLog(), messages


class TensorRTEngine:
    """A deserialised engine with one execution context; the CUDA context is current in every call.

    Only engines from a place that is trusted may be loaded: they are native code.
    """

    def __init__(self, target: str, path: Path, *, rebuild: str) -> None:
        """Load the engine.

        Args:
            target: A key of `MODULES`.
            path: The engine.
            rebuild: Command that builds it anew, named in errors.

        Raises:
            BackendError: The library refuses the file.
            ModelMismatchError: Its inputs or outputs are not those of our graphs.
        """
        self._path: Path = path
        self._rebuild: str = rebuild
        self._trt: Any = load_tensorrt(target)
        logger_and_messages = message_log(MODULES[target])
        self._messages: Messages = logger_and_messages[1]
        self._messages.clear()
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        try:
            self._runtime = self._made("start for", lambda: self._trt.Runtime(logger_and_messages[0]))
            plan: bytes = path.read_bytes()
            if target == "rtx":
                self._check_validity(plan)
            self._engine = self._made("deserialise", lambda: self._runtime.deserialize_cuda_engine(plan))
            self.input: EngineInput = self._read_input()
            self._context = self._made("make a context of", lambda: self._engine.create_execution_context())
        except BaseException:
            # Now, while the CUDA context is current: the traceback would keep them alive.
            self.close()
            raise

    def _refusal(self, action: str, reason: str = "") -> BackendError:
        parts: list[str] = [part for part in (reason, *self._messages.errors) if part]
        said = "; ".join(parts) or "it gave no reason"
        self._messages.clear()
        return BackendError(
            f"{self._trt.__name__} {self._trt.__version__} cannot {action} {self._path}: {said}. "
            f"Build the engine anew on this machine, or for it, with: {self._rebuild}"
        )

    def _made(self, action: str, make: Callable[[], Any]) -> Any:
        """Call what gives None, False or an exception where it fails."""
        try:
            made = make()
        except (RuntimeError, TypeError, ValueError) as error:
            raise self._refusal(action, str(error)) from error
        if made is None or made is False:
            raise self._refusal(action)
        return made

    def _check_validity(self, plan: bytes) -> None:
        """Ask RTX, which tells why an engine does not fit this machine."""
        verdict, bits = self._runtime.get_engine_validity(plan)
        if verdict != self._trt.EngineValidity.INVALID:
            return
        diagnostics: dict[str, Any] = dict(self._trt.EngineInvalidityDiagnostics.__members__)
        reasons = [name for name, bit in diagnostics.items() if int(bits) & int(bit)]
        raise self._refusal("load", f"its check says {', '.join(reasons) or 'invalid'}")

    def _read_input(self) -> EngineInput:
        names: list[str] = [str(self._engine.get_tensor_name(i)) for i in range(self._engine.num_io_tensors)]
        modes = self._trt.TensorIOMode
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == modes.INPUT]
        require_outputs(self._path, [name for name in names if name not in inputs])
        kinds = self._trt.DataType
        shape: tuple[int, ...] = tuple(self._engine.get_tensor_shape(inputs[0])) if len(inputs) == 1 else ()
        floats = all(self._engine.get_tensor_dtype(name) == kinds.FLOAT for name in OUTPUT_NAMES)
        if (
            len(shape) != 4
            or shape[3] != 3
            or not floats
            or self._engine.get_tensor_dtype(inputs[0]) != kinds.UINT8
        ):
            raise self._refusal(
                "use", f"inputs {inputs} of shape {shape}; wanted one uint8 (N, H, W, 3) and float32 outputs"
            )
        smallest = largest = shape[0]
        if shape[0] < 0:
            lowest, _, highest = self._engine.get_tensor_profile_shape(inputs[0], 0)
            smallest, largest = int(lowest[0]), int(highest[0])
        return EngineInput(inputs[0], (int(shape[1]), int(shape[2])), smallest, largest)

    def set_batch(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Fix the number of frames; return each output's shape.

        Args:
            batch: Within the input's limits.

        Raises:
            BackendError: TensorRT refuses the shape.
        """
        name: str = self.input.name
        shape = (batch, *self.input.frame_hw, 3)
        self._made(f"take frames of shape {shape} in", lambda: self._context.set_input_shape(name, shape))
        missing: list[str] = self._made("infer the shapes of", lambda: self._context.infer_shapes())
        if missing:
            raise self._refusal("infer the shapes of", f"{', '.join(missing)} have none")
        return {output: tuple(self._context.get_tensor_shape(output)) for output in OUTPUT_NAMES}

    def bind(self, name: str, address: int) -> None:
        """Tell where a tensor lies on the device.

        Raises:
            BackendError: TensorRT refuses the address.
        """
        self._made(f"bind {name} of", lambda: self._context.set_tensor_address(name, address))

    def enqueue(self, stream: int) -> None:
        """Enqueue one inference in a stream that is not the default one.

        Raises:
            BackendError: TensorRT refuses.
        """
        self._made("run", lambda: self._context.execute_async_v3(stream))

    def layer_information(self) -> str:
        """Ask the engine inspector for its layers.

        Returns:
            JSON; names alone where the engine was built without detailed profiling verbosity.

        Raises:
            BackendError: The inspector gives nothing.
        """
        inspector: Any = self._made("inspect", lambda: self._engine.create_engine_inspector())
        json_format: Any = self._trt.LayerInformationFormat.JSON
        # With the context it knows the shapes of dynamic tensors as well.
        inspector.execution_context = self._context
        return str(self._made("inspect", lambda: inspector.get_engine_information(json_format)))

    def close(self) -> None:
        """Free the engine's memory; harmless when called twice."""
        # In this order: a context must not outlive its engine, nor an engine its runtime.
        self._context = None
        self._engine = None
        self._runtime = None
