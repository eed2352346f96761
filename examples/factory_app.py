"""Two cameras, one model: reject what is anomalous, record every verdict, stop cleanly on Ctrl-C or SIGTERM.

python factory_app.py model.onnx rtsp://left/1 rtsp://right/1 verdicts.db
"""

import signal
import sys

from cada_edge import Detection, Detector, Frame, InspectionLog, RunOptions, StatusEvent


def reject(source_id: str) -> None:
    """Blow the part off the belt: replace this line by your PLC, GPIO pin or fieldbus call."""
    print(f"REJECT {source_id}", flush=True)


def tell(event: StatusEvent) -> None:
    """Show what a person at the line wants to know: a camera that is lost, a disk that is full."""
    print(f"{event.kind}: {event.message}", file=sys.stderr, flush=True)


def main(model: str, left: str, right: str, record: str) -> None:
    """Inspect both cameras until told to stop; a camera that is lost is opened again."""
    with Detector(model) as detector, InspectionLog(detector, records=[record], on_status=tell) as log:

        def on_result(detection: Detection, frame: Frame) -> None:
            if detection.is_anomalous:
                reject(frame.source_id)
            log.put(detection, frame)  # never waits: a thread of its own writes

        run = detector.run(left, right, on_result=on_result, on_status=tell, options=RunOptions(batch=2))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: run.stop())  # what was captured still gets its verdict
        run.join()  # raises what ended the run, if anything did
        print(f"{run.stats.inspected} inspected, {run.stats.anomalous} rejected", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
