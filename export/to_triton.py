"""A Triton model repository: the fused model, its config and its manifest, for a server of many cameras.

::

    repository/cada_edge/config.pbtxt
                         1/model.onnx            or model.engine
                           model.onnx.json       the manifest, for `cada-edge verify` and the like
                           model.reference.npz

A later export adds the next version beside it, which Triton then serves (its default policy is the newest),
and leaves config.pbtxt as it is: somebody may have set its instance groups.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cada_edge.errors import CadaEdgeError, ConfigError, ModelMismatchError, OutputError
from cada_edge.export.triton_config import MODEL_FILES, frame_size, model_config, text_format
from cada_edge.files import sha256_file, write_atomic
from cada_edge.manifest import Manifest, manifest_path

if TYPE_CHECKING:
    from cada_edge.export.to_onnx import ExportConfig
    from cada_edge.runtime.datasets import DatasetIndex

__all__ = ["CONFIG_FILE", "TritonConfig", "TritonResult", "export_triton"]

_log = logging.getLogger(__name__)

CONFIG_FILE = "config.pbtxt"
"""Name of the config in the model's folder."""

_REFERENCE_FILE = "model.reference.npz"

_ONNX_BATCH = 16
"""Most frames of a batch of an ONNX file, which itself sets no limit."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

_VERSION = re.compile(r"[1-9][0-9]*")
"""Triton ignores other folders, and numbers that begin with 0."""


@dataclass(frozen=True)
class TritonConfig:
    """How the model is served."""

    name: str = "cada_edge"
    """Of the model: its folder in the repository, and what clients ask for."""
    max_batch: int | None = None
    """Most frames of a batch; None: 16, or what an engine was built for."""
    queue_delay_us: int = 2000
    """How long a frame may wait for others to share its batch, in microseconds; 0: not at all."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"the model name {self.name!r} came; wanted letters, digits, '_', '-' and '.', a letter or "
                "digit first. Pass --model-name cada_edge."
            )
        if self.max_batch is not None and self.max_batch < 1:
            raise ConfigError(
                f"max_batch {self.max_batch} came; wanted at least 1 frame. Pass --max-batch {_ONNX_BATCH}."
            )
        if self.queue_delay_us < 0:
            raise ConfigError(f"queue_delay_us {self.queue_delay_us} came; wanted 0 or more microseconds.")


@dataclass(frozen=True)
class TritonResult:
    """What the export wrote."""

    model_name: str
    """What clients ask for."""
    version: int
    """The new version, from 1."""
    model: Path
    """The model file; its manifest and reference file lie beside it."""
    manifest: Path
    """Its manifest."""
    config: Path
    """The model's config.pbtxt."""
    config_written: bool
    """False where an earlier version's config was kept."""
    threshold: float | None
    """The manifest's threshold."""


def export_triton(
    source: str | Path,
    repository: str | Path,
    config: TritonConfig | None = None,
    *,
    export: ExportConfig | None = None,
    data: DatasetIndex | None = None,
) -> TritonResult:
    """Put a model into a Triton model repository, as a new model or the next version of one.

    Everything is written beside its place first and then moved there whole. A server that polls the
    repository never sees half a version.

    Args:
        source: A checkpoint, which is exported to ONNX and checked as `export_onnx` does; or an .onnx or
            .engine file of ours with its manifest, which is copied.
        repository: Folder of models; made where there is none.
        config: Name and batching.
        export: For a checkpoint: precision, alignment and frames.
        data: For a checkpoint: a data set whose test images the AUROC drift is measured on.

    Returns:
        Where everything is.

    Raises:
        ConfigError: Another kind of output, an option that does not fit the source, or a model of this name
            in the repository that the new one cannot follow.
        ModelError: The source is damaged, has no manifest, or is an engine that Triton cannot load.
        CheckFailedError: Parity over a limit; nothing is written.
        OutputError: The folder or disk does not take it.
    """
    config = config or TritonConfig()
    source, repository = Path(source), Path(repository)
    is_exported = source.suffix in (".onnx", ".engine")
    if repository.suffix in (".onnx", ".engine") or repository.is_file():
        raise ConfigError(
            f"The output {repository} came; wanted a folder, the model repository. Pass --out models."
        )
    if is_exported and (export is not None or data is not None):
        raise ConfigError(
            f"{source} is exported already: its precision, alignment and frame size stay as they are. Leave "
            "the options away, or give the checkpoint."
        )
    if is_exported:
        _check_source(source)
    folder = repository / config.name
    version, last = _next_version(folder)
    if last is not None and config.max_batch is not None:
        raise ConfigError(
            f"max_batch {config.max_batch} came, but {folder / CONFIG_FILE} is there already and is kept: "
            "change max_batch_size there, or pass another --model-name."
        )
    try:
        with _model_folder(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".draft-") as name:
            # Inside the model's folder, under a name that is no version: Triton takes no notice of it.
            draft = Path(name) / "version"
            draft.mkdir()
            manifest = _copy(source, draft) if is_exported else _export(source, draft, export, data)
            if last is not None:
                _check_follows(folder, last, manifest, version=version)
            else:
                # Before the version: without one Triton loads nothing, without a config it would guess one.
                write_atomic(folder / CONFIG_FILE, _config_text(manifest, config).encode())
            draft.rename(folder / str(version))
    except CadaEdgeError:
        raise
    except OSError as error:
        raise OutputError(
            f"Cannot write {folder}: {error.strerror or error}. Free some space, or choose another "
            "repository with --out."
        ) from error
    model = folder / str(version) / MODEL_FILES[manifest.format]
    return TritonResult(
        model_name=config.name,
        version=version,
        model=model,
        manifest=manifest_path(model),
        config=folder / CONFIG_FILE,
        config_written=last is None,
        threshold=manifest.threshold,
    )


