"""The page's HTTP server: Tornado's, with a limit on everything that a viewer can take.

Tornado: it needs no other package, is old and kept well, and its time limit holds for a request's whole
header, for which most servers wait as long as a client goes on sending a byte a minute.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from http.client import responses
from typing import TYPE_CHECKING, Any

from cada_edge.runtime.page_gate import HEADERS, Request, Response

if TYPE_CHECKING:
    from tornado.httpserver import HTTPServer
    from tornado.httputil import HTTPServerRequest
    from tornado.iostream import IOStream

__all__ = ["Answer", "make_server"]

_log = logging.getLogger(__name__)

Answer = Callable[[Request], Awaitable[Response]]
"""Answers a request."""

_MOST_CONNECTIONS = 128
"""Of all viewers together; of more the one that has been idle longest is closed."""

_HEADER_S = 10.0
"""Time for a request's whole header, also of one that has not begun: how long a connection may be idle."""

_RESPONSE_S = 10.0
"""Time in which a viewer must have taken an answer."""

_HEADER_BYTES, _BODY_BYTES = 8 << 10, 1 << 10


class _Connections:
    """The open ones, each with the time of its last request."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used_s: dict[IOStream, float] = {}

    def __len__(self) -> int:
        return len(self._used_s)

    def add(self, stream: IOStream) -> None:
        """Take one more; close the one that has been idle longest where there is no room."""
        self._used_s = {each: used_s for each, used_s in self._used_s.items() if not each.closed()}
        while len(self._used_s) >= self._most:
            oldest = min(self._used_s, key=self._used_s.__getitem__)
            del self._used_s[oldest]
            oldest.close()
        self._used_s[stream] = time.monotonic()

    def use(self, stream: IOStream) -> None:
        """Note a request."""
        if stream in self._used_s:
            self._used_s[stream] = time.monotonic()


def make_server(answer: Answer) -> HTTPServer:
    """Make a server that does not listen yet; for use within a running event loop."""
    from tornado.httpserver import HTTPServer as TornadoServer

    connections = _Connections(_MOST_CONNECTIONS)
    tasks: set[asyncio.Task[None]] = set()

    class BoundedServer(TornadoServer):
        def handle_stream(self, stream: IOStream, address: Any) -> None:
            connections.add(stream)
            super().handle_stream(stream, address)

    def begin(request: HTTPServerRequest) -> None:
        connections.use(_stream_of(request))
        task = asyncio.ensure_future(_respond(request, answer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return BoundedServer(
        begin,
        idle_connection_timeout=_HEADER_S,
        body_timeout=_HEADER_S,
        max_header_size=_HEADER_BYTES,
        max_body_size=_BODY_BYTES,
        max_buffer_size=_HEADER_BYTES + (64 << 10),
    )


def _stream_of(request: HTTPServerRequest) -> IOStream:
    connection: Any = request.connection
    stream: IOStream = connection.stream
    return stream


async def _respond(request: HTTPServerRequest, answer: Answer) -> None:
    """Answer one request; a viewer that does not take the answer in time is cut off."""
    from tornado.iostream import StreamClosedError

    stream = _stream_of(request)
    try:
        try:
            response = await answer(_read(request))
        except EOFError:
            response = Response.text(503, "The inspection is gone.")
        except Exception:  # broad: a fault in one answer is no reason to end the page
            _log.exception("No answer to %s", request.path)
            response = Response.text(500, "This answer failed; the reason is in the log.")
        sent = _send(request, response)
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())  # also after the time is up
        await asyncio.wait_for(asyncio.shield(sent), _RESPONSE_S)
    except (StreamClosedError, asyncio.TimeoutError):
        stream.close()


def _read(request: HTTPServerRequest) -> Request:
    headers = {name.lower(): value for name, value in request.headers.get_all()}
    return Request(request.method or "", request.uri or "/", headers)


def _send(request: HTTPServerRequest, response: Response) -> asyncio.Future[None]:
    from tornado.httputil import HTTPHeaders, ResponseStartLine

    connection: Any = request.connection
    headers = HTTPHeaders({**HEADERS, **response.headers})
    headers["Content-Type"] = response.content_type
    headers["Content-Length"] = str(len(response.body))
    start = ResponseStartLine("HTTP/1.1", response.status, responses.get(response.status, "Unknown"))
    sent: asyncio.Future[None] = connection.write_headers(start, headers)
    if request.method != "HEAD" and response.body:
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())  # the next tells the same
        # Apart from the headers: viewers that wait for the same picture then share its bytes, uncopied.
        sent = connection.write(response.body)
    connection.finish()
    return sent
