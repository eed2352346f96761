"""A page on which a person sees the line, while it is inspected.

It is served by a process of its own (`cada_edge.runtime.page_process`), which has a lower priority and asks
this one for pictures and figures at rates that are bounded here. So whatever viewers do, what inspection pays
for the page is a few numbers a verdict and, while somebody looks, a twentieth of one core for drawing.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cada_edge import __version__
from cada_edge.errors import ConfigError, OutputError
from cada_edge.extras import require_extra
from cada_edge.runtime.detection import Detection
from cada_edge.runtime.page_address import PageAddress
from cada_edge.runtime.page_link import Message, encode_message, read_message, write_message
from cada_edge.runtime.page_pictures import PictureDesk
from cada_edge.runtime.page_state import PageState
from cada_edge.runtime.source_base import Frame
from cada_edge.runtime.stream_events import EventKind, OnStatus, StatusEvent, make_event, tell

if TYPE_CHECKING:
    from cada_edge.runtime.detector import Detector
    from cada_edge.runtime.run import Run

__all__ = ["LivePage"]

_log = logging.getLogger(__name__)

_START_S = 60.0
"""Longest time that the page's process may take to listen: Python and the server start within a second."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
"""Before a process that ended is started again."""

# This process's search path, and neither the working directory nor the environment, decides what is imported.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from cada_edge.runtime.page_process import main; main()"
)


