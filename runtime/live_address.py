"""Addresses of live sources: what is one, and what of it may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cada_edge.errors import SourceError

__all__ = ["LiveAddress", "is_address", "parse_live", "redact", "refuse_mistyped", "shown"]

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # one letter alone is a drive
_NETWORK = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://")

_ANY_BEGIN = re.compile(r"\s*(?:[a-z][a-z0-9+.-]+:/|/dev/video\d)", re.IGNORECASE)
_MISTYPED = re.compile(r"\s*([\"'`]?)\s*(rtsps?|rtmp|https?|udp|tcp)([:;]|//)", re.IGNORECASE)

_PIPELINE = re.compile(r"\s!\s|!\s*appsink\b")
"""Blanks round each ! are usual, line breaks as good, and nothing at all is allowed before most."""

_BEGIN = r"(?:://|(?<=[a-z0-9+.-]{2}):/+|\b(?:rtsps?|rtmp|https?|udp|tcp)(?:[:;]/*|//))"
"""What stands before user and password, also where it is mistyped or was a `Path`, which has one slash."""

_USER = re.compile(rf"({_BEGIN})[^\s\"']*@", re.IGNORECASE)
_USER_OF_ONE = re.compile(rf"({_BEGIN}).*@", re.IGNORECASE | re.DOTALL)
_USER_IN_QUOTES = re.compile(rf"([\"'][^\"']*?{_BEGIN})[^\"']*@", re.IGNORECASE)
_BARE_USER = re.compile(r"(?<![^\s\"'=(<,])[^\s\"'/@:=]{2,}:(?![/\\]|\*\*\*@)[^\s\"'@]+@(?=[\w.*-])")
"""As in user:password@host: its beginning was forgotten."""
_QUERY = re.compile(rf"({_BEGIN}[^\s?\"']*)\?[^\s\"']*", re.IGNORECASE)

_SECRET_KEYS = r"(?:user-id|username|user|usr|login|user-pw|password|passwd|pwd|pass|pw|proxy-id|proxy-pw)"
_SECRET = re.compile(
    rf"(?<![a-z])({_SECRET_KEYS}\s*=\s*)"
    r"(\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|"
    # As in /user=me_password=my_word_channel=1: only a name that is known ends a value.
    rf"[^\s\"']*?(?=[_&;,](?:{_SECRET_KEYS}|channel|stream)=|[\s\"'?]|$))",
    re.IGNORECASE,
)
"""What names a user or a password in pipelines, and in the paths of some makers' addresses."""


@dataclass(frozen=True)
class LiveAddress:
    """Where a live source is."""

    kind: Literal["webcam", "csi", "gstreamer", "network"]
    """Of what kind it is."""
    address: str
    """Number of a webcam or CSI camera, device node, URL or pipeline; may hold a password."""
    name: str
    """The address without user, password and query: for messages, events and records."""


def parse_live(source: object) -> LiveAddress | None:
    """Tell a live source by its address; None for anything else.

    Args:
        source: 0 or another webcam index, '/dev/video0', 'csi://0', 'rtsp://...' and the other URLs that
            FFmpeg reads, or a GStreamer pipeline: parts with ! between them, on one line or several, the
            last of which is an appsink.

    Raises:
        SourceError: A URL of a kind that is not read, a bad camera number, or a pipeline without appsink.
    """
    if isinstance(source, bool):
        return None
    if isinstance(source, int):
        if source < 0:
            raise SourceError(f"The webcam index {source} came; wanted 0 or above. Pass 0 for the first.")
        return LiveAddress("webcam", str(source), f"webcam {source}")
    if not isinstance(source, str):
        return None
    source = source.strip()
    if re.fullmatch(r"/dev/video\d+", source):
        return LiveAddress("webcam", source, source)
    if not _URL.match(source):  # first: a password may hold a ! too
        return _parse_pipeline(source)
    lower = source.lower()
    if lower.startswith("csi://"):
        number = source[len("csi://") :]
        if not number.isdecimal():
            raise SourceError(f"{shown(source)} came; wanted csi:// and a camera's number. Pass csi://0.")
        return LiveAddress("csi", number, source)
    if lower.startswith(_NETWORK):
        return LiveAddress("network", source, shown(source))
    if lower.startswith("file://"):
        raise SourceError(f"The URL {shown(source)} came; wanted a plain path. Leave file:// out.")
    raise SourceError(
        f"The URL {shown(source)} came; wanted one that begins with {', '.join(_NETWORK)} or csi://. "
        "Correct it, or pass a generator around your camera's own SDK."
    )


def _parse_pipeline(source: str) -> LiveAddress | None:
    if not _PIPELINE.search(source):
        return None
    # Within quotes a password may hold a blank; a name with line breaks would break lines of records.
    name = " ".join(redact(_USER_IN_QUOTES.sub(r"\1***@", source)).split())
    if "appsink" not in source:
        raise SourceError(
            f"The GStreamer pipeline {name} has no appsink; wanted one at its end, from which frames are "
            "taken. Append: ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1"
        )
    return LiveAddress("gstreamer", source, name)


def is_address(text: str) -> bool:
    """Tell whether a text was meant as the address of a live source, be it mistyped."""
    is_pipeline = _PIPELINE.search(text) is not None and "appsink" in text
    return is_pipeline or _ANY_BEGIN.match(text) is not None or _MISTYPED.match(text) is not None


def refuse_mistyped(text: str) -> None:
    """Refuse what was meant as an address; it may hold a password, so nothing but its beginning is shown.

    Raises:
        SourceError: It begins as one.
    """
    found = _MISTYPED.match(text)
    if found is None:
        return
    quote, kind, mark = found.groups()
    without = ", without quotes, which a file of environment variables keeps" if quote else ""
    raise SourceError(
        f"An address that begins with {quote}{kind}{mark} came; wanted {kind}://host and so on{without}. "
        "Correct it."
    )


def redact(text: str) -> str:
    """Replace what may be secret in streams' addresses: user and password, also within a path, and the query.

    Args:
        text: A text with addresses in it, as a pipeline or a message has; for one alone there is `shown`.
    """
    # Greedy: a password may itself hold an @ or a slash.
    text = _USER.sub(r"\1***@", text)
    text = _BARE_USER.sub("***@", text)
    text = _QUERY.sub(r"\1?***", text)
    return _SECRET.sub(r"\1***", text)


def shown(text: str) -> str:
    """Return what a message may show of a text that was given as a source, whatever was meant by it.

    Args:
        text: A path or one address, whose password may hold a blank or a quote too.
    """
    return redact(_USER_OF_ONE.sub(r"\1***@", text))
