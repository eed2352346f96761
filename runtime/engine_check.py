"""Whether an engine fits this machine, decided from its manifest before the library sees the file.

An engine belongs to one TensorRT version and to the GPUs that it was built for. TensorRT checks that as well,
but some of its versions end the process where they should refuse.
"""

from __future__ import annotations

from pathlib import Path

from cada_edge.engine_build import EngineBuild
from cada_edge.errors import BackendError, CadaEdgeError
from cada_edge.manifest import Manifest
from cada_edge.runtime.cuda_calls import choose_calls
from cada_edge.runtime.cuda_driver import gpus, require_gpu
from cada_edge.runtime.tensorrt_engine import load_tensorrt

__all__ = ["check_gpu", "check_version", "engine_of", "rebuild_command", "why_not"]

_AMPERE = (8, 0)


def engine_of(path: Path) -> EngineBuild:
    """Read how an engine was built from the manifest beside it.

    Raises:
        ModelNotFoundError: There is no such file.
        ManifestError: The manifest is missing or damaged.
        BackendError: The manifest describes no engine.
    """
    manifest = Manifest.read(path)
    if manifest.engine is None:
        raise BackendError(
            f"The manifest of {path} has the format {manifest.format!r}; wanted 'engine'. Build one with: "
            "cada-edge export checkpoint.pt --format engine"
        )
    return manifest.engine


def rebuild_command(path: Path, build: EngineBuild, capability: tuple[int, int] | None = None) -> str:
    """Write the command that builds an engine for this machine.

    Args:
        path: The engine.
        build: How it was built.
        capability: Compute capability of this machine's GPU, where it is known.
    """
    command = f"cada-edge export checkpoint.pt --format engine --target {build.target} --out {path.name}"
    if build.target == "rtx" and capability is not None:
        command += f" --compute-capability {_written(capability)}"
    return command


def check_version(path: Path, build: EngineBuild, version: str) -> None:
    """Hold the library's version against the engine's, part by part as far as both are given.

    Args:
        path: The engine.
        build: How it was built.
        version: Of the module that is to load it, as '10.3.0'.

    Raises:
        BackendError: They differ.
    """
    wanted, got = build.tensorrt_version.split("."), version.split(".")
    # A Jetson's Python module says 10.3.0 where the library is 10.3.0.30.
    if any(one != other for one, other in zip(wanted, got, strict=False)):
        raise BackendError(
            f"The engine {path} was built with {build.target} {build.tensorrt_version}; this machine has "
            f"{version}. Engines belong to one version. Build it anew with: {rebuild_command(path, build)}"
        )


def check_gpu(path: Path, build: EngineBuild, name: str, capability: tuple[int, int]) -> None:
    """Hold the GPU's compute capability against those that the engine was built for.

    Args:
        path: The engine.
        build: How it was built.
        name: Of the GPU, for the message.
        capability: Of the GPU, as (8, 7).

    Raises:
        BackendError: The engine was not built for it.
    """
    if _written(capability) in build.compute_capabilities:
        return
    if build.hardware_compatibility == "ampere+" and capability >= _AMPERE:
        return
    also = " and others from 8.0" if build.hardware_compatibility == "ampere+" else ""
    raise BackendError(
        f"The engine {path} was built for compute capability {', '.join(build.compute_capabilities)}{also}; "
        f"this machine's {name} has {_written(capability)}. "
        f"Build it anew with: {rebuild_command(path, build, capability)}"
    )


def why_not(path: Path) -> CadaEdgeError | None:
    """Tell why this machine does not run an engine, without loading it.

    Args:
        path: The engine; its manifest lies beside it.

    Returns:
        The error that loading would end in, which says what to do; None where nothing is against it.

    Raises:
        ModelNotFoundError: There is no such file.
        ManifestError: The manifest is missing or damaged.
    """
    build = engine_of(path)
    try:
        require_gpu()
        check_version(path, build, str(load_tensorrt(build.target).__version__))
        choose_calls()
        check_gpu(path, build, *gpus()[0])
    except CadaEdgeError as error:
        return error
    return None


def _written(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
