from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge import Detection, Detector, Frame, RunOptions
from cada_edge.errors import (
    BackendError,
    ClosedError,
    ConfigError,
    FrameError,
    ManifestError,
    ModelMismatchError,
    ModelNotFoundError,
)
from cada_edge.manifest import Manifest, manifest_path
from cada_edge.runtime.backend import OUTPUT_NAMES, Outputs
from cada_edge.runtime.detector import _is_clamped

GREY = np.full((16, 16, 3), 102, np.uint8)  # 102 / 255 = 0.4


def _engines() -> list[str]:
    from importlib.util import find_spec

    return [name for name in ("onnxruntime", "openvino") if find_spec(name) is not None]


@pytest.mark.parametrize("backend", _engines())
def test_known_numbers(tiny_model: Path, backend: str) -> None:
    with Detector(tiny_model, backend=backend) as detector:
        detection = detector(GREY)
        assert backend in detector.backend
    assert detection.score == pytest.approx(0.4, abs=1e-6)
    assert detection.raw_score == pytest.approx(0.4 * 0.5 + 0.1, abs=1e-6)
    assert (detection.threshold, detection.pixel_threshold, detection.is_anomalous) == (0.5, 0.5, False)
    assert not detection.alignment_clamped
    assert detection.anomaly_map is not None
    np.testing.assert_allclose(detection.anomaly_map, np.full((16, 16), 0.4, np.float32), atol=1e-6)
    assert detection.mask is not None
    assert not detection.mask.any()
    assert list(detection.timings_ms) == ["preprocess", "inference", "post", "total"]
    timings = dict(detection.timings_ms)
    total = timings.pop("total")
    assert sum(timings.values()) == pytest.approx(total, rel=1e-6)


def test_both_engines_agree(tiny_model: Path) -> None:
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 256, (20, 30, 3), np.uint8) for _ in range(7)]
    results = []
    for backend in _engines():
        with Detector(tiny_model, backend=backend) as detector:
            results.append(detector.batch(frames))
    for first, *others in zip(*results, strict=True):
        for other in others:
            assert abs(first.score - other.score) < 1e-4
            assert np.abs(first.anomaly_map - other.anomaly_map).max() < 1e-4


@pytest.mark.parametrize("backend", _engines())
@pytest.mark.parametrize("size", [1, 2, 7])
def test_batches_equal_single_calls_and_own_their_arrays(tiny_model: Path, backend: str, size: int) -> None:
    rng = np.random.default_rng(2)
    frames = [rng.integers(0, 256, (16 + row, 9, 3), np.uint8) for row in range(size)]
    with Detector(tiny_model, backend=backend) as detector:
        together = detector.batch(frames)
        kept = [detection.anomaly_map.copy() for detection in together if detection.anomaly_map is not None]
        alone = [detector(frame) for frame in frames]
    for one, other, before in zip(together, alone, kept, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-6)
        assert one.anomaly_map is not None
        assert np.array_equal(one.anomaly_map, before)


def test_openvino_writes_each_sizes_results_to_one_place(tiny_model: Path) -> None:
    # Where that is, is looked up once.
    pytest.importorskip("openvino")
    with Detector(tiny_model, backend="openvino", threads=1) as detector:
        frames = [np.full((16, 16, 3), value, np.uint8) for value in range(0, 240, 10)]
        for size in (1, 2, 1, 4):
            found = [each for at in range(0, 24, size) for each in detector.batch(frames[at : at + size])]
            assert [each.score for each in found] == pytest.approx(np.arange(0, 240, 10) / 255, abs=1e-6)
            backend: Any = detector._backend
            request = backend._request(size)
            for name, view in zip(OUTPUT_NAMES, backend._outputs[size], strict=True):
                assert request.get_tensor(name).data.ctypes.data == view.ctypes.data


def test_openvino_compiles_four_sizes_whatever_comes(tiny_model: Path) -> None:
    pytest.importorskip("openvino")
    rng = np.random.default_rng(3)
    frames = [rng.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(13)]
    with Detector(tiny_model, backend="openvino") as detector:
        wanted = [detector(frame).score for frame in frames]
        for size in range(1, 14):
            assert [each.score for each in detector.batch(frames[:size])] == pytest.approx(wanted[:size])
        assert set(detector._backend._requests) == {1, 2, 4, 8}  # type: ignore[attr-defined]


