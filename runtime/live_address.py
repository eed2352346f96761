"""Addresses of live sources: what is one, and what of it may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cada_edge.errors import SourceError

__all__ = ["LiveAddress", "parse_live", "redact"]

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_NETWORK = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://")

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
            FFmpeg reads, or a GStreamer pipeline: a text with ' ! ' in it that ends in an appsink.

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
    if " ! " in source:
        if "appsink" not in source:
            raise SourceError(
                f"The GStreamer pipeline {redact(source)} has no appsink; wanted one at its end, from which "
                "frames are taken. Append: ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true "
                "max-buffers=1"
            )
        return LiveAddress("gstreamer", source, redact(source))
    source = source.strip()
    if re.fullmatch(r"/dev/video\d+", source):
        return LiveAddress("webcam", source, source)
    if not _URL.match(source):
        return None
    lower = source.lower()
    if lower.startswith("csi://"):
        number = source[len("csi://") :]
        if not number.isdecimal():
            raise SourceError(f"{source} came; wanted csi:// and a camera's number. Pass csi://0.")
        return LiveAddress("csi", number, source)
    if lower.startswith(_NETWORK):
        return LiveAddress("network", source, _redact_url(source))
    if lower.startswith("file://"):
        raise SourceError(f"The URL {source} came; wanted a plain path. Leave file:// out.")
    raise SourceError(
        f"The URL {_redact_url(source)} came; wanted one that begins with {', '.join(_NETWORK)} or csi://. "
        "Correct it, or pass a generator around your camera's own SDK."
    )


def redact(text: str) -> str:
    """Replace what may be secret in streams' addresses: user and password, also within a path, and the query.

    Args:
        text: A URL, or a text with URLs in it, as a pipeline or a message has.
    """
    # Greedy: a password may itself hold an @ or a slash.
    text = re.sub(r"://[^\s\"']*@", "://***@", text)
    text = re.sub(r"(://[^\s?\"']*)\?[^\s\"']*", r"\1?***", text)
    return _SECRET.sub(r"\1***", text)


def _redact_url(url: str) -> str:
    """Do the same for one URL and nothing else, whose password may hold a blank or a quote too."""
    return redact(re.sub(r"://.*@", "://***@", url, flags=re.DOTALL))
