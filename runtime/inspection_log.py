"""Everything that is kept of an inspection: verdicts, images of rejects or of all frames, a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cada_edge.errors import ConfigError
from cada_edge.runtime.detection import Detection
from cada_edge.runtime.picture_sinks import (
    ImageSink,
    Picture,
    RejectSink,
    VideoSink,
    file_label,
    make_folder,
)
from cada_edge.runtime.record import Record, record_of
from cada_edge.runtime.recorder import Recorder, RecorderStats
from cada_edge.runtime.sinks import open_sink
from cada_edge.runtime.source_base import Frame
from cada_edge.runtime.stream_events import OnStatus

if TYPE_CHECKING:
    from cada_edge.runtime.detector import Detector

__all__ = ["InspectionLog"]

_PICTURES = 16
"""Most pictures that wait for one folder or video: 100 MB of 1080p frames."""

_ATTEMPTS = 3
"""To write a picture that its disk is not to blame for."""


_MOST_NUMBERED = 1000
"""Sources whose images are told apart; of more there may be one for each part, whose list would only grow."""


class InspectionLog:
    """Keeps verdicts and pictures, each kind written by a thread of its own; inspection never waits for it.

    A verdict is on the disk within a second, also after a kill or a loss of power. Pictures are best effort:
    where more come than the disk takes, those that find no room are given up, counted and told by an event,
    and their records name no image. What a sink cannot write waits and is tried again.

    Example:
        >>> from cada_edge import Detector, InspectionLog
        >>> with Detector("model.onnx") as detector:  # doctest: +SKIP
        ...     with InspectionLog(detector, records=["line.db"], rejects="rejects") as log:
        ...         detector.run("rtsp://left/1", on_result=log.put).join()
    """

    def __init__(
        self,
        detector: Detector,
        *,
        records: Sequence[str | Path] = (),
        images: str | Path | None = None,
        rejects: str | Path | None = None,
        rejects_limit_bytes: int | None = 10 << 30,
        video: str | Path | None = None,
        video_fps: float = 25.0,
        per_source: bool = False,
        on_status: OnStatus | None = None,
    ) -> None:
        """Open every file and folder now, so that a wrong path fails here and not in the night.

        Args:
            detector: Its model's sha256 goes into every record.
            records: Files that verdicts are appended to: .db (SQLite), .jsonl or .csv.
            images: Folder for annotated images of all frames.
            rejects: Folder for annotated images of anomalous frames alone; it may be the same one, and the
                frame of a reject then has an image of each kind.
            rejects_limit_bytes: Most bytes of all rejects' images in it; the oldest are deleted. None for no
                limit.
            video: File for an annotated video of all frames: .mkv, .avi or .mp4.
            video_fps: Frames a second at which it plays.
            per_source: Whether each source has its own folder within `images` and its own video,
                NAME_SOURCE: for several sources. Without it they share both; where names of images would be
                the same, those of the source that came later carry a number.
            on_status: Called with ``sink_failed``, ``sink_recovered`` and ``sink_full``.

        Raises:
            ConfigError: A file's extension is none of those, a file of records was named twice, or a limit or
                rate is impossible.
            OutputError: A file or folder cannot be written.
        """
        self._model_sha256 = detector.manifest.model_sha256
        self._on_status = on_status
        self._per_source = per_source
        self._images = None if images is None else Path(images)
        self._video = None if video is None else Path(video)
        self._video_fps = video_fps
        self._labels: dict[str, str] = {}
        self._numbers: dict[tuple[str, bool, str | None], int] = {}
        self._image_sinks: dict[str, tuple[ImageSink, Recorder[Picture]]] = {}
        self._videos: dict[str, Recorder[Picture]] = {}
        self._all: dict[str, Recorder[Any]] = {}
        self._records: list[Recorder[Record]] = []
        self._rejects: tuple[RejectSink, Recorder[Picture]] | None = None
        try:
            _require_different(records)
            for path in records:
                self._records.append(Recorder(open_sink(path), on_status=on_status))
                self._all[self._key(path, "records")] = self._records[-1]
            if self._images is not None:
                make_folder(self._images)
            if self._video is not None:
                make_folder(self._video.parent)
                VideoSink(self._video, fps=video_fps)
            if rejects is not None:
                sink = RejectSink(Path(rejects), limit_bytes=rejects_limit_bytes)
                self._rejects = (sink, self._pictures(sink, "rejects"))
        except BaseException:
            self.close()
            raise

    def put(self, detection: Detection, frame: Frame) -> None:
        """Keep what is wanted of a detection and its frame; it never waits. For `Detector.run`'s on_result.

        Args:
            detection: Of the frame.
            frame: Its image must not be written to afterwards.
        """
        image: Path | None = None
        name = self._label(frame.source_id) if self._per_source else ""
        chosen = self._rejects if self._rejects is not None and detection.is_anomalous else None
        number = self._number(frame)
        for found in (self._image_sink(name), chosen):
            if found is not None:
                sink, recorder = found
                is_apart = self._per_source and found is not chosen
                path = sink.name(frame, number=1 if is_apart else number)
                if recorder.put(Picture(path, detection, frame)):
                    # The reject's image, where there are both.
                    image = path
        video = self._video_of(name)
        if video is not None:
            assert self._video is not None
            video.put(Picture(self._video, detection, frame))
        if self._records:
            record = record_of(detection, self._model_sha256, image=None if image is None else str(image))
            for recorder_of_records in self._records:
                recorder_of_records.put(record)

    def _label(self, source_id: str) -> str:
        """Return a source's file name; where two would have the same one, the later gets a number."""
        if source_id not in self._labels:
            label = wanted = file_label(source_id)
            number = 1
            while label in self._labels.values():
                number += 1
                label = f"{wanted}-{number}"
            self._labels[source_id] = label
        return self._labels[source_id]

    def _number(self, frame: Frame) -> int:
        """Return 1, or one from 2 on where an earlier source may give its images the same names."""
        if frame.path is None:
            short: str | None = file_label(frame.source_id)
        else:
            # A source of one file gives that name to all its images, a folder may give any.
            short = file_label(frame.path.stem) if frame.path == Path(frame.source_id) else None
        key = (frame.source_id, frame.path is None, short)
        if key not in self._numbers:
            if len(self._numbers) >= _MOST_NUMBERED:
                return 1
            rivals = [
                number
                for (source, is_live, name), number in self._numbers.items()
                if source != key[0] and is_live == key[1] and (name == short or None in (name, short))
            ]
            self._numbers[key] = max(rivals, default=0) + 1
        return self._numbers[key]

    def _image_sink(self, name: str) -> tuple[ImageSink, Recorder[Picture]] | None:
        if self._images is None:
            return None
        if name not in self._image_sinks:
            sink = ImageSink(self._images / name)
            self._image_sinks[name] = (sink, self._pictures(sink, "images"))
        return self._image_sinks[name]

    def _video_of(self, name: str) -> Recorder[Picture] | None:
        if self._video is None:
            return None
        if name not in self._videos:
            path = self._video.with_stem(f"{self._video.stem}_{name}") if name else self._video
            self._videos[name] = self._pictures(VideoSink(path, fps=self._video_fps), "video")
        return self._videos[name]

    def _pictures(self, sink: ImageSink | VideoSink, kind: str) -> Recorder[Picture]:
        recorder: Recorder[Picture] = Recorder(
            sink,
            on_status=self._on_status,
            interval_s=0.0,
            capacity=_PICTURES,
            keep="oldest",
            batch=1,
            attempts=_ATTEMPTS,
        )
        self._all[self._key(sink.path, kind)] = recorder
        return recorder

    def _key(self, path: str | Path, kind: str) -> str:
        """Return the name that a recorder has in `stats`: rejects may go to the folder of all images."""
        shares = kind == "rejects" and self._images == Path(path)
        return f"{path} ({kind})" if shares or str(path) in self._all else str(path)

    @property
    def stats(self) -> dict[str, RecorderStats]:
        """Path of each file and folder -> what became of what was put there.

        Rejects in the folder of all images stand apart, as "FOLDER (rejects)".
        """
        return {name: recorder.stats for name, recorder in list(self._all.items())}

    def close(self) -> dict[str, RecorderStats]:
        """Write what waits, and end; harmless when called twice.

        Returns:
            What became of everything, as in `stats`.
        """
        return {name: recorder.close() for name, recorder in list(self._all.items())}

    def __enter__(self) -> InspectionLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _require_different(records: Sequence[str | Path]) -> None:
    """Refuse a file that is named twice: each verdict would be in it twice."""
    seen: set[Path] = set()
    for path in records:
        real = Path(path).resolve()
        if real in seen:
            raise ConfigError(
                f"The file {path} came twice for records; wanted each file once. Leave one --record out."
            )
        seen.add(real)
