"""Double of the small part of TensorRT's Python API that the runtime uses.

It is no TensorRT: a plan is an ONNX file, executed by ONNX Runtime on the host memory of the CUDA driver's
double. It keeps the rules that our code must obey: a current context, a stream that is not the default one,
a shape within the profile, an address for every tensor, one run before a capture.
"""

from __future__ import annotations

import enum
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np

COMPUTE_MS = 5.0


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    UINT8 = 2


class LayerInformationFormat(enum.Enum):
    ONELINE = 0
    JSON = 1


class EngineValidity(enum.Enum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(enum.IntFlag):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        self.is_ready = True


class TensorRTDouble:
    """Double of the module tensorrt, or of tensorrt_rtx."""

    TensorIOMode = TensorIOMode
    DataType = DataType
    ILogger = ILogger
    LayerInformationFormat = LayerInformationFormat

    def __init__(self, driver: Any, name: str = "tensorrt", version: str = "10.3.0") -> None:
        self.driver = driver
        self.__name__ = name
        self.__version__ = version
        self.__spec__ = ModuleSpec(name, None)
        self.profile = (1, 2, 4)
        self.fail: dict[str, Any] = {}
        """Name of a call -> what it gives instead of working: None, False, a list or an exception."""
        self.fail_capture = False
        self.information = '{"Layers": []}'
        """What the engine inspector says."""
        self.log: list[str] = []
        self.alive: list[str] = []
        """Objects that hold GPU memory, in the order in which they were made."""
        if name == "tensorrt_rtx":
            self.EngineValidity = EngineValidity
            self.EngineInvalidityDiagnostics = EngineInvalidityDiagnostics

    def Runtime(self, logger: Any) -> Any:
        assert isinstance(logger, ILogger)
        assert logger.is_ready
        return self.called("Runtime", lambda: _Runtime(self, logger))

    def called(self, name: str, work: Any, *, logger: Any = None) -> Any:
        """Run one call of the API, or let it fail as was asked for."""
        assert self.driver.stack(), f"{name} without a current CUDA context"
        if name not in self.fail:
            return work()
        given = self.fail.pop(name)
        if logger is not None:
            logger.log(Severity.INFO, "not to be shown")
            logger.log(Severity.ERROR, f"the double was told to fail in {name}")
        if isinstance(given, Exception):
            raise type(given)(*given.args)
        return given


def _native(method: Any) -> Any:
    """Raise as native code does: no frame of it keeps the object alive in the traceback."""

    def call(self: Any, *arguments: Any) -> Any:
        try:
            return method(self, *arguments)
        except RuntimeError as error:
            failure = RuntimeError(*error.args)
        del self, arguments
        raise failure

    return call


class _Held:
    """An object that holds GPU memory: it must go while a context is current, the youngest first."""

    def __init__(self, trt: TensorRTDouble) -> None:
        self._trt = trt
        self._kind = type(self).__name__
        trt.alive.append(self._kind)

    def __del__(self) -> None:
        self._trt.log.append(f"{self._kind} freed, context current: {bool(self._trt.driver.stack())}")
        self._trt.alive.remove(self._kind)


class _Runtime(_Held):
    def __init__(self, trt: TensorRTDouble, logger: Any) -> None:
        super().__init__(trt)
        self._logger = logger

    def get_engine_validity(self, plan: bytes) -> tuple[Any, int]:
        assert self._trt.__name__ == "tensorrt_rtx", "TensorRT has no get_engine_validity"
        verdict: tuple[Any, int] = self._trt.called("get_engine_validity", lambda: (EngineValidity.VALID, 0))
        return verdict

    @_native
    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        def work() -> Any:
            return _Engine(self._trt, plan, self._logger)

        return self._trt.called("deserialize_cuda_engine", work, logger=self._logger)


class _Engine(_Held):
    def __init__(self, trt: TensorRTDouble, plan: bytes, logger: Any) -> None:
        super().__init__(trt)
        import onnxruntime

        self._logger = logger
        self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        self.outputs = {each.name: each for each in self.session.get_outputs()}
        self.num_io_tensors = len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return str([*self.inputs, *self.outputs][index])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        kind = {**self.inputs, **self.outputs}[name].type
        return {"tensor(uint8)": DataType.UINT8, "tensor(float)": DataType.FLOAT}.get(kind, DataType.HALF)

    def get_tensor_shape(self, name: str) -> list[int]:
        shape = {**self.inputs, **self.outputs}[name].shape
        return [side if isinstance(side, int) else -1 for side in shape]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[list[int]]:
        assert profile == 0
        return [[batch, *self.get_tensor_shape(name)[1:]] for batch in self._trt.profile]

    def create_engine_inspector(self) -> Any:
        return self._trt.called(
            "create_engine_inspector", lambda: _Inspector(self._trt, self), logger=self._logger
        )

    def create_execution_context(self) -> Any:
        def work() -> Any:
            return _Context(self._trt, self, self._logger)

        return self._trt.called("create_execution_context", work, logger=self._logger)


class _Inspector(_Held):
    def __init__(self, trt: TensorRTDouble, engine: _Engine) -> None:
        super().__init__(trt)
        self._engine = engine
        self.execution_context: Any = None

    def get_engine_information(self, form: LayerInformationFormat) -> Any:
        assert form is LayerInformationFormat.JSON
        assert isinstance(self.execution_context, _Context)
        return self._trt.called("get_engine_information", lambda: self._trt.information)


class _Context(_Held):
    def __init__(self, trt: TensorRTDouble, engine: _Engine, logger: Any) -> None:
        super().__init__(trt)
        self._engine = engine
        self._logger = logger
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self._has_run = False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> Any:
        def work() -> bool:
            self._shape = shape
            self._has_run = False
            fixed = self._engine.get_tensor_shape(name)[0]
            low, high = (fixed, fixed) if fixed > 0 else (self._trt.profile[0], self._trt.profile[2])
            return low <= shape[0] <= high and list(shape[1:]) == self._engine.get_tensor_shape(name)[1:]

        return self._trt.called("set_input_shape", work, logger=self._logger)

    @_native
    def infer_shapes(self) -> Any:
        return self._trt.called("infer_shapes", lambda: [] if self._shape else list(self._engine.inputs))

    def get_tensor_shape(self, name: str) -> list[int]:
        return [self._shape[0], *self._engine.get_tensor_shape(name)[1:]]

    def set_tensor_address(self, name: str, address: int) -> Any:
        def work() -> bool:
            self._addresses[name] = address
            return address % 256 == 0

        return self._trt.called("set_tensor_address", work, logger=self._logger)

    def execute_async_v3(self, stream: int) -> Any:
        return self._trt.called("execute_async_v3", lambda: self._enqueue(stream), logger=self._logger)

    def _enqueue(self, stream: int) -> bool:
        driver, engine = self._trt.driver, self._engine
        if stream in driver.captures and (self._trt.fail_capture or not self._has_run):
            self._logger.log(Severity.ERROR, "operation not permitted when stream is capturing")
            return False
        assert stream != 0
        assert set(self._addresses) == {*engine.inputs, *engine.outputs}
        shape, addresses = self._shape, dict(self._addresses)

        def run() -> None:
            (name,) = engine.inputs
            frames = driver.read(addresses[name], int(np.prod(shape))).reshape(shape).copy()
            names = list(engine.outputs)
            for output, value in zip(names, engine.session.run(names, {name: frames}), strict=True):
                flat = np.ascontiguousarray(value).view(np.uint8).reshape(-1)
                driver.read(addresses[output], flat.nbytes)[:] = flat

        driver.enqueue(stream, run, COMPUTE_MS)
        self._has_run = True
        return True


def plan_of(model: Path) -> bytes:
    """Make the double's plan of an ONNX file."""
    return model.read_bytes()
