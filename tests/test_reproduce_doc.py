"""The commands that docs/reproduce.md shows are ones that the tool takes."""

from __future__ import annotations

import dataclasses
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


def test_the_recipes_are_those_of_the_code() -> None:
    pytest.importorskip("torch", reason="base methods need torch: pip install 'cada-edge[train]'")
    from cada_edge.trainer.base_method import configure, load_base
    from cada_edge.trainer.config import BASES

    lines = TEXT.partition("<!-- recipe -->\n")[2].partition("\n\n")[0].splitlines()
    heads, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert [head.lower() for head in heads] == ["value", *BASES, "source"]
    shown = {name.strip("`"): values for name, *values in rows}
    for column, base in enumerate(BASES):
        config = configure({"base": base, "recipe": "paper"})
        for name, values in shown.items():
            outer, _, inner = name.partition(".")
            value = getattr(config, outer)
            assert values[column] == str(getattr(value, inner) if inner else value), (base, name)
        assert set(load_base(base).RECIPE) <= set(shown)
    assert all(values[-1] for values in shown.values())
    # Everything that the aligner and the smoothing have is among them.
    for outer in ("aligner", "smoothing"):
        fields = {f"{outer}.{item.name}" for item in dataclasses.fields(getattr(config, outer))}
        assert fields <= set(shown)
