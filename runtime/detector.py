"""The detector: a model file, a threshold and an inference engine behind one call."""

from __future__ import annotations

import logging
import math
import numbers
import os
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import BackendError, ClosedError, ConfigError, ModelMismatchError, ThreadOwnerError
from cada_edge.manifest import Manifest
from cada_edge.runtime.backend import Backend, Outputs, choose_backend
from cada_edge.runtime.batches import InferredBatch, PreparedBatch, list_frames
from cada_edge.runtime.detection import Detection
from cada_edge.runtime.preprocess import RESIZE_NAME, camera_batch, preprocess_batch
from cada_edge.runtime.sources import Frame, open_source

if TYPE_CHECKING:
    from typing_extensions import Self

    from cada_edge.runtime.run import OnResult, Run
    from cada_edge.runtime.run_options import RunOptions
    from cada_edge.runtime.stream_events import OnStatus

__all__ = ["Detector"]

_log = logging.getLogger(__name__)


class Detector:
    """Score frames with an exported model; one threshold serves every kind of part.

    Loading happens in `open`, which ``with`` and the first call do by themselves. Calls from several threads
    are safe and run one after another; for parallel inference give each thread a Detector of its own. A
    ``.engine`` belongs to the thread that opened it: any other one gets a `ThreadOwnerError`.

    Example:
        >>> from cada_edge import Detector
        >>> with Detector("model.onnx") as detector:  # doctest: +SKIP
        ...     for detection in detector.stream("parts/"):
        ...         print(detection)
    """

    def __init__(
        self,
        path: str | Path,
        *,
        backend: str = "auto",
        threshold: float | None = None,
        threads: int | None = None,
        score_only: bool = False,
    ) -> None:
        """Read and check the manifest; the model itself is loaded by `open`.

        Args:
            path: The model file; its manifest lies beside it.
            backend: One of `cada_edge.runtime.backend.BACKENDS`.
            threshold: A score above it is anomalous; None takes the manifest's. Without either, scores are
                delivered and `Detection.is_anomalous` is None.
            threads: CPU threads; None for the engine's own choice.
            score_only: For a ``.engine``: leave the map on the GPU; `Detection.anomaly_map` is then None.

        Raises:
            ModelNotFoundError: There is no model file.
            ManifestError: The manifest is missing, damaged or of a newer schema.
            ConfigError: An unknown backend, or a threshold that is not a finite number.
            MissingExtraError: No engine for the file is installed.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise ConfigError(
                f"path {path!r} came; wanted the path of an exported model, as Detector('model.onnx')."
            )
        self.path = Path(path)
        self.manifest = Manifest.read(self.path)
        self.threshold = self.manifest.threshold if threshold is None else _threshold_of(threshold)
        own = None if threshold is not None else self.manifest.pixel_threshold
        self.pixel_threshold = self.threshold if own is None else own
        self._backend: Backend = choose_backend(self.path, backend, threads=threads, score_only=score_only)
        self._lock = threading.RLock()
        self._state = "new"
        self._has_warned = False

    def __repr__(self) -> str:
        return f"Detector({str(self.path)!r}, threshold={self.threshold}, {self._state})"

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the network's input and of the maps, in pixels."""
        return self.manifest.input_hw

    @property
    def frame_hw(self) -> tuple[int, int] | None:
        """Height and width that frames must have, in pixels; None: frames of any size are resized here."""
        return self.manifest.frame_hw

    @property
    def backend(self) -> str:
        """Engine, version and device, as 'openvino 2026.4.1 CPU'."""
        return self._backend.description

    def open(self) -> Self:
        """Check the model file against its manifest, load it and run it once.

        Returns:
            The detector.

        Raises:
            ClosedError: It has been closed.
            ModelMismatchError: The file is not the one that the manifest describes.
            BackendError: The engine refuses the file, or does not fit this machine.
        """
        with self._lock:
            if self._state == "open":
                return self
            if self._state == "closed":
                raise ClosedError(f"The detector of {self.path} is closed. Make a new Detector to go on.")
            self.manifest.check_model_file(self.path)
            if self.manifest.resize != RESIZE_NAME:
                raise ModelMismatchError(
                    f"The model {self.path} wants frames resized by {self.manifest.resize!r}; "
                    f"this runtime has {RESIZE_NAME!r}. Upgrade cada-edge, or export the checkpoint again."
                )
            self._backend.open()
            try:
                self._check_and_warm_up()
            except BaseException:
                self._backend.close()
                raise
            self._state = "open"
            self._warn_once()
            return self

    def _warn_once(self) -> None:
        """Say what is missing, once also where the model is opened again, as after `lend`."""
        has_warned, self._has_warned = self._has_warned, True
        if has_warned:
            return
        if self.manifest.engine is not None and not self.manifest.engine.executed:
            _log.warning(
                "%s was built where it could not be run: its scores have not been checked on a GPU. "
                "Check them with: cada-edge verify %s",
                *(self.path, self.path),
            )
        if self.threshold is None:
            _log.warning(
                "%s has no threshold: scores are delivered, is_anomalous is None. "
                "Set one with: cada-edge calibrate %s NORMAL_IMAGES",
                *(self.path, self.path),
            )

    def _check_and_warm_up(self) -> None:
        got, wanted = self._backend.spec.size_hw, self.frame_hw or self.size_hw
        if got != wanted:
            raise ModelMismatchError(
                f"The model {self.path} takes frames of {got}; its manifest says {wanted}. "
                "Export the checkpoint again."
            )
        # Engines allocate and tune on their first run: let that be now, not on the first part.
        self._backend.infer(np.zeros((1, *wanted, 3), np.uint8))

    def warm_up(self, batch: int) -> None:
        """Run the engine on batches of 2, 4, 8 and so on, so that none is compiled or tuned on the line.

        Args:
            batch: Most frames that will come in one inference, at least 1.

        Raises:
            ClosedError: The detector has been closed.
            BackendError: The engine fails, or cannot take so many.
        """
        with self._lock:
            if self._state != "open":
                self.open()
            frame_hw = self.frame_hw or self.size_hw
            powers = {2**power for power in range(1, batch.bit_length()) if 2**power < batch}
            for size in sorted(powers | ({batch} if batch > 1 else set())):
                self._backend.infer(np.zeros((size, *frame_hw, 3), np.uint8))

    def lend(self) -> None:
        """Let another thread open the model where it belongs to one thread, as a ``.engine`` does.

        Raises:
            ClosedError: It has been closed.
            ThreadOwnerError: Another thread than this one has opened it.
        """
        with self._lock:
            if self._state == "closed":
                raise ClosedError(f"The detector of {self.path} is closed. Make a new Detector to go on.")
            self.give_back()

    def give_back(self) -> None:
        """Undo `lend`, in the thread that opened the model: the next call opens it again."""
        with self._lock:
            if self._state == "open" and self._backend.has_owner:
                # First: what has failed to close is not open either.
                self._state = "new"
                try:
                    self._backend.close()
                except ThreadOwnerError:
                    self._state = "open"  # in the thread that it belongs to
                    raise

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; harmless when called twice. A closed detector cannot be opened again."""
        with self._lock:
            if self._state != "closed":
                before, self._state = self._state, "closed"
                try:
                    self._backend.close()
                except ThreadOwnerError:
                    self._state = before
                    raise

    def __call__(self, frame: NDArray[Any] | Frame) -> Detection:
        """Inspect one frame.

        Args:
            frame: uint8 (H, W, 3) BGR of any size, or of `frame_hw` where that is set (see
                `cada_edge.runtime.preprocess.to_bgr` for grey, BGRA and 16 bits), or a `Frame`, whose index,
                source and capture times then stand in the result.

        Returns:
            The detection; its arrays belong to the caller.

        Raises:
            FrameError: The frame cannot be used.
            ClosedError: The detector has been closed.
            BackendError: The engine failed, or gave a value that is not finite.
        """
        return self.batch([frame])[0]

    def batch(self, frames: Sequence[NDArray[Any] | Frame]) -> list[Detection]:
        """Inspect several frames, of any sizes where `frame_hw` is None, in one inference.

        Args:
            frames: At least one; as for a single call.

        Returns:
            One detection per frame, in order. Their timings are of the whole batch.

        Raises:
            FrameError: There is no frame, or one cannot be used.
            ClosedError: The detector has been closed.
            BackendError: The engine failed, or gave a value that is not finite.
        """
        return self.finish(self.infer(self.prepare(frames)))

    def prepare(self, frames: Sequence[NDArray[Any] | Frame]) -> PreparedBatch:
        """Do the first of a batch's three stages, which different threads may do for different batches.

        Args:
            frames: As for `batch`.

        Raises:
            FrameError: There is no frame, or one cannot be used.
        """
        started = time.perf_counter()
        frames = list_frames(frames)
        records = [frame if isinstance(frame, Frame) else None for frame in frames]
        images = [frame.image if isinstance(frame, Frame) else frame for frame in frames]
        if self.frame_hw is None:
            pixels = preprocess_batch(images, self.size_hw)
        else:
            pixels = camera_batch(images, self.frame_hw)
        return PreparedBatch(pixels, records, (time.perf_counter() - started) * 1e3)

    def infer(self, prepared: PreparedBatch) -> InferredBatch:
        """Do the second stage: run the model.

        Raises:
            ClosedError: The detector has been closed.
            BackendError: The engine failed.
        """
        with self._lock:
            if self._state != "open":
                # Loading is no part of a frame's latency.
                self.open()
            started = time.perf_counter()
            outputs = self._backend.infer(prepared.pixels)
            inference_ms = (time.perf_counter() - started) * 1e3
            told = self._backend.stages_ms, self._backend.description
        return InferredBatch(outputs, prepared.records, prepared.preprocess_ms, inference_ms, *told)

    def finish(self, inferred: InferredBatch) -> list[Detection]:
        """Do the third stage: give the verdicts.

        Returns:
            One detection per frame, in order. Their timings are of the whole batch, without the time that it
            waited between the stages.

        Raises:
            BackendError: The engine gave a value that is not finite.
        """
        started = time.perf_counter()
        detections = self._detections(inferred.outputs, inferred.records, inferred.backend)
        post_ms = (time.perf_counter() - started) * 1e3
        timings = {
            "preprocess": inferred.preprocess_ms,
            "inference": inferred.inference_ms,
            "post": post_ms,
            "total": inferred.preprocess_ms + inferred.inference_ms + post_ms,
            **inferred.stages_ms,
        }
        for detection in detections:
            detection.timings_ms.update(timings)
        return detections

    def run(
        self,
        *sources: Any,
        on_result: OnResult | None = None,
        on_status: OnStatus | None = None,
        options: RunOptions | None = None,
    ) -> Run:
        """Inspect one source or several in the background: capture, preprocessing and inference overlap.

        While it runs, a ``.engine`` belongs to the run's own thread; anything else can be used as before.

        Args:
            sources: Each as for `cada_edge.open_source`. Arrays and frames of an application's own iterable
                or function are copied as they come, so that it may fill the same array again.
            on_result: Called with each detection and its frame, in one thread of the run, one after another.
            on_status: Called with each event, from any thread of the run.
            options: Batching, policies, and how live sources are opened.

        Returns:
            The run, which has begun: `join` waits for its end and raises what ended it, `stop` ends it.

        Raises:
            SourceError: There is no source, or one cannot be opened.
            ClosedError: The detector has been closed.

        Example:
            >>> def show(detection, frame):
            ...     print(frame.source_id, detection.score)
            >>> with Detector("model.onnx") as detector:  # doctest: +SKIP
            ...     detector.run("rtsp://left/1", "rtsp://right/1", on_result=show).join()
        """
        from cada_edge.runtime.run import Run

        return Run(self, sources, on_result=on_result, on_status=on_status, options=options)

    def stream(self, source: Any) -> Iterator[Detection]:
        """Inspect a source frame by frame, lazily: nothing is read before it is asked for, nothing is kept.

        Args:
            source: Camera, stream, image, folder, glob, video file, array, or iterable of arrays or paths;
                see `cada_edge.open_source`. To draw on the frames, iterate over `open_source` and call the
                detector.

        Yields:
            One detection per frame.

        Raises:
            SourceError: The source cannot be opened.
            ImageReadError: An image of it cannot be read.
            SourceLostError: A live source was given up.
        """
        with open_source(source) as frames:
            for frame in frames:
                yield self(frame)

    def _detections(self, outputs: Outputs, records: Sequence[Frame | None], backend: str) -> list[Detection]:
        scores, stats = outputs.score.tolist(), outputs.stats.tolist()
        # Python's own: NumPy is slow on few numbers, all the more when an inference has emptied the caches.
        if not all(map(math.isfinite, (*scores, *chain.from_iterable(stats)))):
            raise BackendError(
                f"{backend} gave scores that are not finite: {scores}. "
                f"Check the file with: cada-edge verify {self.path}"
            )
        is_aligned = self.manifest.alignment != "none"
        detections = []
        for row, record in enumerate(records):
            score, (mean, maximum) = scores[row], stats[row]
            detections.append(
                Detection(
                    score=score,
                    threshold=self.threshold,
                    is_anomalous=None if self.threshold is None else score > self.threshold,
                    raw_score=score * (maximum - mean) + mean,
                    alignment_clamped=is_aligned and _is_clamped(mean, maximum, self.manifest.range_floor),
                    anomaly_map=outputs.anomaly_map[row] if outputs.anomaly_map.size else None,
                    pixel_threshold=self.pixel_threshold,
                    frame_index=None if record is None else record.index,
                    source_id=None if record is None else record.source_id,
                    captured_at_s=None if record is None else record.captured_at_s,
                    captured_monotonic_s=None if record is None else record.captured_monotonic_s,
                    path=None if record is None else record.path,
                    dropped_before=0 if record is None else record.dropped_before,
                    backend=backend,
                    timings_ms={},
                )
            )
        return detections


def _is_clamped(mean: float, maximum: float, floor: float) -> bool:
    """Tell whether g^ - u^ is the floor, as far as float32 lets their difference be known."""
    rounding = 2.4e-7 * max(abs(mean), abs(maximum))
    return maximum - mean <= floor * (1 + 1e-5) + rounding


def _threshold_of(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ConfigError(f"threshold {value!r} came; wanted a finite number, or None for the manifest's.")
    return float(value)
