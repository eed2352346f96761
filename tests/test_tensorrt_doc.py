"""The commands that docs/tensorrt.md shows are ones that the tool takes; only their files are not here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from cada_edge.benchmarks import gpu_check
from cada_edge.cli import main
from cada_edge.engine_build import HARDWARE_COMPATIBILITY, TARGETS

TEXT = (Path(__file__).parent.parent / "docs" / "tensorrt.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ cada-edge (.+)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_end_for_want_of_a_file_and_for_nothing_else(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, shlex.split(command))
    if command == "doctor":
        assert result.exit_code == 0
        return
    # 3: no such model or checkpoint. 5: the library, or PyTorch, is not installed here.
    assert result.exit_code in (3, 5), result.output
    missing = r"There is no|no checkpoint at|needs the package '(tensorrt|tensorrt-rtx|torch)'"
    assert re.search(missing, result.stderr), result.output


def test_what_is_shown_exists() -> None:
    commands = [*main.commands.values(), gpu_check.main]
    known = {flag for command in commands for param in command.params for flag in param.opts}
    of_others = {"--system-site-packages", "--durations"}
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) - of_others
    assert shown <= known
    of_engines = {
        "--target",
        "--batch",
        "--workspace",
        "--timing-cache",
        "--opt-level",
        "--compute-capability",
    }
    assert of_engines | {"--hardware-compat", "--accept-warning", "--frame-size", "--precision"} <= shown
    assert all(f"--target {target}" in TEXT for target in TARGETS)
    assert all(f"--hardware-compat {level}" in TEXT for level in HARDWARE_COMPATIBILITY if level != "none")


def test_it_has_every_way_and_says_what_travels() -> None:
    for part in (
        "JetPack 6 or 7",
        "An RTX box, built ahead",
        "A box with full TensorRT",
        "What travels and what",
    ):
        assert re.search(rf"^## .*{part}", TEXT, re.MULTILINE), part
    assert "python -m cada_edge.benchmarks.gpu_check" in TEXT


def test_it_says_what_was_not_executed() -> None:
    assert "No engine has been run on a GPU by us yet" in TEXT
