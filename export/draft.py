"""Three files that belong together, made apart and put into their places at once, or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cada_edge.errors import CadaEdgeError, OutputError
from cada_edge.manifest import manifest_path

__all__ = ["Draft", "check_places", "draft_of", "temporary_folder"]


class Draft(NamedTuple):
    """A model file and its reference file in a folder of their own, beside their final places."""

    model: Path
    """The model file to write; its manifest goes beside it."""
    reference: Path
    """The reference file to write."""
    final_model: Path
    """Where the model comes to lie."""
    final_reference: Path
    """Where the reference file comes to lie."""

    def publish(self) -> None:
        """Put the model, its manifest and the reference file into their places, when all are written."""
        # Only renames. The old manifest goes first and the new one comes last, so that at no moment a
        # manifest lies beside a model that it does not describe.
        manifest_path(self.final_model).unlink(missing_ok=True)
        self.reference.replace(self.final_reference)
        self.model.replace(self.final_model)
        manifest_path(self.model).replace(manifest_path(self.final_model))


def check_places(model: Path, reference_name: str) -> None:
    """Refuse places that no file can take, before any work is done.

    Args:
        model: Where the model is to lie.
        reference_name: Of the reference file beside it.

    Raises:
        OutputError: A folder lies where a file is to be.
    """
    for path in (model, model.with_name(reference_name), manifest_path(model)):
        if path.is_dir():
            raise OutputError(
                f"{path} is a folder; wanted a place for a file. Pass another name with --out, or remove it."
            )


@contextmanager
def draft_of(model: Path, reference_name: str) -> Iterator[Draft]:
    """Give a folder to write a model in; what was not published is gone when the block ends, however it ends.

    Args:
        model: Where the model is to lie; its folder is made.
        reference_name: Of the reference file beside it.

    Raises:
        OutputError: A folder lies where a file is to be, or the disk does not take the files.
    """
    check_places(model, reference_name)
    with temporary_folder(model) as folder:
        yield Draft(folder / model.name, folder / reference_name, model, model.with_name(reference_name))


@contextmanager
def temporary_folder(model: Path) -> Iterator[Path]:
    """Give a hidden folder beside a model's place, which is gone when the block ends.

    Args:
        model: Where the model is to lie; its folder is made.

    Raises:
        OutputError: The disk does not take the files.
    """
    try:
        model.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=model.parent, prefix=f".{model.name}.") as name:
            yield Path(name)
    except CadaEdgeError:
        raise
    except OSError as error:
        raise OutputError(
            f"Cannot write {model}: {error.strerror or error}. Free some space, "
            "or choose another folder with --out."
        ) from error
