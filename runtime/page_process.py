"""The process that serves the page; `cada_edge.runtime.live_page` starts it and talks with it by pipes.

It loads neither NumPy nor OpenCV, has a lower priority than inspection, and ends when its pipe does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import IO, Any

from cada_edge.runtime.page_gate import Gate, Request, Response
from cada_edge.runtime.page_link import Message, read_message, write_message
from cada_edge.runtime.page_relay import Relay
from cada_edge.runtime.page_routes import Routes, read_assets
from cada_edge.runtime.page_server import make_server

__all__ = ["main"]

_NICENESS = 10
"""Of ten parts of a busy core that inspection wants too, one is left for the page."""

_WRONG_TOKEN_S = 0.5
"""Before a wrong token is refused: guessing takes long."""


def main() -> None:
    """Serve until the other side is gone."""
    # Ctrl-C goes to the whole group of processes and a service manager's SIGTERM to the whole service: the
    # inspection ends in order first, and this process with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    logging.basicConfig(level=logging.ERROR, format="page: %(message)s")
    # Whatever is printed by mistake must not get among the messages.
    answers, questions = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    hello = read_message(answers)
    code = 0
    if hello is not None:
        try:
            asyncio.run(_serve(hello.head, answers, questions))
        except (EOFError, BrokenPipeError):
            logging.getLogger(__name__).debug("The inspection is gone")
        except Exception:  # broad: whoever starts it anew is told why
            logging.getLogger(__name__).exception("The page ends")
            code = 1
    # At once: a thread that waits for an answer would hold up the interpreter's own end.
    os._exit(code)


async def _serve(config: dict[str, Any], answers: IO[bytes], questions: IO[bytes]) -> None:
    from tornado.netutil import bind_sockets

    try:
        sockets = bind_sockets(config["port"], config["host"], backlog=64)
    except OSError as error:
        write_message(questions, {"error": (error.strerror or str(error)).lower()})
        return
    port = sockets[0].getsockname()[1]

    def ask(question: dict[str, Any]) -> Message:
        write_message(questions, question)
        found = read_message(answers)
        if found is None:
            raise EOFError
        return found

    assets = read_assets()
    relay = Relay(ask)
    routes = Routes(relay, assets)
    gate = Gate(
        host=config["host"],
        port=port,
        token=config["token"],
        sign_in=assets["sign_in.html"].body,
        welcome=assets["welcome.html"].body,
    )

    async def answer(request: Request) -> Response:
        refused = gate.check(request)
        if refused is None:
            return routes.public(request) or await routes.answer(request)
        if refused.status == 401 and (public := routes.public(request)) is not None:
            return public
        if gate.is_wrong_token(request):
            await asyncio.sleep(_WRONG_TOKEN_S)
        return refused

    server = make_server(answer)
    server.add_sockets(sockets)
    write_message(questions, {"port": port})
    await asyncio.gather(relay.follow_live(), relay.follow_rejects())
