"""What a model file is and whether it runs here: the verdict names what is against it and what to do."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cada_edge.cli import main
from cada_edge.errors import ManifestError, ModelMismatchError
from cada_edge.manifest import Manifest, manifest_path
from cada_edge.runtime.engine_check import why_not
from cada_edge.runtime.model_report import report_on


def test_an_onnx_file_runs_where_an_engine_for_it_is_installed(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_on(tiny_model)
    assert (report.runs_here, report.why_not, report.layers, report.notes) == (True, None, None, ())
    assert report.takes == "frames: uint8 (N, 16, 16, 3), BGR"
    assert report.gives.startswith("score: float32 (N,), anomaly_map: float32 (N, 16, 16), stats:")
    monkeypatch.setattr("cada_edge.runtime.backend.find_spec", lambda name: None)
    report = report_on(tiny_model)
    assert not report.runs_here
    assert "Install it with: pip install 'cada-edge[cpu]'" in str(report.why_not)


def test_an_engine_that_fits_shows_its_layers(tiny_engine: Path, tensorrt_double: Any) -> None:
    tensorrt_double.information = json.dumps(
        {
            "Layers": [
                {"Name": "a", "LayerType": "kgen", "Outputs": [{"Format/Datatype": "Half"}]},
                {"Name": "b", "LayerType": "kgen", "Outputs": [{"Format/Datatype": "Half"}]},
                {"Name": "c", "LayerType": "shape", "Outputs": []},
            ]
        }
    )
    result = CliRunner().invoke(main, ["inspect", str(tiny_engine)])
    assert result.exit_code == 0, result.output
    assert "layers              3: 2 fp16, 1 other" in result.stdout
    runs_on = next(line for line in result.stdout.splitlines() if line.startswith("runs here"))
    assert re.fullmatch(
        r"runs here           yes, on tensorrt 10\.3\.0 Double GPU \(cuda-bindings.*, CUDA graph\)", runs_on
    )
    assert tensorrt_double.alive == []
    shown = json.loads(CliRunner().invoke(main, ["inspect", str(tiny_engine), "--json"]).stdout)
    assert runs_on.endswith(shown["runs_on"])
    assert shown["layers"][0] == {"name": "a", "kind": "kgen", "precisions": ["fp16"]}
    assert (shown["runs_here"], shown["why_not"], shown["notes"]) == (True, None, [])
    assert shown["takes"] == "frames: uint8 (N, 16, 16, 3), BGR, N from 1 to 4, fastest with 2"


@pytest.mark.parametrize("reason", ["its capture failed", "pycuda.* has none"])
def test_an_engine_without_a_cuda_graph_says_why(
    reason: str,
    tiny_engine: Path,
    tensorrt_double: Any,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "capture" in reason:
        tensorrt_double.fail_capture = True
    else:
        request.getfixturevalue("pycuda_double")
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    report = report_on(tiny_engine)
    assert report.runs_here
    assert re.search(rf"no CUDA graph: {reason}\)$", str(report.runs_on))


def test_one_batch_and_an_engine_that_was_never_run(
    tiny_model: Path, as_engine: Callable[..., Path], tensorrt_double: Any
) -> None:
    report = report_on(as_engine(tiny_model, batch=(4, 4, 4), executed=False))
    assert report.takes.endswith("BGR, N = 4")
    assert report.runs_here
    assert len(report.notes) == 1
    assert "could not be run: its parity is its graph's" in report.notes[0]
    assert report.notes[0].endswith("cada-edge verify tiny.engine")
    assert report_on(tiny_model).runs_on is None


def test_what_is_against_an_engine_is_told_with_its_remedy(
    tiny_model: Path, as_engine: Callable[..., Path], make_tensorrt_double: Callable[..., Any]
) -> None:
    make_tensorrt_double("tensorrt", "10.3.0")
    other = report_on(as_engine(tiny_model, tensorrt_version="10.16.1"))
    assert "was built with tensorrt 10.16.1; this machine has 10.3.0" in str(other.why_not)
    assert "Build it anew with: cada-edge export" in str(other.why_not)
    other = report_on(as_engine(tiny_model, compute_capabilities=("8.6",)))
    assert "was built for compute capability 8.6; this machine's" in str(other.why_not)
    assert "GPU 0 has 8.7. Build it anew with: cada-edge export" in str(other.why_not)
    assert not other.runs_here
    assert other.layers is None
    assert f"runs here           no. {other.why_not}" in other.to_text()


def test_without_a_driver(tiny_engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cada_edge.runtime.cuda_driver._LIBRARY", "libcuda-of-no-machine.so")
    assert "There is no CUDA driver" in str(why_not(tiny_engine))
    assert not report_on(tiny_engine).runs_here


def test_without_a_cuda_binding(
    tiny_engine: Path, tensorrt_double: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cuda.bindings.driver", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "needs the package 'cuda-bindings'" in str(report_on(tiny_engine).why_not)


def test_a_library_that_refuses_the_file_is_a_verdict_too(tiny_engine: Path, tensorrt_double: Any) -> None:
    tensorrt_double.fail["deserialize_cuda_engine"] = None
    report = report_on(tiny_engine)
    assert not report.runs_here
    assert "cannot deserialise" in str(report.why_not)
    tensorrt_double.fail["execute_async_v3"] = False
    report = report_on(tiny_engine)
    assert (report.runs_here, report.runs_on, report.layers) == (False, None, None)
    assert "cannot run" in str(report.why_not)


def test_a_damaged_pair_is_an_error(tiny_engine: Path) -> None:
    manifest = Manifest.read(tiny_engine)
    dataclasses.replace(manifest, model_sha256="1" * 64).write(tiny_engine)
    with pytest.raises(ModelMismatchError):
        report_on(tiny_engine)
    manifest_path(tiny_engine).unlink()
    with pytest.raises(ManifestError, match="has no manifest"):
        report_on(tiny_engine)
