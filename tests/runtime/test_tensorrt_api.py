"""Every attribute of TensorRT's API that our code touches exists in all recorded versions of its bindings.

The code is read, not run: an attribute counts as TensorRT's unless what it is taken from is proven to be
something else, by an import, an annotation other than Any, or being a literal.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import cada_edge
from cada_edge.export import engine_builder
from cada_edge.runtime import tensorrt_engine

PACKAGE = Path(cada_edge.__file__).parent
TENSORRT_FILES = {
    PACKAGE / "runtime/tensorrt_engine.py": tensorrt_engine.NOT_EVERYWHERE,
    PACKAGE / "export/engine_builder.py": engine_builder.NOT_EVERYWHERE,
}
"""Each module that touches TensorRT's objects, with its table of what is not in every version."""
RECORDS = {
    file.stem: json.loads(file.read_text(encoding="utf-8"))
    for file in sorted((Path(__file__).parents[1] / "data/tensorrt_api").glob("*.json"))
}


def _names_of(record: dict[str, object]) -> set[str]:
    names, enums, classes = record["names"], record["enums"], record["classes"]
    assert isinstance(names, list)
    assert isinstance(enums, dict)
    assert isinstance(classes, dict)
    found = {*names, *enums, *classes}
    for members in (*enums.values(), *classes.values()):
        found.update(members)
    return found


def _is_any(annotation: ast.expr) -> bool:
    # A container of Any gives Any, but its own attributes are the container's.
    return isinstance(annotation, ast.Name) and annotation.id == "Any"


def _proven(tree: ast.AST) -> set[str]:
    """Names and `self.` attributes whose kind is known not to be TensorRT's."""
    proven: set[str] = set()
    unknown: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            proven.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.AnnAssign):
            (unknown if _is_any(node.annotation) else proven).add(ast.unparse(node.target))
        elif isinstance(node, ast.arg) and node.annotation is not None:
            (unknown if _is_any(node.annotation) else proven).add(node.arg)
        elif isinstance(node, ast.ClassDef):
            proven.add(node.name)
    # The package's loggers are made of an import: `_log = logging.getLogger(__name__)`.
    return (proven | {"self", "_log"}) - unknown


def _touched(tree: ast.AST) -> set[str]:
    proven = _proven(tree)
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and not isinstance(node.value, (ast.Constant, ast.JoinedStr))
        and ast.unparse(node.value) not in proven
        # What Python itself gives to every module, class and enumeration.
        and not (node.attr.startswith("__") and node.attr.endswith("__"))
    }


def _of_builtins() -> set[str]:
    return {name for kind in (str, dict, list, tuple) for name in dir(kind) if not name.startswith("_")}


def test_the_five_versions_are_recorded() -> None:
    assert [record["version"] for record in RECORDS.values()] == [
        "10.13.3.9",
        "10.16.1.11",
        "10.3.0",
        "11.4.0.106",
        "1.7.1.116",
    ]


@pytest.mark.parametrize("file", TENSORRT_FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("record", RECORDS)
def test_every_touched_name_exists(file: Path, record: str) -> None:
    touched = _touched(ast.parse(file.read_text(encoding="utf-8")))
    assert touched, "the reading found nothing: it is broken"
    # `", ".join(...)` and the like are taken from literals above; a chain such as text.split(".") is not.
    plain = _of_builtins() - set().union(*(_names_of(each) for each in RECORDS.values()))
    missing = touched - _names_of(RECORDS[record]) - {row.name for row in TENSORRT_FILES[file]} - plain
    assert not missing


@pytest.mark.parametrize("file", TENSORRT_FILES, ids=lambda file: file.stem)
def test_what_is_not_everywhere_is_exactly_where_the_table_says(file: Path) -> None:
    table = TENSORRT_FILES[file]
    for name in {row.name for row in table}:
        having = {stem for stem, record in RECORDS.items() if name in _names_of(record)}
        expected = {
            stem
            for stem, record in RECORDS.items()
            for row in table
            if row.name == name
            and stem.rpartition("-")[0] == row.module
            and _parts(record["version"]) >= _parts(row.since)
            and (row.until is None or _parts(record["version"]) < _parts(row.until))
        }
        assert having == expected, name
    touched = _touched(ast.parse(file.read_text(encoding="utf-8")))
    assert {row.name for row in table} <= touched, "the table names what nobody touches"


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_the_reading_finds_what_it_must_and_nothing_else() -> None:
    source = """
from pathlib import Path
def load(path: Path, runtime: Any):
    plan: bytes = path.read_bytes()
    engine = runtime.deserialize_cuda_engine(plan)
    engine.device_memory_size
    ", ".join([plan.hex()])
    engine.create_execution_context().no_such_name
    return engine.__class__
"""
    assert _touched(ast.parse(source)) == {
        "deserialize_cuda_engine",
        "device_memory_size",
        "create_execution_context",
        "no_such_name",
    }
    assert "no_such_name" not in _names_of(RECORDS["tensorrt-10.3.0"])
    assert "device_memory_size" not in _names_of(RECORDS["tensorrt-11.4.0.106"])


def test_no_other_module_imports_tensorrt() -> None:
    importing = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] in ("tensorrt", "tensorrt_rtx") for name in names):
                importing.add(file)
    assert importing <= set(TENSORRT_FILES)


def test_the_double_has_no_name_that_tensorrt_lacks(make_tensorrt_double: object) -> None:
    source = Path(__file__).with_name("tensorrt_double.py").read_text(encoding="utf-8")
    methods = {
        item.name
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name.startswith("_") and node.name != "_Held"
        for item in node.body
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")
    }
    assert "execute_async_v3" in methods
    of_rtx = {row.name for row in tensorrt_engine.NOT_EVERYWHERE}
    assert methods - of_rtx <= set.intersection(*map(_names_of, RECORDS.values()))
