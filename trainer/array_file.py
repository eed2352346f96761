"""Arrays that grow on disk row by row and are then mapped: larger than memory, and honest about a full disk.

A memory-mapped file that is written through the map ends in SIGBUS when the disk fills up; plain writes end
in an error that can be reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import OutputError

__all__ = ["write_rows"]


def write_rows(path: Path, parts: Iterable[NDArray[Any]], rows: int) -> NDArray[Any]:
    """Write arrays one after another into one .npy file and map it.

    Args:
        path: The file.
        parts: Arrays (B, ...) of one dtype and row shape, C-contiguous or not.
        rows: Rows of all parts together, at least 1.

    Returns:
        The mapped array (rows, ...), copy-on-write.

    Raises:
        OutputError: The disk does not take it; the file is removed.
    """
    written = 0
    try:
        with path.open("wb") as file:
            for part in parts:
                if written == 0:
                    header = {
                        "descr": np.lib.format.dtype_to_descr(part.dtype),
                        "fortran_order": False,
                        "shape": (rows, *part.shape[1:]),
                    }
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(part).tobytes())
                written += len(part)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. Free some space and run again; "
            "'cada-edge train --resume' goes on from the last state."
        ) from error
    assert written == rows, f"{written} of {rows} rows"
    mapped: NDArray[Any] = np.load(path, mmap_mode="c")
    return mapped
