"""Messages between the inspection and its page's process: a JSON head and parts of bytes, over a pipe."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

__all__ = ["Message", "encode_message", "read_message", "write_message"]

_LENGTH = struct.Struct(">I")


class Message(NamedTuple):
    """What one side tells the other."""

    head: dict[str, Any]
    """Anything that JSON takes."""
    parts: list[bytes]
    """Pictures and the like."""


def encode_message(head: dict[str, Any], parts: Sequence[bytes] = ()) -> bytes:
    """Return one message as it is sent.

    Raises:
        TypeError: The head holds what JSON does not take.
    """
    text = json.dumps({"head": head, "parts": [len(part) for part in parts]}).encode()
    return b"".join((_LENGTH.pack(len(text)), text, *parts))


def write_message(stream: IO[bytes], head: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
    """Send one message.

    Raises:
        OSError: The other side is gone.
        TypeError: The head holds what JSON does not take.
        ValueError: The stream is closed.
    """
    stream.write(encode_message(head, parts))
    stream.flush()


def read_message(stream: IO[bytes]) -> Message | None:
    """Wait for one message; None when the other side is gone.

    Raises:
        ValueError: What came is no message, or the stream is closed.
    """
    length = _read(stream, _LENGTH.size)
    if length is None:
        return None
    text = _read(stream, _LENGTH.unpack(length)[0])
    if text is None:
        return None
    found = json.loads(text)
    parts = []
    for size in found["parts"]:
        part = _read(stream, size)
        if part is None:
            return None
        parts.append(part)
    return Message(found["head"], parts)


def _read(stream: IO[bytes], size: int) -> bytes | None:
    """Read exactly so many bytes; None when the stream ends before."""
    data = stream.read(size)
    return data if len(data) == size else None
