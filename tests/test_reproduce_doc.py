"""The commands that docs/reproduce.md shows are ones that the tool takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cada_edge.benchmarks.paper import load_datasets, load_tables
from cada_edge.cli_reproduce import reproduce

TEXT = (Path(__file__).parent.parent / "docs" / "reproduce.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ cada-edge reproduce (.+)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_fit_the_tables(command: str) -> None:
    values = reproduce.make_context("reproduce", shlex.split(command)).params
    table = load_tables()[values["table"]]
    assert len(values["data"]) == len(table.datasets)
    assert {name for name in values["rows"].split(",") if name} <= {row.name for row in table.rows}
    assert set(values["bases"]) <= {row.method.base for row in table.rows if row.method is not None}


def test_every_table_has_its_command_and_its_data_sets() -> None:
    shown = {int(number) for command in COMMANDS for number in re.findall(r"--table (\d)", command)}
    assert shown == set(load_tables())
    for number, table in load_tables().items():
        titles = ", ".join(load_datasets()[name].title.removesuffix(" (noisy)") for name in table.datasets)
        assert f"| {number} | {titles} |" in TEXT
