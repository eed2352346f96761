"""The command that sets our figures beside the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cada_edge.errors import ConfigError, TrainingError
from cada_edge.extras import require_extra
from cada_edge.options import given, json_option, print_result

__all__ = ["reproduce"]


@click.command()
@click.option("--table", type=int, required=True, help="Of the paper: 1 to 5.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Folder of a data set of the table; repeat for several.",
)
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("runs/reproduce"),
    show_default=True,
    help="Folder of the runs, shared by all tables; what is finished there is not run again.",
)
@click.option("--rows", default="", help="Comma-separated names of rows.", show_default="all")
@click.option("--base", "bases", multiple=True, help="Base method; repeat for several.", show_default="all")
@click.option("--seeds", default="0", show_default=True, help="Comma-separated.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=None,
    help="YAML file of values in place of the recipe's.",
)
@click.option("--encoder-weights", default=None, help="A .safetensors or .pth file for the encoder.")
@click.option(
    "--iterations", type=int, default=None, show_default="the recipe's", help="Steps of the base method."
)
@click.option(
    "--aligner-iterations",
    type=int,
    default=None,
    show_default="the recipe's",
    help="Steps of the regressor.",
)
@json_option
def reproduce(
    table: int,
    data: tuple[Path, ...],
    out: Path,
    rows: str,
    bases: tuple[str, ...],
    seeds: str,
    device: str,
    config_file: Path | None,
    aligner_iterations: int | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Train and evaluate what a TABLE of the paper shows, and print our figures beside its own."""
    for package in ("torch", "matplotlib"):
        require_extra("Reproducing a table", package, "train")
    from cada_edge.benchmarks.reproduce import reproduce as run
    from cada_edge.trainer.config import load_yaml
    from cada_edge.trainer.progress import ProgressBars

    overrides = {**({} if config_file is None else load_yaml(config_file)), **given(values)}
    # An aligner that is no mapping is left to the configuration, which names it.
    if aligner_iterations is not None and isinstance(overrides.get("aligner", {}), dict):
        overrides["aligner"] = {**overrides.get("aligner", {}), "iterations": aligner_iterations}
    with ProgressBars(images_per_step=16) as bars:
        result = run(
            table,
            data,
            out,
            rows=[name for name in rows.split(",") if name],
            bases=bases,
            seeds=_numbers(seeds),
            device=device,
            overrides=overrides,
            progress=bars.update,
            announce=lambda line: click.echo(line, err=True),
        )
    print_result(result.to_dict(), as_json=as_json, text=result.to_text)
    if result.failed:
        raise TrainingError(
            f"{len(result.failed)} rows have no figures because their training failed: "
            f"{', '.join(result.failed)}; wanted all of them. The reasons stand below the table."
        )


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r} came; wanted whole numbers with commas, as 0,1,2.") from error
