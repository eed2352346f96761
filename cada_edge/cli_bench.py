"""The command that measures: latency, throughput or cameras, beside accuracy, with gates."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cada_edge.benchmarks.bench_config import (
    ALWAYS,
    DROP_POLICIES,
    BenchConfig,
    parse_percentiles,
    parse_share,
)
from cada_edge.errors import ConfigError, OutputError
from cada_edge.extras import require_extra
from cada_edge.options import json_option, print_result, size_hw, threads_option

__all__ = ["bench"]

_SUFFIXES = (".json", ".md", ".html", ".png")


@click.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path), metavar="MODEL...")
@click.option(
    "--mode",
    default=BenchConfig.mode,
    show_default=True,
    help="latency (one call at a time), throughput (pipelined) or camera (frames are due at --fps).",
)
@click.option(
    "--fps", type=float, default=BenchConfig.fps, show_default=True, help="Frames a second of each camera."
)
@click.option(
    "--streams",
    type=int,
    default=BenchConfig.streams,
    show_default=True,
    help="Cameras, or sources in throughput.",
)
@click.option(
    "--batch",
    type=int,
    default=None,
    show_default="1; the number of cameras, up to 8",
    help="Most frames in one inference.",
)
@click.option(
    "--source", type=click.Path(path_type=Path), default=None, help="Images, folder or video to show."
)
@click.option(
    "--frame-size",
    default="{}x{}".format(*BenchConfig.frame_hw),
    show_default=True,
    metavar="HxW",
    help="Of drawn frames, where the model does not fix it.",
)
@click.option(
    "--drop",
    type=click.Choice(DROP_POLICIES),
    default=BenchConfig.drop,
    show_default=True,
    help="In camera mode: what becomes of frames that come too fast.",
)
@click.option(
    "--duration",
    type=float,
    default=BenchConfig.duration_s,
    show_default=True,
    help="Measured seconds a model.",
)
@click.option(
    "--warmup", type=float, default=BenchConfig.warmup_s, show_default=True, help="Seconds of calls before."
)
@click.option(
    "--percentiles",
    default=",".join(f"{level:g}" for level in ALWAYS),
    show_default=True,
    help="Shown ones; the record has these always.",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    metavar="NAME",
    show_default="auto",
    help="auto, openvino, onnxruntime or tensorrt; repeat to compare.",
)
@click.option(
    "--data", type=click.Path(path_type=Path), default=None, help="Data set to evaluate the file on."
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    default=None,
    help="With --data: what the file was exported from, or the JSON of its eval, to give the drift.",
)
@click.option("--max-p99", type=float, default=None, metavar="MS", help="Fail above this p99 latency.")
@click.option(
    "--baseline", type=click.Path(path_type=Path), default=None, help="Fail if slower than this record."
)
@click.option("--tolerance", default="5%", show_default=True, help="By which share it may be slower.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Report to write: .json (with raw samples), .md, .html, or .png (its charts); may be given again.",
)
@click.option(
    "--compare",
    type=click.Path(path_type=Path),
    nargs=2,
    default=None,
    metavar="OLD.json NEW.json",
    help="Measure nothing, compare two records.",
)
@threads_option
@json_option
def bench(
    models: tuple[Path, ...],
    *,
    compare: tuple[Path, Path] | None,
    data: Path | None,
    checkpoint: Path | None,
    max_p99: float | None,
    baseline: Path | None,
    tolerance: str,
    out: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Measure MODELs on this machine: percentiles, stages, power and accuracy, in one report.

    Several models, or several --backend, are measured in turns and compared. Exit code 1: a gate failed.
    """
    from cada_edge.benchmarks.bench_compare import read_baseline, read_record, require_like, unlike_config
    from cada_edge.benchmarks.bench_gates import raise_failed
    from cada_edge.benchmarks.bench_run import run_bench
    from cada_edge.benchmarks.bench_text import to_text

    if compare is not None:
        _refuse_beside_compare(models)
        _compare(*map(read_record, compare), as_json=as_json)
        return
    # Everything that can be wrong is found before minutes of measuring.
    share, config = parse_share(tolerance), _config(options)
    older = None if baseline is None else read_baseline(baseline)
    if older is not None:
        require_like(unlike_config(older, config.to_dict()))
    _check(models, out, data=data, checkpoint=checkpoint, max_p99=max_p99)
    interruptions: list[KeyboardInterrupt] = []
    # What was measured in minutes is judged, printed and written, whatever of that goes wrong.
    troubles: list[BaseException] = []
    gates: list[Any] = []
    with _Progress() as progress:
        record = run_bench(
            models,
            config,
            backends=options["backends"],
            source=options["source"],
            progress=progress.tell,
            on_interrupt=interruptions.append,
        )
        if not interruptions:
            with _noted(troubles):
                gates += _judge(record, older, max_p99, share)
            record["gates"] = [gate.to_dict() for gate in gates]
            if data is not None:
                record["accuracy"] = []
                with _noted(troubles):
                    _measure_accuracy(record["accuracy"], models, options, data, checkpoint, progress)
    with _noted(troubles):
        print_result(record, as_json=as_json, text=lambda: to_text(record))
    for path in out:
        with _noted(troubles):
            _write(path, record)
    for trouble in (*interruptions, *troubles):
        raise trouble
    raise_failed(gates)


@contextmanager
def _noted(troubles: list[BaseException]) -> Iterator[None]:
    """Go on after any error, which is raised at the end."""
    try:
        yield
    except BaseException as error:
        troubles.append(error)


