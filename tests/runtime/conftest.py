"""Small data sets on disk, with names that trip a careless reader, and a model of known numbers."""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from cada_edge.files import sha256_file
from cada_edge.manifest import Manifest
from cada_edge.runtime.parity import Reference, write_reference
from cada_edge.runtime.preprocess import RESIZE_NAME

PutImage = Callable[..., Path]

MASK_LABEL = 3
"""VisA's masks hold small label numbers, not 255."""


def _put_image(path: Path, *, value: int = 120, size_hw: tuple[int, int] = (12, 10)) -> Path:
    """Write a flat colour image with a brighter corner; the extension, in any case, chooses the format."""
    image = np.full((*size_hw, 3), value, np.uint8)
    image[0, 0] = 255
    return _encode(path, image)


def _put_mask(path: Path, *, label: int = 255) -> Path:
    mask = np.zeros((12, 10), np.uint8)
    mask[2:5, 3:6] = label
    return _encode(path, mask)


def _encode(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(path.suffix.lower(), image)
    assert encoded
    path.write_bytes(data.tobytes())
    return path


@pytest.fixture
def put_image() -> PutImage:
    """Write an image file: ``put_image(path, value=120, size_hw=(12, 10))``."""
    return _put_image


@pytest.fixture
def put_mask() -> PutImage:
    """Write a mask file: ``put_mask(path, label=255)``."""
    return _put_mask


@pytest.fixture
def mvtec_root(tmp_path: Path) -> Path:
    """Two categories in MVTec AD's layout; the sorted orders of images and masks differ."""
    root = tmp_path / "mvtec"
    for category in ("bottle", "Schraube grün"):
        for number in range(3):
            _put_image(root / category / "train/good" / f"{number:03}.png", value=100 + number)
        _put_image(root / category / "test/good/000.png")
        # Sorted, the images are 10, 2, 2B, 3 and the masks 10_mask, 2B_mask, 2_mask, 3.
        for stem, mask in (("10", "10_mask.png"), ("2", "2_mask.png"), ("2B", "2B_mask.PNG"), ("3", "3.png")):
            _put_image(root / category / "test/scratch" / f"{stem}.png")
            _put_mask(root / category / "ground_truth/scratch" / mask)
        _put_image(root / category / "test/dent/000.JPG")
        _put_mask(root / category / "ground_truth/dent/000_mask.png")
    (root / "readme.txt").write_text("not a category")
    (root / "bottle/train/good/Thumbs.db").write_bytes(b"no image")
    (root / "bottle/train/good/._000.png").write_bytes(b"what macOS leaves behind")
    (root / ".cache/train/good").mkdir(parents=True)
    return root


@pytest.fixture
def visa_root(tmp_path: Path) -> Path:
    """VisA's own layout with its three tables; masks hold label numbers."""
    root = tmp_path / "VisA"
    lines = ["object,split,label,image,mask"]
    for category in ("candle", "pcb1"):
        for number in range(4):
            image = f"{category}/Data/Images/Normal/{number:04}.JPG"
            _put_image(root / image)
            lines.append(f"{category},{'train' if number < 3 else 'test'},normal,{image},")
        for number in range(2):
            image, mask = (f"{category}/Data/{kind}/Anomaly/{number:03}" for kind in ("Images", "Masks"))
            _put_image(root / f"{image}.JPG")
            _put_mask(root / f"{mask}.png", label=MASK_LABEL)
            lines.append(f"{category},test,anomaly,{image}.JPG,{mask}.png")
    table = root / "split_csv/1cls.csv"
    table.parent.mkdir()
    table.write_text("\n".join(lines) + "\n")
    # In the 2cls splits some anomalies are for training.
    anomalies_moved = table.read_text().replace("candle,test,anomaly", "candle,train,anomaly")
    for name in ("2cls_highshot", "2cls_fewshot"):
        table.with_name(f"{name}.csv").write_text(anomalies_moved)
    return root


@pytest.fixture
def visa_converted_root(tmp_path: Path) -> Path:
    """VisA in the MVTec-like form, with the level `1cls`."""
    root = tmp_path / "VisA_pytorch"
    for category in ("candle", "pcb1"):
        base = root / "1cls" / category
        for number in range(3):
            _put_image(base / "train/good" / f"{number:04}.JPG")
        _put_image(base / "test/good/0003.JPG")
        for number in range(2):
            _put_image(base / "test/bad" / f"{number:03}.JPG")
            _put_mask(base / "ground_truth/bad" / f"{number:03}.png", label=MASK_LABEL)
    return root


@pytest.fixture
def btad_root(tmp_path: Path) -> Path:
    """BTAD: .bmp and .png images, of which 03's masks are .bmp."""
    root = tmp_path / "BTech"
    for category, image_suffix, mask_suffix in (
        ("01", ".bmp", ".png"),
        ("02", ".png", ".png"),
        ("03", ".BMP", ".bmp"),
    ):
        for number in range(3):
            _put_image(root / category / "train/ok" / f"{number:04}{image_suffix}")
        _put_image(root / category / f"test/ok/0005{image_suffix}")
        for number in (7, 12):
            _put_image(root / category / "test/ko" / f"{number:04}{image_suffix}")
            _put_mask(root / category / "ground_truth/ko" / f"{number:04}{mask_suffix}")
    return root


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    """A person's own parts, partly sorted into folders; not every defect has a mask."""
    root = tmp_path / "parts"
    _put_image(root / "normal/loose.png")
    _put_image(root / "normal/gear/a.jpeg")
    _put_image(root / "normal/gear/monday/deep/b.TIFF")
    _put_image(root / "normal/naïve 部品/c.webp")
    _put_image(root / "anomalous/gear/bent tooth/a.png")
    _put_image(root / "anomalous/scratch/a.png")
    _put_image(root / "anomalous/x.png")
    _put_mask(root / "masks/gear/bent tooth/a.png")
    _put_mask(root / "masks/scratch/a_mask.bmp")
    return root


TINY_SIZE = 16
"""Side of the tiny model's input, in pixels."""

TINY_STATS = (0.1, 0.6)
"""u^ and guarded g^ that the tiny model gives for every frame."""


def _write_tiny_model(path: Path, **changes: Any) -> Path:
    """Write a model file that is no network, but gives known numbers, with manifest and reference file.

    anomaly_map is the mean of the three channels / 255, score its mean, stats are `TINY_STATS`.
    """
    onnx = pytest.importorskip("onnx", reason="the package onnx writes the tiny model file: pip install onnx")
    from onnx import TensorProto, helper

    side = TINY_SIZE
    nodes = [
        helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "white"], ["unit"]),
        helper.make_node("ReduceMean", ["unit", "channels"], ["anomaly_map"], keepdims=0),
        helper.make_node("ReduceMean", ["anomaly_map", "pixels"], ["mean"], keepdims=1),
        helper.make_node("Squeeze", ["mean", "pixels"], ["score"]),
        helper.make_node("Squeeze", ["mean", "columns"], ["column"]),
        helper.make_node("Mul", ["column", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "constants"], ["stats"]),
    ]
    float_type, int_type = TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", side, side, 3])],
        [
            helper.make_tensor_value_info("score", float_type, ["batch"]),
            helper.make_tensor_value_info("anomaly_map", float_type, ["batch", side, side]),
            helper.make_tensor_value_info("stats", float_type, ["batch", 2]),
        ],
        [
            helper.make_tensor("white", float_type, [], [255.0]),
            helper.make_tensor("channels", int_type, [1], [3]),
            helper.make_tensor("pixels", int_type, [2], [1, 2]),
            helper.make_tensor("columns", int_type, [1], [2]),
            helper.make_tensor("zero", float_type, [], [0.0]),
            helper.make_tensor("constants", float_type, [1, 2], list(TINY_STATS)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    reference = path.with_name(f"{path.stem}.reference.npz")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, side, side, 3), np.uint8)
    maps = frames.astype(np.float32).mean(3) / 255
    write_reference(
        reference,
        Reference(
            frames,
            maps.mean((1, 2)),
            np.tile(np.array(TINY_STATS, np.float32), (5, 1)),
            maps.astype(np.float16),
            np.array([0, 0, 0, 1, -1], np.int8),
        ),
    )
    values: dict[str, Any] = {
        "model_file": path.name,
        "model_sha256": sha256_file(path),
        "format": "onnx",
        "precision": "fp32",
        "base": "revdist",
        "encoder": "none",
        "input_hw": (side, side),
        "resize": RESIZE_NAME,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "alignment": "cada",
        "range_floor": 0.25,
        "upsampling": "corners",
        "smoothing": {"kernel": 1, "sigma": 4.0, "padding": "zero"},
        "top_fraction": 1.0,
        "checkpoint_sha256": "0" * 64,
        "data_fingerprint": "0" * 64,
        "recipe": "default",
        "created_at": "2026-01-01T00:00:00+00:00",
        "versions": {},
        "threshold": 0.5,
        "reference_file": reference.name,
        "reference_sha256": sha256_file(reference),
    }
    Manifest(**{**values, **changes}).write(path)
    return path


