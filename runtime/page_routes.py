"""What the page's process answers: the page itself, figures as JSON and for Prometheus, and pictures."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cada_edge.runtime.page_gate import Request, Response
from cada_edge.runtime.page_link import Message
from cada_edge.runtime.page_metrics import CONTENT_TYPE, render_metrics
from cada_edge.runtime.page_relay import Relay
from cada_edge.runtime.page_trace import SPANS_S

__all__ = ["Routes", "pack_pictures", "read_assets"]

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_LONG_POLL_S = 1.0
"""Time that a viewer waits for a newer picture before he is told that there is none."""


def read_assets() -> dict[str, Response]:
    """Read every file of the page; nothing else on the disk can be asked for later."""
    folder = Path(__file__).with_name("page")
    return {
        path.name: Response(200, _TYPES[path.suffix], path.read_bytes())
        for path in sorted(folder.iterdir())
        if path.suffix in _TYPES
    }


class Routes:
    """Answers requests that the gate has let through."""

    def __init__(self, relay: Relay, assets: dict[str, Response]) -> None:
        self._relay = relay
        self._assets = assets

    def public(self, request: Request) -> Response | None:
        """Return what anybody may have, also without the token: the page's looks; None for anything else."""
        found = re.fullmatch(r"/assets/([\w.-]+)", request.path)
        return None if found is None else self._assets.get(found[1])

    async def answer(self, request: Request) -> Response:
        """Answer a request."""
        path = request.path
        if path == "/":
            return self._assets["index.html"]
        if path == "/metrics":
            # The name of a file need not be text: what is not is shown as a question mark.
            text = render_metrics(await self._relay.state())
            return Response(200, CONTENT_TYPE, text.encode(errors="replace"))
        if path == "/api/state":
            return _json(await self._relay.state())
        if path == "/api/events":
            state = await self._relay.state()
            return _json({"events": state.get("events", []), "counts": state.get("event_counts", {})})
        if path == "/api/trace":
            span = request.query.get("span_s", next(iter(SPANS_S)))
            if span not in SPANS_S:
                return Response.text(404, f"Wanted span_s={' or '.join(SPANS_S)}.")
            return _json(await self._relay.trace(span))
        if path == "/api/live":
            return await self._live(request)
        if path == "/api/rejects":
            state = await self._relay.state()
            return _json({"inspection": state.get("inspection"), "rejects": self._relay.rejects()})
        found = re.fullmatch(r"/api/rejects/(\d{1,15})/(frame\.jpg|thumb\.jpg|map\.png)", path)
        if found is not None:
            state = await self._relay.state()
            if request.query.get("of", state.get("inspection")) != state.get("inspection"):
                return Response.text(404, "The inspection has been started again: its rejects are others.")
            return self._reject(int(found[1]), found[2])
        return Response.text(404, "There is nothing at this address; the page is at /.")

    async def _live(self, request: Request) -> Response:
        """Give the live pictures that a viewer has not: ?seen=12,7 has the numbers by position."""
        text = request.query.get("seen", "")
        if not re.fullmatch(r"(\d{0,15}(,\d{0,15}){0,63})?", text):
            return Response.text(404, "Wanted seen=NUMBER,NUMBER..., as the pictures had them.")
        seen = {position: int(number) for position, number in enumerate(text.split(",")) if number}
        found = await self._relay.live(seen, _LONG_POLL_S)
        return Response(200, "application/octet-stream", pack_pictures(found))

    def _reject(self, number: int, name: str) -> Response:
        reject = self._relay.reject(number)
        part = ("frame.jpg", "thumb.jpg", "map.png").index(name)
        if reject is None or part >= len(reject.parts):
            return Response.text(404, f"Reject {number} is not kept any more, or has no {name}.")
        return Response(200, "image/png" if name.endswith("png") else "image/jpeg", reject.parts[part])


def pack_pictures(messages: Sequence[Message]) -> bytes:
    """Put pictures into one body: length of the head (4 bytes, big-endian), head as JSON, then every part."""
    heads = [{**each.head, "sizes": [len(part) for part in each.parts]} for each in messages]
    text = json.dumps({"pictures": heads}).encode()
    parts = [part for each in messages for part in each.parts]
    return b"".join((struct.pack(">I", len(text)), text, *parts))


def _json(value: dict[str, Any]) -> Response:
    # An empty answer is one that failed: a viewer must not take it for a line where all is quiet.
    if not value:
        return Response.text(503, "The inspection gave no answer.")
    return Response(200, "application/json", json.dumps(value, allow_nan=False).encode())
