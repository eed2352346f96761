"""The public names: complete, sorted, importable, and nothing else promised."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest

import cada_edge
from cada_edge import errors


def test_all_is_sorted_and_has_no_double() -> None:
    assert cada_edge.__all__ == sorted(set(cada_edge.__all__))


@pytest.mark.parametrize("name", cada_edge.__all__)
def test_every_public_name_is_importable(name: str) -> None:
    value = getattr(cada_edge, name)
    assert value.__doc__, f"cada_edge.{name} has no docstring"
    assert value.__module__.startswith("cada_edge.")


def test_all_is_what_type_checkers_see() -> None:
    # The names under TYPE_CHECKING are a second list: a name in one alone works for programs or editors only.
    tree = ast.parse(Path(cada_edge.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.If)
        for statement in ast.walk(node)
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == set(cada_edge.__all__)


def test_every_error_is_public() -> None:
    assert set(errors.__all__) <= set(cada_edge.__all__)


def test_dir_shows_the_public_names() -> None:
    assert set(cada_edge.__all__) <= set(dir(cada_edge))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'cada_edge' has no attribute 'Detektor'"):
        _ = cada_edge.Detektor  # type: ignore[attr-defined,unused-ignore]  # pyright: ignore


def test_a_star_import_gives_the_public_names(tmp_path: Path) -> None:
    code = "from cada_edge import *; import cada_edge; print(set(cada_edge.__all__) <= set(globals()))"
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True)
    assert printed == "True\n"


def _modules() -> list[str]:
    package = Path(cada_edge.__file__).parent
    folders = {"cada_edge": package, "cada_edge.runtime": package / "runtime"}
    return sorted(
        f"{name}.{file.stem}"
        for name, folder in folders.items()
        for file in folder.glob("*.py")
        if not file.stem.startswith("__")
    )


@pytest.mark.parametrize("name", _modules())
def test_every_module_of_the_runtime_names_its_public_parts(name: str) -> None:
    module = import_module(name)
    exported = module.__all__
    assert all(hasattr(module, part) for part in exported)
    assert not [part for part in exported if part.startswith("_")]


def test_the_installed_version_is_the_one_in_the_code() -> None:
    assert metadata.version("cada-edge") == cada_edge.__version__
