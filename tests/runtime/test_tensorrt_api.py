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


def _sources() -> dict[Path, ast.Module]:
    # Not rglob, which does not follow the links to the folders of a checkout.
    files = [*PACKAGE.glob("*.py"), *PACKAGE.glob("*/*.py")]
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}


def _reaches_tensorrt(tree: ast.AST) -> list[str]:
    """List, as source, what may bring one of TensorRT's objects into a module."""
    asked = ("tensorrt", "tensorrt_rtx")
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        if any(name.partition(".")[0] in asked for name in names):
            found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "import_module",
            "__import__",
        ):
            # By its text: a name that is put together, or one of MODULES, would do as well.
            given = ast.unparse(node.args[0])
            if "MODULES" in given or any(f"'{name}" in given for name in asked):
                found.append(ast.unparse(node))
        # It may be called for its errors, or for the version, which is text.
        if isinstance(node, ast.Name) and node.id == "load_tensorrt":
            call = parents[node]
            user = parents.get(call)
            is_call = isinstance(call, ast.Call) and call.func is node
            is_version = isinstance(user, ast.Attribute) and user.attr == "__version__"
            if not is_call or not (is_version or isinstance(user, ast.Expr)):
                found.append(ast.unparse(user or call))
        if (isinstance(node, ast.Name) and node.id == "message_log") or (
            isinstance(node, ast.alias) and node.name == "message_log"
        ):
            found.append("message_log")
    return found


def test_no_other_module_comes_to_tensorrts_objects() -> None:
    sources = _sources()
    assert set(TENSORRT_FILES) < set(sources)
    assert {file.parent.name for file in sources} == {
        *("cada_edge", "runtime", "trainer", "export", "benchmarks"),
    }
    reaching = {file: _reaches_tensorrt(tree) for file, tree in sources.items()}
    assert {file for file, found in reaching.items() if found} == set(TENSORRT_FILES)


@pytest.mark.parametrize(
    ("source", "is_reached"),
    [
        ("import tensorrt", True),
        ("from tensorrt_rtx import Builder", True),
        ("import tensorrt_helpers", False),
        ("importlib.import_module('tensorrt')", True),
        ("import_module(MODULES[target])", True),
        ("import_module('cuda.bindings.driver')", False),
        ("version = load_tensorrt(target).__version__", False),
        ("load_tensorrt(target, 'Building')", False),
        ("trt = load_tensorrt(target)", True),
        ("load_tensorrt(target).Builder", True),
        ("load = load_tensorrt", True),
        ("from cada_edge.runtime.tensorrt_engine import message_log", True),
    ],
)
def test_the_search_finds_each_way_to_them(source: str, is_reached: bool) -> None:
    assert bool(_reaches_tensorrt(ast.parse(source))) == is_reached


def test_no_precision_flag_is_known_to_the_builder() -> None:
    """Precision is in the graph: TensorRT 11 has none of these, and 10.x would change a typed network."""
    flags = {"FP16", "BF16", "INT8", "FP8", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"}
    assert flags <= _names_of(RECORDS["tensorrt-10.3.0"])
    for file in TENSORRT_FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        texts = {str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not flags & (_touched(tree) | texts)
    flag_names = RECORDS["tensorrt-11.4.0.106"]["enums"]["BuilderFlag"]
    assert not flags & set(flag_names)
    assert "TF32" in flag_names


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
