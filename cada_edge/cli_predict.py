"""The command that inspects: sources in, a line a frame out, and whatever is to be kept."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cada_edge.console import Notices, ResultLines
from cada_edge.options import backend_option, json_option, read_bytes, threads_option
from cada_edge.runtime.page_address import TOKEN_VARIABLE

if TYPE_CHECKING:
    from cada_edge.runtime.detection import Detection
    from cada_edge.runtime.inspection_log import InspectionLog
    from cada_edge.runtime.live_page import LivePage
    from cada_edge.runtime.run import Run
    from cada_edge.runtime.run_options import RunOptions
    from cada_edge.runtime.source_base import Frame
    from cada_edge.runtime.stream_events import OnStatus, StatusEvent

__all__ = ["predict"]


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--threshold", type=float, default=None, show_default="the model's own", help="Of the aligned score."
)
@click.option(
    "--record",
    "records",
    type=click.Path(path_type=Path),
    multiple=True,
    help="File that verdicts are appended to: .db (SQLite), .jsonl or .csv; may be given again.",
)
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder for annotated images of all frames; of several sources a folder each in it.",
)
@click.option(
    "--save-rejects",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder for annotated images of anomalous frames alone.",
)
@click.option(
    "--rejects-limit",
    callback=read_bytes,
    default="10GiB",
    show_default=True,
    metavar="SIZE",
    help="Most space for them; the oldest are deleted.",
)
@click.option(
    "--save-video",
    type=click.Path(path_type=Path),
    default=None,
    help="Annotated video of all frames: .mkv, .avi or .mp4; of several sources one each.",
)
@click.option("--video-fps", type=float, default=25.0, show_default=True, help="Rate at which it plays.")
@click.option(
    "--drop",
    type=click.Choice(["latest", "block", "drop-oldest"]),
    default=None,
    show_default="latest for live sources, block for files",
    help="What becomes of frames that come faster than they are inspected.",
)
@click.option(
    "--queue",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Frames of a source that wait at most, with block and drop-oldest.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=None,
    show_default="the number of sources, up to 8",
    help="Most frames in one inference.",
)
@click.option(
    "--batch-timeout",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Longest wait for frames of other sources, in ms; left out where waits bring none.",
)
@click.option("--skip-unreadable", is_flag=True, help="Go on after an image that cannot be read.")
@click.option(
    "--reconnect-limit",
    type=click.IntRange(min=0),
    default=None,
    show_default="none",
    help="Failed attempts in a row after which a lost live source is given up (exit code 4).",
)
@click.option(
    "--stall-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds without a frame after which a live source is opened anew.",
)
@click.option(
    "--serve",
    metavar="ADDRESS",
    default=None,
    help="Serve a live page at HOST:PORT, as 127.0.0.1:8080; port 0 for any free one.",
)
@click.option(
    "--serve-token",
    metavar="TOKEN",
    envvar=TOKEN_VARIABLE,
    show_envvar=True,
    default=None,
    help="What a viewer must know; needed where other machines reach the address.",
)
@click.option("--quiet", is_flag=True, help="Print no line a frame.")
@backend_option
@threads_option
@json_option
def predict(
    model: Path,
    sources: tuple[str, ...],
    *,
    threshold: float | None,
    backend: str,
    threads: int | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Inspect every SOURCE with MODEL, one line a frame, until they end.

    SOURCE is an image, folder, glob, list file (.txt) or video, or a live source: a webcam's index,
    /dev/video0, csi://0, rtsp:// and other URLs, or a GStreamer pipeline. A lost live source is opened again.
    Ctrl-C and SIGTERM end it in order: what was captured gets its verdict, and every file is closed. A second
    Ctrl-C waits for no verdict.
    """
    from cada_edge.runtime.detector import Detector

    with ExitStack() as stack:
        notices = stack.enter_context(Notices())
        detector = stack.enter_context(Detector(model, backend=backend, threshold=threshold, threads=threads))
        page = _page(detector, options["serve"], options["serve_token"], notices)
        if page is not None:
            stack.enter_context(page)

        def on_status(event: StatusEvent) -> None:
            notices.say(f"{event.kind}: {event.message}")
            if page is not None:
                page.tell(event)

        log = stack.enter_context(_log(detector, options, on_status, several=len(sources) > 1))

        kept = ("records", "save", "save_rejects", "save_video", "serve")
        lines = ResultLines(kept_elsewhere=any(options[name] for name in kept), on_status=on_status)

        def on_result(detection: Detection, frame: Frame) -> None:
            log.put(detection, frame)
            if page is not None:
                page.put(detection, frame)
            if not quiet:
                lines.write(json.dumps(detection.to_dict()) if as_json else repr(detection))

        started: list[Run] = []
        stack.callback(lambda: _say_summary(started, log, lines, notices))
        # On the stack at once: it ends before its log is closed, whenever a Ctrl-C comes.
        run = stack.enter_context(
            detector.run(
                *sources,
                on_result=on_result,
                on_status=on_status,
                options=_run_options(options, len(sources)),
            )
        )
        started.append(run)
        if page is not None:
            page.watch(run)
        try:
            with _stopped_by_signals(run) as was_interrupted:
                run.join()
        except KeyboardInterrupt:
            if run.is_alive:
                _end_at_once(log)
            raise
        if was_interrupted():
            raise KeyboardInterrupt


