"""What the commands share: options, some made from configuration dataclasses, and the printing of results."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from cada_edge.errors import ConfigError

__all__ = [
    "backend_option",
    "batch_sizes",
    "config_options",
    "format_number",
    "format_parity",
    "given",
    "json_option",
    "layout_option",
    "named_values",
    "print_result",
    "read_bytes",
    "size_hw",
    "threads_option",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "int | None": int, "str | None": str}
_BYTES_OF_UNIT = {
    **{"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40},
    **{"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12},
}


def config_options(
    cls: type, helps: Mapping[str, str], *, notes: Mapping[str, str] | None = None
) -> Callable[[_Command], _Command]:
    """Add one option per named field of a dataclass; a flag that is not given arrives as None.

    Args:
        cls: The dataclass; its annotations give the types, its defaults are shown in the help.
        helps: Field -> help text, in the order of the help page.
        notes: Field -> what follows its default there.
    """
    fields = {item.name: item for item in dataclasses.fields(cls)}

    def decorate(command: _Command) -> _Command:
        for name in reversed(list(helps)):
            item = fields[name]
            default = "none" if item.default is None else str(item.default)
            default += (notes or {}).get(name, "")
            flag = f"--{name.replace('_', '-')}"
            if str(item.type) == "bool":
                off = f"{flag}/--no-{flag.removeprefix('--')}"
                shown = "on" if item.default else "off"
                command = click.option(off, name, default=None, show_default=shown, help=helps[name])(command)
                continue
            option = click.option(
                flag,
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


def named_values(pairs: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE pairs; values are numbers, true, false or texts.

    Raises:
        ConfigError: A pair without a name or an equals sign.

    Example:
        >>> named_values(["tap=neck", "jitter=20.0"])
        {'tap': 'neck', 'jitter': 20.0}
    """
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise ConfigError(f"{pair!r} came; wanted NAME=VALUE, as activation=relu.")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def read_bytes(ctx: click.Context | None, param: click.Parameter | None, text: str | None) -> int | None:
    """Read an amount of memory with its unit: the callback of an option.

    Raises:
        BadParameter: The number or the unit is missing, or the unit is unknown.

    Example:
        >>> read_bytes(None, None, "1.5GiB")
        1610612736
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip().lower())
    if found is None or found[2] not in _BYTES_OF_UNIT:
        raise click.BadParameter(
            f"{text!r} came; wanted a number with its unit, as 512MiB, 2GiB or 1.5GB.", ctx, param
        )
    return int(float(found[1]) * _BYTES_OF_UNIT[found[2]])


def size_hw(text: str) -> tuple[int, int]:
    """Read HEIGHTxWIDTH.

    Raises:
        ConfigError: It is not of that form.

    Example:
        >>> size_hw("1080x1920")
        (1080, 1920)
    """
    found = re.fullmatch(r"(\d+)x(\d+)", text.strip().lower())
    if found is None:
        raise ConfigError(
            f"the size {text!r} came; wanted HEIGHTxWIDTH in pixels, as 1080x1920: 1080 rows of 1920."
        )
    return int(found[1]), int(found[2])


def batch_sizes(text: str) -> tuple[int, int, int]:
    """Read N or MIN,OPT,MAX.

    Raises:
        ConfigError: It is not of that form.

    Example:
        >>> batch_sizes("1,4,8"), batch_sizes("2")
        ((1, 4, 8), (2, 2, 2))
    """
    found = re.fullmatch(r"(\d+)(?:,(\d+),(\d+))?", text.replace(" ", ""))
    if found is None:
        raise ConfigError(
            f"the batch {text!r} came; wanted one number, or MIN,OPT,MAX: smallest, best and largest number "
            "of frames at once. Pass --batch 1, or --batch 1,4,8."
        )
    smallest = int(found[1])
    return smallest, int(found[2] or smallest), int(found[3] or smallest)


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
backend_option = click.option(
    "--backend",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, openvino, onnxruntime or tensorrt (tensorrt+pycuda, tensorrt+cuda-bindings).",
)
threads_option = click.option(
    "--threads", type=int, default=None, show_default="the engine's choice", help="CPU threads."
)
layout_option = click.option(
    "--layout",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, mvtec, visa, visa-mvtec, btad or folder.",
)


def print_result(result: Any, *, as_json: bool, text: Callable[[], str]) -> None:
    """Print a result object: its fields as JSON, or a text for people."""
    if as_json:
        fields = result if isinstance(result, dict) else dataclasses.asdict(result)
        click.echo(json.dumps(fields, indent=2, default=str, allow_nan=False))
    else:
        click.echo(text())


def format_number(value: float | None) -> str:
    """Write a threshold for people."""
    return "none" if value is None else f"{value:.4f}"


def format_parity(parity: Any) -> str:
    """Write parity figures for people, in one line."""
    drift = "" if parity.auroc_drift is None else f", AUROC drift {parity.auroc_drift:.3f} points"
    return (
        f"{parity.images} frames on {parity.backend}: "
        f"largest score difference {parity.max_score_difference:.2g} "
        f"(limit {parity.score_limit:.2g}), largest map difference {parity.max_map_difference:.2g}{drift}"
    )
