"""The command export: a checkpoint, or an ONNX file of ours, to what runs on the box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cada_edge.cli_quantize import onnx_text
from cada_edge.engine_build import HARDWARE_COMPATIBILITY, TARGETS
from cada_edge.errors import ConfigError
from cada_edge.extras import require_extra
from cada_edge.options import (
    batch_sizes,
    format_number,
    format_parity,
    given,
    json_option,
    layout_option,
    print_result,
    size_hw,
)
from cada_edge.status_line import StatusLine

__all__ = ["export"]

_ENGINE_OPTIONS = {
    "target": "--target",
    "batch": "--batch",
    "workspace_gib": "--workspace",
    "timing_cache": "--timing-cache",
    "optimization_level": "--opt-level",
    "compute_capabilities": "--compute-capability",
    "hardware_compatibility": "--hardware-compat",
    "accepted_warnings": "--accept-warning",
}
"""Field of `EngineConfig` -> the option that sets it."""


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["onnx", "engine", "triton"]),
    default="onnx",
    show_default=True,
    help="Kind of file.",
)
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    default=None,
    show_default="model.onnx, model.engine or repository",
    help="File to write; for Triton the model repository, a folder.",
)
@click.option(
    "--precision",
    default=None,
    show_default="fp32; for an engine fp16, or what the ONNX file has",
    help="Of the networks: fp32, fp16 or int8.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="int8: good parts, or a data set in any layout, that the ranges of the 8 bits are taken from.",
)
@click.option(
    "--calibration-images",
    type=int,
    default=None,
    metavar="N",
    show_default="64",
    help="int8: images to use, chosen evenly.",
)
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Engine of the parity check on the CPU.",
)
@click.option(
    "--alignment", default=None, show_default="the checkpoint's own", help="'none' leaves the alignment out."
)
@click.option(
    "--frame-size",
    default=None,
    metavar="HxW",
    show_default="frames of any size, resized on the CPU",
    help="The camera's resolution, as 1080x1920: frames go in as they are, the graph resizes (for GPUs).",
)
@click.option(
    "--data", type=click.Path(path_type=Path), default=None, help="Data set to measure the AUROC drift on."
)
@layout_option
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default=None,
    show_default="tensorrt",
    help="Engine: library to build for.",
)
@click.option(
    "--batch",
    default=None,
    metavar="N|MIN,OPT,MAX",
    show_default="1",
    help="Engine: frames at once, always N, or from MIN to MAX and fastest with OPT.",
)
@click.option(
    "--workspace",
    "workspace_gib",
    type=float,
    default=None,
    metavar="GIB",
    show_default="no limit",
    help="Engine: most scratch memory on the GPU.",
)
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Engine for tensorrt: keeps measurements, so that the next build is faster.",
)
@click.option(
    "--opt-level",
    "optimization_level",
    type=int,
    default=None,
    metavar="0-5",
    show_default="the library's own",
    help="Engine: how long the library searches for fast kernels.",
)
@click.option(
    "--compute-capability",
    "compute_capabilities",
    default=None,
    metavar="LIST",
    show_default="this machine's GPU",
    help="Engine for rtx: GPUs to build for, as 8.6,8.9,12.0.",
)
@click.option(
    "--hardware-compat",
    "hardware_compatibility",
    type=click.Choice(HARDWARE_COMPATIBILITY),
    default=None,
    show_default="none",
    help="Engine for tensorrt: other GPUs that it is to run on.",
)
@click.option(
    "--accept-warning",
    "accepted_warnings",
    multiple=True,
    metavar="TEXT",
    help="Engine: part of a parser's warning that is known to be harmless; may be given again.",
)
@click.option(
    "--model-name", default=None, show_default="cada_edge", help="Triton: of the model in the repository."
)
@click.option(
    "--max-batch",
    type=int,
    default=None,
    show_default="16, or an engine's own",
    help="Triton: frames at once.",
)
@json_option
def export(
    source: Path,
    file_format: str,
    out: Path | None,
    precision: str | None,
    calibration: Path | None,
    calibration_images: int | None,
    backend: str,
    alignment: str | None,
    frame_size: str | None,
    data: Path | None,
    layout: str,
    as_json: bool,
    model_name: str | None,
    max_batch: int | None,
    **engine_options: Any,
) -> None:
    """Export SOURCE to one file with everything fused in, and check it against PyTorch.

    SOURCE is a checkpoint; for an engine, or with --precision int8, also an ONNX file of an earlier export,
    which takes no PyTorch; for a Triton repository also an ONNX file or an engine, which is copied.
    """
    quantizing = given({"calibration": calibration, "calibration_images": calibration_images})
    if "calibration_images" in quantizing and calibration is None:
        raise ConfigError(
            f"--calibration-images {calibration_images} came without --calibration; wanted the folder they "
            "are in. Pass --precision int8 --calibration DIR."
        )
    asked = {name: value for name, value in given(engine_options).items() if value != ()}
    triton = given({"--model-name": model_name, "--max-batch": max_batch})
    _refuse_elsewhere(
        "engine", file_format, [flag for name, flag in _ENGINE_OPTIONS.items() if name in asked]
    )
    _refuse_elsewhere("triton", file_format, list(triton))
    if file_format == "triton":
        from cada_edge.cli_triton import export_to_triton

        export_to_triton(
            source,
            out or Path("repository"),
            model_name=model_name,
            max_batch=max_batch,
            precision=precision or "fp32",
            quantizing=quantizing,
            backend=backend,
            alignment=alignment,
            frame_size=frame_size,
            data=data,
            layout=layout,
            as_json=as_json,
        )
        return
    is_onnx = source.suffix.lower() == ".onnx"
    if file_format == "onnx" and is_onnx and precision != "int8":
        raise ConfigError(
            f"{source} came with --format onnx; wanted a checkpoint. To build an engine from an ONNX file, "
            "pass --format engine; to quantise it, --precision int8 --calibration DIR."
        )
    if not is_onnx:
        require_extra("Exporting", "torch", "train")
    from cada_edge.runtime.datasets import index_dataset

    common: dict[str, Any] = {
        "backend": backend,
        "alignment": alignment,
        "frame_hw": None if frame_size is None else size_hw(frame_size),
        **quantizing,
    }
    index = None if data is None else index_dataset(data, layout=layout)
    if file_format == "engine":
        from cada_edge.export.engine_config import EngineConfig
        from cada_edge.export.to_engine import export_engine

        if "batch" in asked:
            asked["batch"] = batch_sizes(asked["batch"])
        if "compute_capabilities" in asked:
            asked["compute_capabilities"] = tuple(asked["compute_capabilities"].replace(" ", "").split(","))
        config = EngineConfig(precision=precision, **common, **asked)
        with StatusLine("build") as line:
            built = export_engine(
                source, out or Path("model.engine"), config, data=index, progress=line.update
            )
        print_result(built, as_json=as_json, text=lambda: _engine_text(built))
        return
    out = out or Path("model.onnx")
    with StatusLine("quantise") as line:
        if is_onnx:
            from cada_edge.cli_quantize import quantize

            result = quantize(source, out, common, data=index, progress=line.update)
        else:
            from cada_edge.export.to_onnx import ExportConfig, export_onnx

            if precision is not None:
                common["precision"] = precision
            result = export_onnx(source, out, ExportConfig(**common), data=index, progress=line.update)
    print_result(result, as_json=as_json, text=lambda: onnx_text(result))


def _refuse_elsewhere(wanted: str, came: str, options: list[str]) -> None:
    """Refuse options of one format with another."""
    if options and came != wanted:
        raise ConfigError(
            f"{' and '.join(options)} came with --format {came}; wanted it with --format {wanted} only. "
            f"Leave it out, or pass --format {wanted}."
        )


def _engine_text(result: Any) -> str:
    build = result.engine
    kinds = "layers" if build.precision_from == "inspector" else "products"
    share = f"{build.half_share:.0%} of its {kinds} in half precision"
    if build.int8_share:
        share = f"{build.int8_share:.0%} of its {kinds} in INT8"
    lines = [
        f"model      {result.model}",
        f"manifest   {result.manifest}",
        f"reference  {result.reference}",
        f"built for  {build.target} {build.tensorrt_version}, compute capability "
        f"{', '.join(build.compute_capabilities)}, batch {','.join(map(str, build.batch))}",
        f"built in   {result.build_s:.1f} s",
        f"precision  {result.precision}, {share}, by its {build.precision_from}",
        f"parity     {format_parity(result.parity)}",
        f"threshold  {format_number(result.threshold)}",
    ]
    if not build.executed:
        lines.append(
            "note       The engine was not run: its graph was. On the box run: cada-edge verify "
            f"{result.model.name}"
        )
    return "\n".join(lines)