class LivePage:
    """Serves the page until it is closed; `put`, `tell` and `watch` feed it.

    Example:
        >>> from cada_edge import Detector, LivePage
        >>> with Detector("model.onnx") as detector:  # doctest: +SKIP
        ...     with LivePage(detector, "127.0.0.1:8080") as page:
        ...         run = detector.run("rtsp://left/1", on_result=page.put, on_status=page.tell)
        ...         page.watch(run)
        ...         run.join()
    """

    def __init__(
        self,
        detector: Detector,
        address: str = "127.0.0.1:8080",
        *,
        token: str | None = None,
        on_status: OnStatus | None = None,
    ) -> None:
        """Start to serve.

        Args:
            detector: Its model is named on the page.
            address: HOST:PORT, or PORT for this machine alone; port 0 for any free one.
            token: What a viewer must know, at least 16 characters; needed where other machines reach the
                address. Travels unencrypted: across a network that is not trusted, go through SSH or a
                TLS proxy.
            on_status: Called with ``page_failed`` and ``page_recovered``.

        Raises:
            MissingExtraError: The extra ``serve`` is not installed.
            ConfigError: An impossible address, one that needs a token, or a port that is taken.
            OutputError: The page's process does not start.
        """
        require_extra("The live page", "tornado", "serve")
        self._address = PageAddress.parse(address, token=token)
        self._on_status = on_status
        self._model = {
            "file": detector.manifest.model_file,
            "sha256": detector.manifest.model_sha256,
            "threshold": detector.threshold,
            "backend": detector.backend,
            "version": __version__,
        }
        self._state = PageState()
        self._desk = PictureDesk(self._state)
        self._closing = threading.Event()
        self._changing = threading.Lock()
        self._process, self._port = self._start()
        self._thread = threading.Thread(target=self._serve, name="cada-edge page", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where a browser finds the page, without the token."""
        return self._address.url(self._port)

    @property
    def pid(self) -> int:
        """Number of the page's process."""
        return self._process.pid

    def put(self, detection: Detection, frame: Frame) -> None:
        """Show a detection and its frame; it never waits. For `Detector.run`'s on_result.

        Args:
            detection: Of the frame.
            frame: Its image must not be written to afterwards.
        """
        self._state.put(detection, frame)

    def tell(self, event: StatusEvent) -> None:
        """Show an event. For `Detector.run`'s on_status."""
        self._state.tell(event)

    def watch(self, run: Run) -> None:
        """Show a run's counts of frames and its latencies as well."""
        self._state.watch(run)

    def close(self) -> None:
        """Serve no more; harmless when called twice."""
        self._closing.set()
        with self._changing:
            self._process.kill()
        self._thread.join()

    def __enter__(self) -> LivePage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> tuple[subprocess.Popen[bytes], int]:
        """Start the page's process and wait until it listens; return it and its port."""
        if not sys.executable:
            raise OutputError(
                "This program has no Python executable of its own; wanted one for the page's process. Run it "
                "with python, or leave the page out."
            )
        # Isolated (-I): no file of the working directory or of PYTHONPATH takes a module's place.
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _CHILD, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        watchdog = threading.Timer(_START_S, process.kill)
        watchdog.start()
        try:
            hello = self._greet(process)
            if hello is None or "port" not in hello.head:
                _end(process)
                raise self._refusal(None if hello is None else hello.head)
        except BaseException:
            _end(process)
            raise
        finally:
            watchdog.cancel()
            watchdog.join()
        return process, int(hello.head["port"])

    def _greet(self, process: subprocess.Popen[bytes]) -> Message | None:
        assert process.stdin is not None
        assert process.stdout is not None
        address = self._address
        port = getattr(self, "_port", address.port)  # the same one after a new start
        try:
            write_message(process.stdin, {"host": address.host, "port": port, "token": address.token})
            return read_message(process.stdout)
        except (OSError, ValueError):
            return None

    def _refusal(self, head: dict[str, Any] | None) -> ConfigError | OutputError:
        address = self._address
        if head is None:
            return OutputError(
                f"The page's process for {address.host}:{address.port} ended or did not listen; wanted it to "
                "serve. What it said stands above; without --serve the inspection runs all the same."
            )
        return ConfigError(
            f"The page cannot be served at {address.host}:{address.port}: {head['error']}; wanted an address "
            "of this machine and a free port. Pass another port, or 0 for any free one."
        )

    def _serve(self) -> None:
        """Answer the page's process, and start another one when it ends."""
        wait_s = _FIRST_WAIT_S
        while True:
            if self._answer_all():
                wait_s = _FIRST_WAIT_S
            code = _end(self._process)
            if self._closing.is_set():
                return
            self._tell("page_failed", f"The page's process ended with {code}; it is started again")
            while not self._closing.wait(wait_s):
                wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)
                if self._restart():
                    break
            if self._closing.is_set():
                _end(self._process)
                return
            self._tell("page_recovered", f"The page is served again at {self.url}")

    def _restart(self) -> bool:
        try:
            process, self._port = self._start()
        except (ConfigError, OSError) as error:
            _log.warning("%s", error)
            return False
        with self._changing:
            self._process = process
        return True

    def _answer_all(self) -> bool:
        """Answer until the process is gone; return whether there was any question."""
        process, answered = self._process, False
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            while (question := read_message(process.stdout)) is not None:
                process.stdin.write(self._answer(question.head))
                process.stdin.flush()
                answered = True
        except (OSError, ValueError) as error:
            if not self._closing.is_set():
                _log.warning("The page's process no longer listens: %s", error)
        return answered

    def _answer(self, question: dict[str, Any]) -> bytes:
        try:
            return encode_message(*self._look_up(question))
        except Exception:  # broad: no picture or figure is worth the end of the page
            _log.exception("The page's question %s got no answer", question)
            return encode_message({})

    def _look_up(self, question: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
        wanted = question["want"]
        if wanted == "state":
            return {"model": self._model, **self._state.snapshot()}, []
        if wanted == "trace":
            return self._state.trace(question["span"]), []
        drawn = self._desk.live(question["have"]) if wanted == "live" else self._desk.reject()
        return ({}, []) if drawn is None else (drawn.head, drawn.parts)

    def _tell(self, kind: EventKind, message: str) -> None:
        _log.log(logging.WARNING if kind == "page_failed" else logging.INFO, "%s", message)
        event = make_event(kind, "page", message)
        self._state.tell(event)
        tell(self._on_status, event)


def _end(process: subprocess.Popen[bytes]) -> int:
    """End a process, if it has not ended, and return its code."""
    process.kill()
    code = process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:
                _log.debug("The page's pipe broke with a message in it")
    return code