@pytest.fixture
def write_tiny_model() -> Callable[..., Path]:
    """Write the tiny model: ``write_tiny_model(path, threshold=None)`` with changed manifest fields."""
    return _write_tiny_model


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """A model file whose numbers are known, with manifest and reference file."""
    return _write_tiny_model(tmp_path / "model" / "tiny.onnx")


def _sibling(name: str) -> ModuleType:
    """Load a file beside this one: what is no test has no name to be imported by."""
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cuda_double(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A double of the CUDA driver in the place of cuda-bindings and of libcuda; see cuda_double.py."""
    doubles = _sibling("cuda_double")
    driver = doubles.CudaDriverDouble()
    driver.libcuda = doubles.LibcudaDouble(driver)
    real = ctypes.CDLL
    monkeypatch.setattr(
        ctypes, "CDLL", lambda name, *rest, **options: driver.libcuda if "cuda" in str(name) else real(name)
    )
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
    return driver


@pytest.fixture
def pycuda_double(cuda_double: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A double of pycuda.driver over the driver's double."""
    double = _sibling("pycuda_double").PycudaDriverDouble(cuda_double)
    monkeypatch.setitem(sys.modules, "pycuda.driver", double)
    return double


@pytest.fixture
def make_tensorrt_double(cuda_double: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Put a double of TensorRT in its place: ``make_tensorrt_double("tensorrt_rtx", "1.7.1")``."""
    from cada_edge.runtime import tensorrt_engine

    pytest.importorskip("onnxruntime", reason="the double executes the graph with ONNX Runtime")

    def make(name: str = "tensorrt", version: str = "10.3.0") -> Any:
        double = _sibling("tensorrt_double").TensorRTDouble(cuda_double, name, version)
        monkeypatch.setitem(sys.modules, name, double)
        return double

    # A double has a logger of its own each time; the real module's is kept, which must never be freed.
    monkeypatch.setattr(tensorrt_engine, "message_log", tensorrt_engine.message_log.__wrapped__)
    return make


@pytest.fixture
def tensorrt_double(make_tensorrt_double: Callable[..., Any]) -> Any:
    """A double of TensorRT 10.3.0; see tensorrt_double.py."""
    return make_tensorrt_double()


@pytest.fixture
def tiny_engine(tiny_model: Path) -> Path:
    """The tiny model as the double's plan, with the manifest of an engine for it."""
    return _as_engine(tiny_model)


def _as_engine(model: Path, **changes: Any) -> Path:
    from cada_edge.engine_build import EngineBuild

    path = model.with_suffix(".engine")
    shutil.copy(model, path)
    values: dict[str, Any] = {
        "target": "tensorrt",
        "tensorrt_version": "10.3.0",
        "compute_capabilities": ("8.7",),
        "hardware_compatibility": "none",
        "batch": (1, 2, 4),
        "executed": True,
    }
    manifest = dataclasses.replace(
        Manifest.read(model),
        model_file=path.name,
        format="engine",
        engine=EngineBuild(**{**values, **changes}),
    )
    manifest.write(path)
    return path


@pytest.fixture
def as_engine() -> Callable[..., Path]:
    """Make an engine of the double from a model: ``as_engine(tiny_model, target="rtx")``."""
    return _as_engine
