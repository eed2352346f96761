"""The commands that docs/int8.md shows are ones that the tools take; only their files are not here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cada_edge.benchmarks.int8 import main as benchmark
from cada_edge.cli import main
from cada_edge.export.calibration_images import FEWEST_IMAGES
from cada_edge.export.quantize import SMALLEST_SHARE
from cada_edge.export.to_int8 import WORTHWHILE, Int8Config

TEXT = (Path(__file__).parent.parent / "docs" / "int8.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ cada-edge (.+)$", TEXT, re.MULTILINE)
BENCHMARKS = re.findall(r"^\$ python -m cada_edge.benchmarks.int8 (.+)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith("demo")])
def test_commands_end_for_want_of_a_file_and_for_nothing_else(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, shlex.split(command))
    # 3: no such model or checkpoint. 5: a library is not installed here.
    assert result.exit_code in (3, 5), result.output
    missing = r"There is no|no checkpoint at|needs the package '(onnx|tensorrt-rtx|torch)'"
    assert re.search(missing, result.stderr), result.output


def test_the_benchmark_takes_its_options() -> None:
    assert len(BENCHMARKS) == 1
    context = benchmark.make_context("int8", shlex.split(BENCHMARKS[0]))
    assert context.params["least"] == 2.5
    demo = next(command for command in COMMANDS if command.startswith("demo"))
    folder = Path(main.commands["demo"].make_context("demo", shlex.split(demo)[1:]).params["out"])
    assert [folder / "model.onnx", folder / "line"] == [context.params["model"], context.params["data"]]


def test_figures_are_those_of_the_code() -> None:
    assert f"{Int8Config.calibration_images} of them are used" in TEXT
    assert f"at least {FEWEST_IMAGES})" in TEXT
    assert f"warns below {WORTHWHILE}." in TEXT
    assert SMALLEST_SHARE == 0.5
    assert "less than half of the multiplications" in TEXT
    options = {flag for param in main.commands["export"].params for flag in param.opts}
    assert {"--calibration", "--calibration-images", "--precision"} <= options
    assert isinstance(main.commands["export"], click.Command)


def test_it_says_what_was_not_executed() -> None:
    assert "**has not been run on a GPU by us yet**" in TEXT
