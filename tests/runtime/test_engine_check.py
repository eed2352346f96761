"""Whether an engine fits the machine is decided from its manifest, with the command that builds another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cada_edge.engine_build import EngineBuild
from cada_edge.errors import BackendError, ManifestError
from cada_edge.manifest import manifest_path
from cada_edge.runtime.engine_check import check_gpu, check_version, engine_of, rebuild_command

ENGINE = Path("line/model.engine")


def _build(**changes: Any) -> EngineBuild:
    values: dict[str, Any] = {
        "target": "tensorrt",
        "tensorrt_version": "10.3.0",
        "compute_capabilities": ("8.6", "8.9"),
        "hardware_compatibility": "none",
        "batch": (1, 4, 8),
        "executed": True,
    }
    return EngineBuild(**{**values, **changes})


def test_the_build_is_read_from_the_manifest(tiny_engine: Path) -> None:
    build = engine_of(tiny_engine)
    assert (build.target, build.compute_capabilities, build.batch) == ("tensorrt", ("8.7",), (1, 2, 4))


def test_a_manifest_of_another_format_is_refused(tiny_model: Path) -> None:
    with pytest.raises(BackendError, match=r"has the format 'onnx'; wanted 'engine'.*--format engine"):
        engine_of(tiny_model)


def test_an_engine_without_a_manifest_is_refused(tiny_engine: Path) -> None:
    manifest_path(tiny_engine).unlink()
    with pytest.raises(ManifestError, match="has no manifest"):
        engine_of(tiny_engine)


@pytest.mark.parametrize(
    ("built", "here"), [("10.3.0", "10.3.0"), ("10.3.0.30", "10.3.0"), ("10.3.0", "10.3.0.30")]
)
def test_the_same_version_is_accepted(built: str, here: str) -> None:
    check_version(ENGINE, _build(tensorrt_version=built), here)


@pytest.mark.parametrize("here", ["10.3.1", "10.13.3.9", "11.4.0.106", "1.7.1.116"])
def test_another_version_is_refused(here: str) -> None:
    wanted = (
        rf"built with tensorrt 10\.3\.0; this machine has {here}\. .*"
        r"cada-edge export checkpoint\.pt --format engine --target tensorrt --out model\.engine"
    )
    with pytest.raises(BackendError, match=wanted):
        check_version(ENGINE, _build(), here)


@pytest.mark.parametrize(
    ("level", "capability", "fits"),
    [
        ("none", (8, 6), True),
        ("none", (8, 9), True),
        ("none", (8, 7), False),
        ("same", (12, 0), False),
        ("ampere+", (12, 0), True),
        ("ampere+", (8, 0), True),
        ("ampere+", (7, 5), False),
    ],
)
def test_the_gpu_must_be_one_of_those_built_for(level: str, capability: tuple[int, int], fits: bool) -> None:
    build = _build(hardware_compatibility=level)
    if fits:
        check_gpu(ENGINE, build, "GPU", capability)
        return
    written = f"{capability[0]}\\.{capability[1]}"
    with pytest.raises(
        BackendError, match=rf"compute capability 8\.6, 8\.9.*this machine's GPU has {written}"
    ):
        check_gpu(ENGINE, build, "GPU", capability)


def test_the_command_names_the_capability_where_the_target_takes_one() -> None:
    assert rebuild_command(ENGINE, _build(target="rtx"), (12, 0)).endswith(
        "--target rtx --out model.engine --compute-capability 12.0"
    )
    assert "--compute-capability" not in rebuild_command(ENGINE, _build(), (12, 0))


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "openvino"},
        {"hardware_compatibility": "turing"},
        {"batch": (0, 1, 2)},
        {"batch": (2, 1, 4)},
        {"batch": (1, 5, 4)},
        {"compute_capabilities": ()},
        {"compute_capabilities": ("sm_86",)},
        {"tensorrt_version": "ten"},
    ],
)
def test_an_impossible_build_is_refused_by_the_manifest(
    tiny_model: Path, as_engine: Callable[..., Path], changes: dict[str, Any]
) -> None:
    with pytest.raises(
        ManifestError, match=r"engine = EngineBuild.*a description of the build that TensorRT"
    ):
        engine_of(as_engine(tiny_model, **changes))