def test_a_run_compiles_its_sizes_before_the_first_verdict(tiny_model: Path) -> None:
    pytest.importorskip("openvino")
    seen: list[set[int]] = []
    with Detector(tiny_model, backend="openvino") as detector:

        def on_result(detection: Detection, frame: Frame) -> None:
            seen.append(set(detector._backend._requests))  # type: ignore[attr-defined]

        detector.run([GREY], on_result=on_result, options=RunOptions(batch=5)).join()
    assert seen == [{1, 2, 4}]


def test_score_equal_to_the_threshold_is_normal(tiny_model: Path) -> None:
    with Detector(tiny_model) as detector:
        score = detector(GREY).score
    with Detector(tiny_model, threshold=score) as detector:
        assert detector(GREY).is_anomalous is False
    with Detector(tiny_model, threshold=np.nextafter(score, 0)) as detector:
        assert detector(GREY).is_anomalous is True


def test_without_threshold_scores_are_delivered_with_one_warning(
    tmp_path: Path, write_tiny_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = write_tiny_model(tmp_path / "m.onnx", threshold=None)
    with caplog.at_level(logging.WARNING), Detector(path) as detector:
        detections = [detector(GREY), detector(GREY)]
    assert [(d.is_anomalous, d.threshold, d.mask) for d in detections] == [(None, None, None)] * 2
    assert len([record for record in caplog.records if "has no threshold" in record.message]) == 1


def test_guard_is_marked(tmp_path: Path, write_tiny_model: Callable[..., Path]) -> None:
    # The model gives g^ - u^ = 0.5: with a floor of 0.5 the guard acted, with 0.49 it did not.
    with Detector(write_tiny_model(tmp_path / "a.onnx", range_floor=0.5)) as detector:
        assert detector(GREY).alignment_clamped
    with Detector(write_tiny_model(tmp_path / "b.onnx", range_floor=0.49)) as detector:
        assert not detector(GREY).alignment_clamped
    with Detector(write_tiny_model(tmp_path / "c.onnx", range_floor=0.5, alignment="none")) as detector:
        assert not detector(GREY).alignment_clamped


def test_pixel_threshold_of_the_manifest_and_of_a_given_threshold(
    tmp_path: Path, write_tiny_model: Callable[..., Path]
) -> None:
    path = write_tiny_model(tmp_path / "m.onnx", pixel_threshold=0.3)
    with Detector(path) as detector:
        mask = detector(GREY).mask
        assert mask is not None
        assert mask.all()
    with Detector(path, threshold=0.45) as detector:
        mask = detector(GREY).mask
        assert mask is not None
        assert not mask.any()


def test_stream_is_lazy_and_carries_the_frames_identity(tiny_model: Path) -> None:
    drawn: list[int] = []

    def camera() -> Any:
        for index in range(100):
            drawn.append(index)
            yield np.full((16, 16, 3), index, np.uint8)

    with Detector(tiny_model) as detector:
        stream = detector.stream(camera())
        first, second = next(stream), next(stream)
        assert len(drawn) <= 3
        stream.close()  # type: ignore[attr-defined]
    assert (first.frame_index, second.frame_index) == (0, 1)
    assert first.captured_at_s is not None
    assert second.score == pytest.approx(1 / 255, abs=1e-6)


def test_a_frame_keeps_its_identity(tiny_model: Path) -> None:
    frame = Frame(
        image=GREY,
        index=7,
        source_id="cam0",
        captured_at_s=12.5,
        captured_monotonic_s=3.5,
        path=Path("part.png"),
    )
    with Detector(tiny_model) as detector:
        detection = detector(frame)
    assert (detection.frame_index, detection.source_id, detection.path) == (7, "cam0", Path("part.png"))
    assert (detection.captured_at_s, detection.captured_monotonic_s) == (12.5, 3.5)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((7, 300, 3), np.uint8),
        np.full((33, 5), 255, np.uint8),
        np.full((9, 9, 4), 1, np.uint8),
        np.full((9, 9), 65535, np.uint16),
        np.zeros((64, 64, 3), np.uint8)[::2, ::-3],
    ],
)
def test_frames_of_any_size_and_kind(tiny_model: Path, frame: np.ndarray) -> None:
    with Detector(tiny_model) as detector:
        detection = detector(frame)
    peak = float(np.iinfo(frame.dtype).max)
    assert detection.score == pytest.approx(float(frame.max()) / peak, abs=1e-6)


