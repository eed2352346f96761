"""What docs/streaming.md says is held to the tool: its code runs, its commands and lists are the code's."""

from __future__ import annotations

import re
import shlex
import sqlite3
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from cada_edge import errors
from cada_edge.cli import main
from cada_edge.runtime.frame_buffer import DropPolicy
from cada_edge.runtime.live_source import Reconnect
from cada_edge.runtime.record import Record
from cada_edge.runtime.stream_events import EventKind

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "streaming.md").read_text(encoding="utf-8")
JOINED = TEXT.replace("\\\n", " ")
COMMANDS = re.findall(r"^\$ cada-edge (.+)$", JOINED, re.MULTILINE)


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found.group(1)


def first_cells(text: str) -> set[str]:
    """Names in backticks in the first column of a section's tables."""
    return {
        name
        for row in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", row)
    }


def block(kind: str) -> str:
    found = re.search(rf"<!-- runs: {kind} -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_code_runs_and_the_query_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import runpy

    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "tests" / "runtime" / "conftest.py"))["_write_tiny_model"](
        tmp_path / "model.onnx"
    )
    for name, value in (("left", 20), ("right", 230)):
        writer = cv2.VideoWriter(f"{name}.avi", cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (32, 32))
        for _ in range(4):
            writer.write(np.full((32, 32, 3), value, np.uint8))
        writer.release()
    exec(compile(block("run"), "docs/streaming.md", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out.splitlines()
    assert printed.count("8 0") == 1
    assert [line for line in printed if line.startswith("reject")] == [
        f"reject right.avi {i}" for i in range(4)
    ]
    _, database, query = shlex.split(block("query").removeprefix("$ "))
    connection = sqlite3.connect(database)
    assert connection.execute(query).fetchall() == [("left.avi", 4, 0, 0), ("right.avi", 4, 4, 0)]
    connection.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_end_for_want_of_a_model_and_for_nothing_else(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, shlex.split(command))
    assert result.exit_code == errors.ModelNotFoundError.exit_code, result.output
    assert "There is no" in result.stderr


def test_options_that_are_named_exist() -> None:
    known = {flag for command in main.commands.values() for param in command.params for flag in param.opts}
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) - {"--system-site-packages", "--minutes"}
    assert shown <= known
    of_predict = {flag for param in main.commands["predict"].params for flag in param.opts}
    kept = {
        "--record",
        "--save",
        "--save-rejects",
        "--rejects-limit",
        "--save-video",
        "--drop",
        "--queue",
        "--batch",
    }
    assert kept | {"--batch-timeout", "--reconnect-limit", "--stall-timeout"} <= shown & of_predict


def test_tests_and_files_that_are_named_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", section("Guarantees"))
    assert len(named) >= 15
    for file, function in named:
        assert re.search(rf"^def {function}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), (
            function
        )
    for link in re.findall(r"\]\((\.\./[^)]+)\)", TEXT):
        assert (ROOT / "docs" / link).exists()
    for module in re.findall(r"python -m cada_edge\.(\w+)\.(\w+)", TEXT):
        assert (ROOT / module[0] / f"{module[1]}.py").exists()


def test_lists_are_whole() -> None:
    assert first_cells(section("Events")) == set(get_args(EventKind))
    policies = {name for name in first_cells(section("Sources")) if name in get_args(DropPolicy)}
    assert policies == set(get_args(DropPolicy))
    assert first_cells(section("What is kept")) == set(Record.columns())


def test_figures_are_the_codes() -> None:
    from cada_edge.runtime.inspection_log import _PICTURES
    from cada_edge.runtime.picture_sinks import _SPARE_BYTES

    assert "from 0.5 to 30 s" in TEXT
    assert (Reconnect.first_delay_s, Reconnect.longest_delay_s) == (0.5, 30.0)
    assert f"up to {_PICTURES} wait" in TEXT
    assert f"the last {_SPARE_BYTES >> 20} MiB" in TEXT
    codes = section("What is kept").partition("Exit codes of `predict`:")[2]
    assert re.findall(r"(?:^|; ) ?(\d+) ", codes) == ["0", "2", "3", "4", "5", "130"]
    assert errors.SourceLostError.exit_code == 4
    assert errors.MissingExtraError.exit_code == 5
