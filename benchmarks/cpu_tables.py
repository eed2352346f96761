"""The CPU tables of RESULTS.md: ``python -m cada_edge.benchmarks.cpu_tables --out FOLDER``.

Every cell is measured once and kept in the folder, so a run that was stopped goes on where it was; delete a
cell's file, or pass --again, to measure it anew. What is compared is measured in turns.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from cada_edge.benchmarks.bench_config import BenchConfig
from cada_edge.benchmarks.bench_frames import draw_frames
from cada_edge.benchmarks.bench_machine import machine_lines
from cada_edge.benchmarks.bench_run import run_bench
from cada_edge.benchmarks.bench_tables import TextTable
from cada_edge.benchmarks.bench_text import piped
from cada_edge.benchmarks.cpu_models import ARCHITECTURES, Architecture, export_architecture
from cada_edge.benchmarks.machine import describe_machine
from cada_edge.benchmarks.overhead import measure_calls, measure_import_s, measure_memory_mib
from cada_edge.files import write_atomic
from cada_edge.runtime.detector import Detector

__all__ = ["cells", "main", "tables"]

_ENGINES = ("onnxruntime", "openvino")
_BATCHES = (1, 8)
_ALIGNED = ("RevDist-resnet18", "RevDist-WRN50")
"""Architectures whose alignment is weighed."""
_ALIGNER_GOAL = 1.02
_FEWEST_PAIRS = 20

Cell = Callable[[], dict[str, Any]]


def cells(work: Path, *, duration_s: float, warmup_s: float, threads: int | None) -> dict[str, Cell]:
    """Return every cell by its name, as a function that measures it.

    Args:
        work: Folder of the models.
        duration_s: Measured time of each model in a cell.
        warmup_s: Of each before it.
        threads: CPU threads; None for the engines' own choice.
    """
    found: dict[str, Cell] = {}
    for architecture in ARCHITECTURES:
        for batch in _BATCHES:
            config = BenchConfig(duration_s=duration_s, warmup_s=warmup_s, threads=threads, batch=batch)
            found[f"latency-{architecture.name}-{batch}"] = _latency(architecture, work, config)
        for engine in _ENGINES:
            name = f"overhead-{architecture.name}-{engine}"
            found[name] = _overhead(architecture, work, engine, duration_s, threads)
    config = BenchConfig(duration_s=2 * duration_s, warmup_s=warmup_s, threads=threads)
    for architecture in ARCHITECTURES:
        if architecture.name in _ALIGNED:
            for engine in _ENGINES:
                found[f"aligner-{architecture.name}-{engine}"] = _aligner(architecture, work, engine, config)
    found["process"] = lambda: _process(work)
    return found


def _latency(architecture: Architecture, work: Path, config: BenchConfig) -> Cell:
    return lambda: run_bench([export_architecture(architecture, work)], config, backends=_ENGINES)


def _aligner(architecture: Architecture, work: Path, engine: str, config: BenchConfig) -> Cell:
    def measure() -> dict[str, Any]:
        models = [export_architecture(architecture, work, alignment=name) for name in ("none", "cada")]
        return run_bench(models, config, backends=(engine,))

    return measure


def _overhead(
    architecture: Architecture, work: Path, engine: str, duration_s: float, threads: int | None
) -> Cell:
    def measure() -> dict[str, Any]:
        calls = []
        with Detector(export_architecture(architecture, work), backend=engine, threads=threads) as detector:
            for size_hw in (detector.size_hw, (720, 1280)):
                frames = draw_frames(size_hw).images
                detector(frames[0])
                started = time.perf_counter()
                detector(frames[1])
                call_s = time.perf_counter() - started
                pairs = max(_FEWEST_PAIRS, round(duration_s / (2 * call_s)))
                figures = measure_calls(detector, frames, pairs=pairs)
                calls.append({**dataclasses.asdict(figures), "within_limit": figures.within_limit})
            return {"engine": detector.backend, "calls": calls, **_circumstances(threads)}

    return measure


def _circumstances(threads: int | None) -> dict[str, Any]:
    """Return what a record of `run_bench` has too, to tell cells of different measurements apart."""
    return {"machine": describe_machine(), "config": {"threads": threads}}


def _process(work: Path) -> dict[str, Any]:
    model = export_architecture(ARCHITECTURES[0], work)
    size_hw = (ARCHITECTURES[0].size, ARCHITECTURES[0].size)
    return {
        "import_s": measure_import_s(),
        "memory_mib": {engine: measure_memory_mib(model, engine, size_hw) for engine in _ENGINES},
        **_circumstances(None),
    }


def tables(found: dict[str, dict[str, Any]]) -> list[TextTable]:
    """Return the tables of the cells that have been measured.

    Args:
        found: Name of a cell -> what it gave.
    """
    made = [_latency_table(found), _overhead_table(found), _aligner_table(found), _process_table(found)]
    return [table for table in made if table.rows]


def _latency_table(found: dict[str, dict[str, Any]]) -> TextTable:
    rows = []
    for architecture in ARCHITECTURES:
        for batch in _BATCHES:
            record = found.get(f"latency-{architecture.name}-{batch}")
            if record is None:
                continue
            for subject in record["subjects"]:
                latency = subject["latency_ms"]
                low, high = latency["p99_interval"]
                height, width = subject["model"]["input_hw"]
                rows.append(
                    [
                        architecture.name,
                        f"{width}x{height}",
                        subject["model"]["engine"],
                        str(batch),
                        f"{latency['p50']:.1f}",
                        f"{latency['p99']:.1f}",
                        f"{_or_unknown(low)} to {_or_unknown(high)}",
                        f"{latency['max']:.1f}",
                        f"{subject['images_per_second']:.1f}",
                        str(latency["n"]),
                    ]
                )
            ratio = record["ratios"][0]
            rows.append(["", "", "OpenVINO / ONNX Runtime", str(batch), _ratio(ratio), *[""] * 5])
    heads = ["model, fp32", "input", "engine", "batch"]
    heads += ["p50 ms", "p99 ms", "its 95 % interval", "max ms", "images/s", "n"]
    return TextTable("Latency on a CPU, 720p frame to verdict, closed loop", heads, rows, [])


def _or_unknown(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f}"


def _overhead_table(found: dict[str, dict[str, Any]]) -> TextTable:
    rows = []
    for architecture in ARCHITECTURES:
        for engine in _ENGINES:
            record = found.get(f"overhead-{architecture.name}-{engine}", {})
            for call in record.get("calls", []):
                height, width = call["frame_hw"]
                rows.append(
                    [
                        f"{architecture.name}, {record['engine']}",
                        f"{width}x{height}",
                        f"{call['bare_p50_ms']:.2f}",
                        f"{call['detector_p50_ms']:.2f}",
                        f"{call['overhead_ms']:+.2f}",
                        f"x{call['ratio']:.3f}",
                        "yes" if call["within_limit"] else "NO",
                        str(call["pairs"]),
                    ]
                )
    heads = [
        "model",
        "frame",
        "bare p50 ms",
        "Detector p50 ms",
        "difference",
        "ratio",
        "<= 3 % or 0.3 ms",
        "pairs",
    ]
    return TextTable("What the Detector adds to the bare engine call, in pairs", heads, rows, [])


def _aligner_table(found: dict[str, dict[str, Any]]) -> TextTable:
    rows = []
    for name in _ALIGNED:
        for engine in _ENGINES:
            record = found.get(f"aligner-{name}-{engine}")
            if record is None:
                continue
            ratio = record["ratios"][0]
            plain, aligned = (subject["latency_ms"]["p50"] for subject in record["subjects"])
            verdict = "yes" if ratio["median"] <= _ALIGNER_GOAL else "NO"
            rows.append([f"{name}, {engine}", f"{plain:.2f}", f"{aligned:.2f}", _ratio(ratio), verdict])
    heads = ["model", "none, p50 ms", "cada, p50 ms", "cada / none", "<= 1.02"]
    return TextTable("What the alignment costs, 1x1 regressor, batch 1", heads, rows, [])


def _ratio(ratio: dict[str, Any]) -> str:
    median, pairs = f"x{ratio['median']:.3f}", f"{ratio['pairs']} pairs"
    if ratio["low"] is None:
        return f"{median} ({ratio['minimum']:.3f} to {ratio['maximum']:.3f}, {pairs})"
    return f"{median} (95 %: {ratio['low']:.3f} to {ratio['high']:.3f}, {pairs})"


def _process_table(found: dict[str, dict[str, Any]]) -> TextTable:
    record = found.get("process")
    rows: list[list[str]] = []
    if record is not None:
        for name, seconds in record["import_s"].items():
            rows.append([name, f"{seconds:.3f} s", "0.25 s" if name == "import cada_edge" else ""])
        for engine, memory in record["memory_mib"].items():
            for key, frames in (("difference", "model's size"), ("difference_720p", "720p")):
                text = f"warmed Detector minus bare session, {engine}, frames of {frames}"
                rows.append([text, f"{memory[key]:+.0f} MiB", "60 MB"])
    return TextTable("Import and memory, fresh processes", ["", "measured", "goal"], rows, [])


def _kept(work: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    files = {name: work / f"{name}.json" for name in names}
    return {name: json.loads(file.read_text("utf-8")) for name, file in files.items() if file.is_file()}


def _origin(record: dict[str, Any]) -> str:
    """Say where and with what a cell was measured, as far as it makes a difference."""
    machine = record["machine"]
    packages = ", ".join(f"{name} {machine['packages'].get(name)}" for name in ("numpy", *_ENGINES))
    threads = record["config"]["threads"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {packages}, "
        f"{'as many threads as the engines choose' if threads is None else f'{threads} threads'}, "
        f"commit {(machine['commit'] or 'unknown')[:7]}"
    )


def _markdown(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    for table in tables(found):
        yield from ["", f"### {table.title}", "", *piped(table)]
    records = [record for record in found.values() if "machine" in record]
    if not records:
        return
    yield from ["", "Weights are random, of one training step: they do not change what is computed.", ""]
    measured = [record for record in records if "load" in record["machine"]]
    if measured:
        for name, value in machine_lines(measured[-1]["machine"]):
            yield f"* {name}: {value}"
    origins = {_origin(record) for record in records}
    if len(origins) > 1:
        yield f"* warning: these are cells of {len(origins)} measurements; the machine above is that of one:"
        yield from (f"  * {origin}" for origin in sorted(origins))
    doubts = dict.fromkeys(f"{text}" for record in measured for text in record["warnings"])
    yield from (f"* warning: {text}" for text in doubts)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of models and cells.")
@click.option(
    "--duration", type=float, default=8.0, show_default=True, help="Measured seconds a model and cell."
)
@click.option("--warmup", type=float, default=1.0, show_default=True, help="Seconds of calls before.")
@click.option("--threads", type=int, default=None, show_default="the engines' choice", help="CPU threads.")
@click.option("--only", multiple=True, metavar="NAME", help="A cell, or a part of its name.")
@click.option("--again", is_flag=True, help="Measure cells anew that are kept.")
def main(
    out: Path, duration: float, warmup: float, threads: int | None, only: tuple[str, ...], again: bool
) -> None:
    """Measure every cell that is not there yet, and print the tables as Markdown."""
    known = cells(out, duration_s=duration, warmup_s=warmup, threads=threads)
    names = [name for name in known if not only or any(part in name for part in only)]
    if not names:
        raise click.UsageError(f"--only {', '.join(only)} names no cell; there are {', '.join(known)}.")
    for number, name in enumerate(names, 1):
        file = out / f"{name}.json"
        if again or not file.is_file():
            started = time.perf_counter()
            write_atomic(file, json.dumps(known[name]()).encode())
            took = f"{time.perf_counter() - started:.0f} s"
        else:
            took = "kept"
        click.echo(f"{number}/{len(names)} {name}: {took}", err=True)
    text = "\n".join(_markdown(_kept(out, list(known)))).strip() + "\n"
    write_atomic(out / "cpu.md", text.encode())
    click.echo(text, nl=False)


if __name__ == "__main__":
    main()