def test_bad_frames_are_refused_and_the_detector_goes_on(tiny_model: Path) -> None:
    with Detector(tiny_model) as detector:
        with pytest.raises(FrameError, match="dtype float64 came"):
            detector(np.zeros((4, 4, 3)))
        with pytest.raises(FrameError, match="empty batch"):
            detector.batch([])
        assert detector(GREY).score == pytest.approx(0.4, abs=1e-6)


def test_opens_by_itself_and_closes_once(tiny_model: Path) -> None:
    detector = Detector(tiny_model)
    assert "new" in repr(detector)
    assert detector(GREY).score == pytest.approx(0.4, abs=1e-6)
    detector.close()
    detector.close()
    with pytest.raises(ClosedError, match=r"is closed. Make a new Detector"):
        detector(GREY)
    with pytest.raises(ClosedError):
        detector.open()


def test_calls_from_several_threads(tiny_model: Path) -> None:
    scores: dict[int, list[float]] = {}
    with Detector(tiny_model, threads=1) as detector:

        def work(value: int) -> None:
            frame = np.full((16, 16, 3), value, np.uint8)
            scores[value] = [detector(frame).score for _ in range(20)]

        threads = [threading.Thread(target=work, args=(value,)) for value in (0, 51, 255)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for value, seen in scores.items():
        assert seen == pytest.approx([value / 255] * 20, abs=1e-6)


def test_a_model_that_gives_nan_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Detector(tiny_model) as detector:
        broken = Outputs(
            np.array([np.nan], np.float32),
            np.zeros((1, 16, 16), np.float32),
            np.array([[0.1, 0.6]], np.float32),
        )
        # No real file gives NaN on demand: the engine's answer is replaced.
        monkeypatch.setattr(detector._backend, "infer", lambda frames: broken)
        with pytest.raises(BackendError, match=r"not finite.*cada-edge verify"):
            detector(GREY)


def test_missing_model_and_manifest(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no model file at .*cada-edge export"):
        Detector(tmp_path / "none.onnx")
    manifest_path(tiny_model).unlink()
    with pytest.raises(ManifestError, match="has no manifest"):
        Detector(tiny_model)


def test_damaged_and_exchanged_models(tmp_path: Path, tiny_model: Path) -> None:
    whole = tiny_model.read_bytes()
    tiny_model.write_bytes(whole[:-7])
    with pytest.raises(ModelMismatchError, match="damaged or was replaced"), Detector(tiny_model):
        pass
    # Even with a manifest that fits the damaged bytes the engine's refusal is an error of ours.
    from cada_edge.files import sha256_file

    for content in (whole[: len(whole) // 2], b""):
        tiny_model.write_bytes(content)
        manifest = json.loads(manifest_path(tiny_model).read_text())
        manifest["model_sha256"] = sha256_file(tiny_model)
        manifest_path(tiny_model).write_text(json.dumps(manifest))
        for backend in _engines():
            with pytest.raises((BackendError, ModelMismatchError)), Detector(tiny_model, backend=backend):
                pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_hw": (32, 32)}, r"takes frames of \(16, 16\); its manifest says \(32, 32\)"),
        ({"resize": "lanczos"}, "resized by 'lanczos'; this runtime has 'cv2-area-linear'"),
    ],
)
def test_manifests_that_do_not_fit(
    tmp_path: Path, write_tiny_model: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    path = write_tiny_model(tmp_path / "m.onnx", **changes)
    with pytest.raises(ModelMismatchError, match=message), Detector(path):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorflow"}, "backend 'tensorflow' came; wanted one of auto"),
        ({"threshold": float("nan")}, "threshold nan came; wanted a finite number"),
        ({"threads": 0}, "threads 0 came; wanted a whole number from 1"),
    ],
)
def test_bad_options(tiny_model: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Detector(tiny_model, **options)


def test_another_extension_is_refused(tiny_model: Path) -> None:
    other = tiny_model.rename(tiny_model.with_suffix(".h5"))
    dataclasses.replace(Manifest.read(_with_manifest(tiny_model, other)), model_file=other.name).write(other)
    with pytest.raises(ConfigError, match=r"has the extension '.h5'; wanted .onnx or .engine"):
        Detector(other)


def _with_manifest(old: Path, new: Path) -> Path:
    manifest_path(old).rename(manifest_path(new))
    return new


def test_unicode_paths(tmp_path: Path, write_tiny_model: Callable[..., Path]) -> None:
    path = write_tiny_model(tmp_path / "Prüfstand 検査" / "modèle.onnx")
    for backend in _engines():
        with Detector(path, backend=backend) as detector:
            assert detector(GREY).score == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize("backend", _engines())
def test_read_only_frames_of_the_models_size(tiny_model: Path, backend: str) -> None:
    # What camera SDKs deliver: a view of a buffer that is not ours to write.
    frame = np.frombuffer(GREY.tobytes(), np.uint8).reshape(GREY.shape)
    assert not frame.flags.writeable
    with Detector(tiny_model, backend=backend) as detector:
        assert detector(frame).score == pytest.approx(0.4, abs=1e-6)


def test_batch_takes_several_frames_only(tiny_model: Path) -> None:
    with Detector(tiny_model) as detector:
        with pytest.raises(
            FrameError, match=r"One frame came to batch .*Call detector\(frame\), or pass \[frame\]"
        ):
            detector.batch(GREY)  # type: ignore[arg-type]
        with pytest.raises(FrameError, match="A NoneType came to batch"):
            detector.batch(None)  # type: ignore[arg-type]
        assert len(detector.batch(np.stack([GREY, GREY]))) == 2  # type: ignore[arg-type]
        assert len(detector.batch(frame for frame in (GREY, GREY, GREY))) == 3  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers(tiny_model: Path) -> None:
    options: dict[str, Any] = {"threshold": np.float32(0.25), "threads": np.int64(1)}
    with Detector(tiny_model, **options) as detector:
        assert detector(GREY).threshold == 0.25
    with pytest.raises(ConfigError, match="threshold True came"):
        Detector(tiny_model, threshold=True)
    with pytest.raises(ConfigError, match="threads True came"):
        Detector(tiny_model, threads=True)


def test_no_path(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="path None came; wanted the path of an exported model"):
        Detector(None)  # type: ignore[arg-type]
    with pytest.raises(ModelNotFoundError, match="no model file"):
        Detector("m" * 300 + ".onnx")


@pytest.mark.parametrize("mean", [0.0, 0.37, 4.9])
def test_the_guard_is_seen_through_float32_rounding(mean: float) -> None:
    floor = 0.01
    maximum = float(np.float32(mean) + np.float32(floor))
    assert _is_clamped(float(np.float32(mean)), maximum, floor)
    assert not _is_clamped(mean, mean + 1.01 * floor, floor)


def test_a_file_that_takes_the_cameras_frames_gets_them_unresized(
    tmp_path: Path, write_tiny_model: Callable[..., Path]
) -> None:
    path = write_tiny_model(tmp_path / "m.onnx", frame_hw=(16, 16), input_hw=(8, 8))
    with Detector(path) as detector:
        assert (detector.frame_hw, detector.size_hw) == ((16, 16), (8, 8))
        assert detector(GREY).score == pytest.approx(0.4, abs=1e-6)
        assert [each.score for each in detector.batch([GREY, GREY[..., 0]])] == pytest.approx([0.4, 0.4])
        with pytest.raises(FrameError, match=r"A frame of 16x17 came; the model takes frames of 16x16 only"):
            detector(np.zeros((16, 17, 3), np.uint8))
        with pytest.raises(FrameError, match=r"Frame 1 of the batch: A frame of 8x8 came"):
            detector.batch([GREY, np.zeros((8, 8, 3), np.uint8)])


def test_a_frame_size_that_the_file_does_not_have(
    tmp_path: Path, write_tiny_model: Callable[..., Path]
) -> None:
    path = write_tiny_model(tmp_path / "m.onnx", frame_hw=(32, 16))
    with pytest.raises(ModelMismatchError, match=r"takes frames of \(16, 16\); its manifest says \(32, 16\)"):
        Detector(path).open()
