"""What an import loads, how long it takes, and which way imports point."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import cada_edge

PACKAGE = Path(cada_edge.__file__).parent
# From the bottom up: a layer imports its own modules and those of the layers before it.
LAYERS = ("base", "runtime", "trainer", "export", "benchmarks", "top")
BASE = {"__init__", "engine_build", "errors", "extras", "files", "manifest", "quantization"}
BASE_INSTALL = {"cada_edge", "click", "numpy"}


def _files_of(layer: str) -> list[Path]:
    if layer == "base":
        return [PACKAGE / f"{name}.py" for name in sorted(BASE)]
    if layer == "top":
        return sorted(file for file in PACKAGE.glob("*.py") if file.stem not in BASE)
    # An editable install has the folder behind a link, a wheel has it in place: both are found here.
    return sorted((PACKAGE / layer).glob("*.py"))


def _module_name(layer: str, file: Path) -> str:
    package = "cada_edge" if layer in ("base", "top") else f"cada_edge.{layer}"
    return package if file.stem == "__init__" else f"{package}.{file.stem}"


TORCH_FREE_MODULES = [
    _module_name(layer, file) for layer in ("base", "runtime", "top") for file in _files_of(layer)
] + [
    # `cada-edge bench` runs on a box without torch; Matplotlib is loaded where a picture is asked for.
    _module_name("benchmarks", file)
    for file in _files_of("benchmarks")
    if file.stem.startswith(("bench_", "machine")) and file.stem != "bench_picture"
]


def _python(code: str, *, cwd: Path) -> str:
    """Run code in a fresh interpreter away from the checkout and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


_LOADED = """
import sys
before = set(sys.modules)
import {module}
new = set(sys.modules) - before
# Cython leaves modules of its own that no file stands for.
names = {{name.partition(".")[0] for name in new if getattr(sys.modules[name], "__spec__", None)}}
print(*sorted(names - set(sys.stdlib_module_names)))
"""


@pytest.mark.parametrize("module", TORCH_FREE_MODULES)
def test_the_base_install_is_enough_to_import(module: str, tmp_path: Path) -> None:
    # Not torch, not OpenCV, not an engine: those are loaded by the call that needs them.
    loaded = set(_python(_LOADED.format(module=module), cwd=tmp_path).split())
    assert "cada_edge" in loaded
    assert loaded <= BASE_INSTALL


_TIMED = """
from time import perf_counter
start = perf_counter()
import cada_edge
print(perf_counter() - start)
"""


def test_importing_cada_edge_takes_less_than_a_quarter_of_a_second(tmp_path: Path) -> None:
    seconds = [float(_python(_TIMED, cwd=tmp_path)) for _ in range(5)]
    assert statistics.median(seconds) < 0.25


def _imports_of(file: Path) -> set[str]:
    """Full names in cada_edge that a file imports anywhere, for type checkers included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in found if name.partition(".")[0] == "cada_edge"}


def _layer_of(module: str) -> str:
    parts = module.split(".")
    if len(parts) == 1 or parts[1] in BASE or parts[1].startswith("__"):
        return "base"
    return parts[1] if parts[1] in LAYERS else "top"


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer != "top"])
def test_imports_point_one_way(layer: str) -> None:
    upward = {
        f"{_module_name(layer, file)} imports {name}"
        for file in _files_of(layer)
        if file.stem != "__init__" or layer != "base"  # the public names of cada_edge come from everywhere
        for name in _imports_of(file)
        if LAYERS.index(_layer_of(name)) > LAYERS.index(layer)
    }
    assert not upward
