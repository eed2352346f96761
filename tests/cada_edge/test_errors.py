"""The tree of errors: drawn in the docstring, with the exit codes that scripts rely on."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cada_edge import errors
from cada_edge.errors import CadaEdgeError, MissingExtraError

# The command line's contract: 1 a check failed, 2 bad input or usage, 3 the model is damaged or does not
# fit this machine, 4 source lost, 5 a missing extra.
EXIT_CODES = {
    "CadaEdgeError": 2,
    "InputError": 2,
    "FrameError": 2,
    "ImageReadError": 2,
    "DatasetError": 2,
    "SourceError": 2,
    "ConfigError": 2,
    "ClosedError": 2,
    "ThreadOwnerError": 2,
    "OutputError": 2,
    "CheckFailedError": 1,
    "TrainingError": 1,
    "ModelError": 3,
    "ModelNotFoundError": 3,
    "ManifestError": 3,
    "ModelMismatchError": 3,
    "CheckpointError": 3,
    "BackendError": 3,
    "CudaError": 3,
    "SourceLostError": 4,
    "MissingExtraError": 5,
}

# What a caller who does not know cada-edge would catch.
BUILT_INS: dict[str, type[Exception]] = {
    "InputError": ValueError,
    "FrameError": ValueError,
    "ImageReadError": ValueError,
    "DatasetError": ValueError,
    "SourceError": ValueError,
    "ConfigError": ValueError,
    "ModelNotFoundError": FileNotFoundError,
    "ClosedError": RuntimeError,
    "ThreadOwnerError": RuntimeError,
    "OutputError": OSError,
    "MissingExtraError": ImportError,
}


def _classes() -> dict[str, type[CadaEdgeError]]:
    found: dict[str, type[CadaEdgeError]] = {}

    def add(cls: type[CadaEdgeError]) -> None:
        if cls.__module__ == errors.__name__:
            found[cls.__name__] = cls
        for child in cls.__subclasses__():
            add(child)

    add(CadaEdgeError)
    return found


def test_all_lists_every_class_in_order() -> None:
    assert errors.__all__ == sorted(_classes())


def test_the_table_of_exit_codes_is_complete() -> None:
    assert set(EXIT_CODES) == set(_classes())


@pytest.mark.parametrize(("name", "exit_code"), EXIT_CODES.items())
def test_exit_code(name: str, exit_code: int) -> None:
    assert _classes()[name].exit_code == exit_code


@pytest.mark.parametrize("name", sorted(_classes()))
def test_each_class_has_one_sentence_and_the_expected_built_in(name: str) -> None:
    cls = _classes()[name]
    assert cls.__doc__ is not None
    assert re.fullmatch(r"[^.\n]+\.", cls.__doc__)
    built_in = BUILT_INS.get(name)
    assert built_in is None or issubclass(cls, built_in)


def _drawn() -> dict[str, tuple[str | None, str | None]]:
    """Parent and built-in of each class, as the tree in the module's docstring draws them."""
    drawn: dict[str, tuple[str | None, str | None]] = {}
    open_branches: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        entry = re.match(
            r"    (?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+)(?: \((?P<built_in>\w+)\))?(?: {2,}|$)", line
        )
        if entry is None:
            continue
        depth = len(entry["branch"])
        open_branches = [branch for branch in open_branches if branch[0] < depth]
        drawn[entry["name"]] = (open_branches[-1][1] if open_branches else None, entry["built_in"])
        open_branches.append((depth, entry["name"]))
    return drawn


def test_the_docstring_draws_exactly_the_tree() -> None:
    true: dict[str, tuple[str | None, str | None]] = {}
    for name, cls in _classes().items():
        ours = [base.__name__ for base in cls.__bases__ if issubclass(base, CadaEdgeError)]
        others = [base.__name__ for base in cls.__bases__ if not issubclass(base, CadaEdgeError)]
        if name == "CadaEdgeError":
            others = []
        true[name] = (ours[0] if ours else None, others[0] if others else None)
    assert _drawn() == true


def test_a_missing_extra_names_feature_package_and_command() -> None:
    error = MissingExtraError("The OpenVINO backend", "openvino", "cpu")
    assert str(error) == (
        "The OpenVINO backend needs the package 'openvino', which is not installed. "
        "Install it with: pip install 'cada-edge[cpu]'"
    )
    fields: tuple[Any, ...] = (error.feature, error.package, error.extra)
    assert fields == ("The OpenVINO backend", "openvino", "cpu")
