"""What docs/bench.md shows is what the tool does: its commands, modes, options and numbers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from cada_edge.benchmarks.bench_blocks import STAGES
from cada_edge.benchmarks.bench_config import ALWAYS, MODES, BenchConfig
from cada_edge.benchmarks.bench_stats import samples_needed
from cada_edge.cli import main

TEXT = (Path(__file__).parent.parent / "docs" / "bench.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ cada-edge (.+)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_end_for_want_of_a_file_and_for_nothing_else(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # A data set is looked at before the model is loaded: here it is the model that is missing.
    for part in ("normal/a", "test_normal/b", "anomalous/c"):
        (tmp_path / "parts" / part).parent.mkdir(parents=True)
        assert cv2.imwrite(str(tmp_path / "parts" / f"{part}.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "runs/line").mkdir(parents=True)
    (tmp_path / "runs/line/checkpoint.pt").touch()
    result = CliRunner().invoke(main, shlex.split(command))
    record = "--baseline" in command or "--compare" in command
    assert result.exit_code == (2 if record else 3), result.output
    missing = "The record report.json cannot be read" if record else "There is no model file at"
    assert missing in result.stderr


def test_every_mode_and_every_option_is_shown_and_exists() -> None:
    known = {flag for param in main.commands["bench"].params for flag in param.opts if flag.startswith("--")}
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", TEXT))
    assert shown - known == set()
    assert known - shown <= {"--percentiles"}
    assert all(f"| `{mode}` |" in TEXT for mode in MODES)


def test_numbers_and_names_are_the_codes() -> None:
    text = " ".join(TEXT.split())
    assert f"it needs {samples_needed(99)} samples" in text
    assert "x".join(map(str, BenchConfig().frame_hw)) in text
    assert all(f"p{level:g}" in text for level in ALWAYS)
    assert all(stage.replace("_", "-") in text for stage in STAGES)


def test_it_says_what_was_not_executed() -> None:
    assert "no GPU and no Jetson has been at hand yet" in " ".join(TEXT.split())
