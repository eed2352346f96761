"""Files written whole or not at all, and their fingerprints."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cada_edge.errors import CadaEdgeError, OutputError

__all__ = ["atomic_path", "sha256_file", "write_atomic"]

_BLOCK_BYTES = 1 << 20


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary file beside a path, and move it to the path when the block ends well.

    Readers see the old file or the whole new one, never a part; a failed block leaves nothing behind.

    Args:
        path: The file to write; its folder is made.

    Raises:
        OutputError: The folder or the disk does not take it; the old file, if any, is untouched.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        # Not mkstemp, which makes private files: results are for everyone the umask lets in, and the kernel
        # alone knows the umask without setting it, which would reach the files of other threads.
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        temporary = draft
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except CadaEdgeError:
        raise
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. "
            "Choose a folder that can be written and has space left; nothing was changed."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_atomic(path: str | Path, data: bytes) -> Path:
    """Write bytes to a file through `atomic_path`.

    Args:
        path: The file to write; its folder is made.
        data: The content.

    Returns:
        The path.

    Raises:
        OutputError: The folder or the disk does not take it; the old file, if any, is untouched.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)