@contextmanager
def _model_folder(folder: Path) -> Iterator[None]:
    """Make a model's folder; where it was new and the block fails, take it away again."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:  # Ctrl-C too
        if is_new:
            (folder / CONFIG_FILE).unlink(missing_ok=True)
            with suppress(OSError):  # somebody else has put something there
                folder.rmdir()
        raise


def _next_version(folder: Path) -> tuple[int, Manifest | None]:
    """Return the number of the next version, and the last one's manifest, None where there is none.

    Raises:
        ConfigError: What is there was not written by cada-edge.
    """
    if not folder.exists():
        return 1, None
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [folder.name]
    versions = [int(name) for name in names if _VERSION.fullmatch(name)]
    if not versions and set(names) <= {CONFIG_FILE}:
        return 1, None
    last = max(versions, default=0)
    for file in MODEL_FILES.values():
        if (model := folder / str(last) / file).is_file() and (folder / CONFIG_FILE).is_file():
            return last + 1, Manifest.read(model)
    raise ConfigError(
        f"{folder} is there and holds {', '.join(names[:4])}, but not the {CONFIG_FILE} and the model of a "
        "version that cada-edge wrote. Pass another --model-name, or another repository with --out."
    )


def _check_source(source: Path) -> Manifest:
    """Read the manifest of a model file that Triton could load.

    Raises:
        ConfigError: An engine that Triton does not load.
        ModelError: It is missing, damaged, or has no manifest.
    """
    manifest = Manifest.read(source)
    manifest.check_model_file(source)
    build = manifest.engine
    if build is None:
        return manifest
    if build.target != "tensorrt":
        raise ConfigError(
            f"{source} was built for the target {build.target}; Triton's tensorrt backend loads engines of "
            "TensorRT itself. Build one with: cada-edge export model.onnx --format engine --target tensorrt"
        )
    if build.batch[0] > 1:
        raise ConfigError(
            f"{source} was built for batches of {build.batch[0]} to {build.batch[2]} frames; Triton sends "
            f"single frames too. Build it with --batch 1,{build.batch[1]},{build.batch[2]}."
        )
    if not build.executed:
        _log.warning(
            "%s has not run on a GPU yet. Run cada-edge verify on it on the server before clients use it.",
            source,
        )
    return manifest


def _copy(source: Path, draft: Path) -> Manifest:
    """Copy a model file, its reference file and its manifest, under the repository's names."""
    manifest = _check_source(source)
    model = draft / MODEL_FILES[manifest.format]
    shutil.copyfile(source, model)
    reference = manifest.reference_file
    if reference is not None:
        path = source.with_name(reference)
        if not path.is_file() or sha256_file(path) != manifest.reference_sha256:
            raise ModelMismatchError(
                f"The reference file {path} is missing, or is not the one that the manifest of {source.name} "
                "describes. Copy the three files together again, or export the checkpoint again."
            )
        shutil.copyfile(path, draft / _REFERENCE_FILE)
        reference = _REFERENCE_FILE
    manifest = dataclasses.replace(manifest, model_file=model.name, reference_file=reference)
    manifest.check_model_file(model)
    manifest.write(model)
    return manifest


def _export(
    checkpoint: Path, draft: Path, export: ExportConfig | None, data: DatasetIndex | None
) -> Manifest:
    from cada_edge.export.to_onnx import export_onnx

    return Manifest.read(export_onnx(checkpoint, draft / MODEL_FILES["onnx"], export, data=data).model)


def _config_text(manifest: Manifest, config: TritonConfig) -> str:
    largest = None if manifest.engine is None else manifest.engine.batch[2]
    batch = config.max_batch or largest or _ONNX_BATCH
    if largest is not None and batch > largest:
        raise ConfigError(
            f"max_batch {batch} came for an engine that was built for up to {largest} frames. "
            f"Pass --max-batch {largest}, or build it with a larger --batch."
        )
    fields = model_config(config.name, manifest, max_batch=batch, queue_delay_us=config.queue_delay_us)
    return text_format(fields)


def _check_follows(folder: Path, last: Manifest, manifest: Manifest, *, version: int) -> None:
    """Refuse a version that the config, written for the last one, does not describe."""
    was, now = _interface(last), _interface(manifest)
    if was != now:
        raise ConfigError(
            f"{folder} holds version {version - 1}, {was}; the new model is {now}. One config.pbtxt serves "
            "all versions: pass another --model-name."
        )
    if last.engine is not None and manifest.engine is not None:
        before, after = last.engine.batch[2], manifest.engine.batch[2]
        if after < before:
            raise ConfigError(
                f"{folder} serves batches of up to {before} frames; the new engine was built for up to "
                f"{after}. Build it with --batch 1,{before},{before}, or pass another --model-name."
            )


def _interface(manifest: Manifest) -> str:
    """Describe what config.pbtxt says of a model file, in words."""
    (height, width), (rows, columns) = frame_size(manifest), manifest.input_hw
    return f"{manifest.format} of {height}x{width} frames with maps of {rows}x{columns}"
