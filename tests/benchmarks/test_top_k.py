"""The top-k mean as a graph: what the benchmark compares gives the sorted mean on both engines."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from cada_edge.benchmarks.top_k import (
    KINDS,
    TopMeanFigures,
    _text,
    build_seconds,
    engine,
    export_top_mean,
    main,
)

SIDE, COUNT = 640, 4096


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("top-k")
    for kind in KINDS:
        export_top_mean(folder / f"{kind}.onnx", kind, SIDE, COUNT)
    return {kind: folder / f"{kind}.onnx" for kind in KINDS}


def _maps() -> np.ndarray:
    """Random, negative, constant, zero, tied at k, and with outliers: float32 (9, SIDE, SIDE)."""
    random = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    tied = random.ravel().copy()
    places = np.argsort(tied)[::-1]
    tied[places[COUNT - 21 : COUNT + 20]] = tied[places[COUNT - 1]]
    maps = [random, -3 - random, np.full_like(random, 0.3), 0 * random, tied.reshape(SIDE, SIDE)]
    for value in (1e3, -1e3, 1e6, -1e6):
        maps.append(random.copy())
        maps[-1][3, 5] = value
    return np.stack(maps)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_engines_give_the_sorted_mean(files: dict[str, Path], name: str) -> None:
    maps = _maps()
    wanted = np.sort(maps.astype(np.float64).reshape(len(maps), -1))[:, -COUNT:].mean(1)
    run = engine(files["bisection"], name)
    for rows in ([0], [1, 2], range(9)):  # batches of 1, 2 and 9
        error = np.abs(run(maps[list(rows)]) - wanted[list(rows)]) / np.maximum(1, np.abs(wanted[list(rows)]))
        assert error.max() <= 1e-6


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_nan_comes_through_the_bisection(files: dict[str, Path], name: str) -> None:
    maps = _maps()[:3]
    for place in ((0, 0), (333, 17), (639, 639)):
        spoiled = maps.copy()
        spoiled[1][place] = np.nan
        assert np.isnan(engine(files["bisection"], name)(spoiled)).tolist() == [False, True, False]


def test_what_the_graph_is_made_of(files: dict[str, Path]) -> None:
    kinds = [node.op_type for node in onnx.load(files["bisection"]).graph.node]
    assert not {"TopK", "Loop", "If", "Scan", "Sort"} & set(kinds)
    assert kinds.count("ReduceSum") == 40 + 2
    assert "TopK" in [node.op_type for node in onnx.load(files["top-k"]).graph.node]


def test_the_command(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--side", "256", "--repeats", "2", "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)["figures"]
    assert [(each["kind"], each["side"], each["count"]) for each in figures] == [
        ("top-k", 256, 655),
        ("bisection", 256, 655),
    ]
    assert all(each["largest_error"] <= 1e-6 and each["in_tensorrt"] for each in figures)
    assert all(set(each["p50_ms"]) == {"onnxruntime", "openvino"} for each in figures)
    has_rtx = find_spec("tensorrt_rtx") is not None
    for each in figures:
        assert (each["build_s"] is not None and each["build_s"] > 0) if has_rtx else each["build_s"] is None
    header, *rows = _text([TopMeanFigures(**each) for each in figures]).splitlines()
    assert header.split()[5] == "build"
    assert rows[1].split()[:3] == ["256", "655", "bisection"]


def test_where_tensorrt_has_no_top_k_the_bisection_is_built(files: dict[str, Path]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'cada-edge[rtx]'")
    assert build_seconds(files["top-k"], SIDE) is None
    seconds = build_seconds(files["bisection"], SIDE)
    assert seconds is not None
    assert seconds > 0