def _config(options: dict[str, Any]) -> BenchConfig:
    batch = options["batch"]
    if batch is None:
        batch = min(max(options["streams"], 1), 8) if options["mode"] == "camera" else 1
    return BenchConfig(
        mode=options["mode"],
        fps=options["fps"],
        streams=options["streams"],
        batch=batch,
        duration_s=options["duration"],
        warmup_s=options["warmup"],
        threads=options["threads"],
        percentiles=parse_percentiles(options["percentiles"]),
        drop=options["drop"],
        frame_hw=size_hw(options["frame_size"]),
    )


def _check(
    models: tuple[Path, ...],
    out: tuple[Path, ...],
    *,
    data: Path | None,
    checkpoint: Path | None,
    max_p99: float | None,
) -> None:
    if not models:
        raise ConfigError("No model came; wanted at least one. Pass: cada-edge bench model.onnx")
    for path in out:
        if path.suffix.lower() not in _SUFFIXES:
            raise ConfigError(
                f"--out {path} came; wanted a name ending in {', '.join(_SUFFIXES)}. Pass --out report.html"
            )
        if path.suffix.lower() == ".png":
            require_extra("A picture of the report", "matplotlib", "bench")
        _require_writable(path)
    if checkpoint is not None and data is None:
        raise ConfigError(
            f"--checkpoint {checkpoint} came without --data; wanted the data set that both are evaluated on. "
            "Pass --data DIR as well."
        )
    if data is not None:
        from cada_edge.benchmarks.bench_accuracy import require_checkpoint
        from cada_edge.manifest import Manifest
        from cada_edge.runtime.datasets import index_dataset

        index_dataset(data)
        if checkpoint is not None:
            require_checkpoint(checkpoint, map(Manifest.read, models))
    if max_p99 is not None and not max_p99 > 0:
        raise ConfigError(f"--max-p99 {max_p99} came; wanted a time above 0 ms. Pass --max-p99 33.")


def _require_writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(
            f"--out {path} cannot be written: {error.strerror or error}. Choose a folder that can be "
            "written; nothing was measured."
        ) from error
    if path.is_dir():
        raise OutputError(f"--out {path} is a folder; wanted the name of a file. Nothing was measured.")


def _measure_accuracy(
    found: list[dict[str, Any]],
    models: tuple[Path, ...],
    options: dict[str, Any],
    data: Path,
    checkpoint: Path | None,
    progress: _Progress,
) -> None:
    """Evaluate every model; what is done before an error stays in the list."""
    from cada_edge.benchmarks.bench_accuracy import measure_accuracy

    for model in dict.fromkeys(models):
        for backend in options["backends"] or ("auto",):
            figures = measure_accuracy(
                model,
                data,
                backend=backend,
                threads=options["threads"],
                checkpoint=checkpoint,
                progress=lambda done, total: progress.tell("evaluate", done, total),
            )
            found.append({"file": model.name, "backend": backend, "figures": figures})


def _judge(record: dict[str, Any], older: Any, max_p99: float | None, share: float) -> list[Any]:
    from cada_edge.benchmarks.bench_gates import judge_baseline, judge_max_p99

    gates = [] if max_p99 is None else judge_max_p99(record, max_p99)
    return gates if older is None else [*gates, *judge_baseline(record, older, share)]


def _write(path: Path, record: dict[str, Any]) -> None:
    from cada_edge.files import write_atomic

    write_atomic(path, _content(path.suffix.lower(), record))
    click.echo(f"wrote {path}", err=True)


def _content(suffix: str, record: dict[str, Any]) -> bytes:
    from cada_edge.benchmarks.bench_page import to_html
    from cada_edge.benchmarks.bench_text import to_markdown

    if suffix == ".json":
        return (json.dumps(record, indent=None, separators=(",", ":"), allow_nan=False) + "\n").encode()
    if suffix == ".png":
        from cada_edge.benchmarks.bench_picture import to_picture  # Matplotlib: only where it is asked for

        return to_picture(record)
    return (to_markdown(record) if suffix == ".md" else to_html(record)).encode()


def _refuse_beside_compare(models: tuple[Path, ...]) -> None:
    """Refuse what belongs to measuring: a gate that is not judged would pass for one that held."""
    if models:
        raise ConfigError(
            f"--compare came with {models[0]}; wanted two records and no model. "
            "Pass: cada-edge bench --compare old.json new.json"
        )
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in ("compare", "as_json", "models")
        and context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    ]
    if given:
        raise ConfigError(
            f"--compare came with {', '.join(given)}; wanted two records alone: nothing is measured or "
            "judged. Judge a new measurement with: cada-edge bench MODEL --baseline old.json"
        )


def _compare(old: dict[str, Any], new: dict[str, Any], *, as_json: bool) -> None:
    from cada_edge.benchmarks.bench_text import compare_to_dict, compare_to_text

    print_result(compare_to_dict(old, new), as_json=as_json, text=lambda: compare_to_text(old, new))


class _Progress:
    """One line on stderr; nothing is written while a block runs."""

    def __init__(self) -> None:
        from cada_edge.status_line import StatusLine

        self._line = StatusLine("bench")

    def tell(self, what: str, done: int, total: int) -> None:
        """Show what comes next."""
        self._line.update(what, done, total)

    def __enter__(self) -> _Progress:
        self._line.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._line.__exit__(*error)
