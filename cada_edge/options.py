"""Command-line options made from configuration dataclasses, so that each default is written once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

__all__ = ["config_options", "given"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "int | None": int, "str | None": str}


def config_options(cls: type, helps: Mapping[str, str]) -> Callable[[_Command], _Command]:
    """Add one option per named field of a dataclass; a flag that is not given arrives as None.

    Args:
        cls: The dataclass; its annotations give the types, its defaults are shown in the help.
        helps: Field -> help text, in the order of the help page.
    """
    fields = {item.name: item for item in dataclasses.fields(cls)}

    def decorate(command: _Command) -> _Command:
        for name in reversed(list(helps)):
            item = fields[name]
            default = "none" if item.default is None else str(item.default)
            option = click.option(
                f"--{name.replace('_', '-')}",
                name,
                type=_TYPES[str(item.type)],
                default=None,
                show_default=default,
                help=helps[name],
            )
            command = option(command)
        return command

    return decorate


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in values.items() if value is not None}