def _page(detector: Any, address: str | None, token: str | None, notices: Notices) -> LivePage | None:
    """Serve the live page, if one is wanted."""
    if address is None:
        return None
    from cada_edge.runtime.live_page import LivePage

    page = LivePage(
        detector, address, token=token, on_status=lambda event: notices.say(f"{event.kind}: {event.message}")
    )
    notices.say(f"page: {page.url}" + (" (asks for the token)" if token else ""))
    return page


def _log(detector: Any, options: dict[str, Any], on_status: OnStatus, *, several: bool) -> InspectionLog:
    from cada_edge.runtime.inspection_log import InspectionLog

    return InspectionLog(
        detector,
        records=options["records"],
        images=options["save"],
        rejects=options["save_rejects"],
        rejects_limit_bytes=options["rejects_limit"],
        video=options["save_video"],
        video_fps=options["video_fps"],
        per_source=several,
        on_status=on_status,
    )


def _run_options(options: dict[str, Any], sources: int) -> RunOptions:
    from cada_edge.runtime.camera import CameraOptions
    from cada_edge.runtime.live_source import Reconnect
    from cada_edge.runtime.run_options import RunOptions

    return RunOptions(
        batch=options["batch"] or min(sources, 8),
        batch_timeout_s=options["batch_timeout"] / 1e3,
        policy=options["drop"],
        capacity=options["queue"],
        on_error="skip" if options["skip_unreadable"] else "raise",
        camera=CameraOptions(stall_timeout_s=options["stall_timeout"]),
        reconnect=Reconnect(limit=options["reconnect_limit"]),
    )


@contextmanager
def _stopped_by_signals(run: Run) -> Iterator[Any]:
    """Let the first Ctrl-C or SIGTERM end the run in order, and a second Ctrl-C end the program at once.

    Gives a function that tells whether it was Ctrl-C. A service manager's SIGTERM is no failure: exit code 0.
    """
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread, whose handlers are the application's.
        yield lambda: False
        return
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        run.stop()

    # A shell that starts a job in the background has it ignore SIGINT: that stays.
    wanted = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield lambda: signal.SIGINT in received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_at_once(log: InspectionLog) -> NoReturn:
    """End the program after a second Ctrl-C, with what was put on record.

    A thread may hang, as in a write to a pipe that nobody reads. The interpreter's own end would wait for its
    lock on stdout, and then call it a fatal error.
    """
    try:
        log.close()
    finally:
        os._exit(130)


def _say_summary(runs: list[Run], log: InspectionLog, lines: ResultLines, notices: Notices) -> None:
    """Say at the end, on stderr, what became of every frame and of everything that was to be kept.

    Args:
        runs: The run, if it was begun.
        log: What was to be kept.
        lines: What was to be printed.
        notices: Where to say it.
    """
    if not runs:
        return
    stats = runs[0].stats
    total = sum((counts.dropped for counts in stats.sources.values()), 0)
    corrupt = sum((counts.corrupt for counts in stats.sources.values()), 0)
    latency = ""
    if stats.latency_ms:
        latency = "; latency {p50:.1f} ms (p50), {p99:.1f} ms (p99)".format(**stats.latency_ms)
    notices.say(
        f"inspected {stats.inspected} frames in {stats.seconds:.1f} s, {stats.anomalous} anomalous; "
        f"{total} dropped, {corrupt} corrupt, {stats.refused} refused{latency}"
    )
    for name, kept in log.close().items():
        if kept.lost:
            notices.say(f"{name}: {kept.written} written, {kept.lost} LOST")
    if lines.lost:
        notices.say(f"stdout: {lines.lost} lines LOST")
