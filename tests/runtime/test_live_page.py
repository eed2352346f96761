"""The page's process, with real runs: what it answers, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from cada_edge import extras
from cada_edge.cli import main
from cada_edge.errors import ConfigError, MissingExtraError, OutputError
from cada_edge.runtime import live_page
from cada_edge.runtime.detection import Detection
from cada_edge.runtime.detector import Detector
from cada_edge.runtime.live_page import LivePage
from cada_edge.runtime.source_base import Frame
from cada_edge.runtime.stream_events import StatusEvent, make_event

pytestmark = pytest.mark.alone

TOKEN = "correct-horse-battery"


@pytest.fixture
def detector(tiny_model: Path) -> Iterator[Detector]:
    with Detector(tiny_model, threads=1) as opened:
        yield opened


@pytest.fixture
def page(detector: Detector) -> Iterator[LivePage]:
    with LivePage(detector, "127.0.0.1:0") as opened:
        yield opened


def put(page: LivePage, value: int, *, index: int = 0, source: str = "cam", size: int = 40) -> Frame:
    """Show a frame of one brightness, a reject above 0.5, with its map half bright."""
    frame = Frame(np.full((size, 60, 3), value, np.uint8), index, source, time.time(), time.monotonic())
    anomaly_map = np.zeros((16, 16), np.float32)
    anomaly_map[:, 8:] = value / 255
    page.put(
        Detection(
            score=value / 255, raw_score=0, threshold=0.5, pixel_threshold=0.5, anomaly_map=anomaly_map
        ),
        frame,
    )
    return frame


def get(page: LivePage, path: str, **headers: str) -> HTTPResponse:
    request = urllib.request.Request(page.url + path, headers=headers)
    response: HTTPResponse = urllib.request.urlopen(request, timeout=30)
    return response


def get_json(page: LivePage, path: str) -> Any:
    with get(page, path) as response:
        assert response.headers["Content-Type"] == "application/json"
        return json.load(response)


def get_live(page: LivePage, seen: str = "") -> list[tuple[dict[str, Any], list[bytes]]]:
    """Ask for live pictures and unpack them as the page does."""
    with get(page, f"api/live?seen={seen}") as response:
        body = response.read()
    length = int.from_bytes(body[:4], "big")
    at = 4 + length
    found = []
    for head in json.loads(body[4:at])["pictures"]:
        parts = []
        for size in head["sizes"]:
            parts.append(body[at : at + size])
            at += size
        found.append((head, parts))
    assert at == len(body)
    return found


def wait_until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def image_of(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image)


def test_a_run_is_seen(detector: Detector, page: LivePage) -> None:
    images = [np.full((20, 30, 3), value, np.uint8) for value in (0, 100, 255)]
    run = detector.run(images, on_result=page.put, on_status=page.tell)
    page.watch(run)
    run.join()
    time.sleep(0.3)  # an answer is kept for a moment
    state = get_json(page, "api/state")
    (source,) = state["sources"]
    assert (state["run"], state["inspected"], state["anomalous"], state["refused"]) == ("ended", 3, 1, 0)
    assert source["counts"] == {
        "captured": 3, "delivered": 3, "dropped": 0, "corrupt": 0, "waiting": 0, "source_gaps": 0
    }  # fmt: skip
    assert (source["last"]["frame"], source["last"]["is_anomalous"]) == (2, True)
    assert source["last"]["score"] == pytest.approx(1, abs=1e-5)
    assert set(state["latency_ms"]) == {"p50", "p95", "p99", "max"}
    assert (state["model"]["file"], state["model"]["threshold"]) == ("tiny.onnx", 0.5)
    (bins,) = get_json(page, "api/trace")["sources"].values()
    assert sum(each[3] for each in bins) == 3
    told = get_json(page, "api/events")
    assert ([event["kind"] for event in told["events"]], told["counts"]) == (["ended"], {"ended": 1})
    with get(page, "metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert 'cada_edge_inspected_frames_total{source="' in response.read().decode()


def test_a_live_picture_is_the_frame_and_its_map(page: LivePage) -> None:
    put(page, 100, index=7)
    ((head, (jpeg, levels)),) = get_live(page)
    assert (head["frame"], head["source"], head["name"], head["is_anomalous"]) == (7, 0, "cam", False)
    assert (head["width"], head["height"], head["limit_level"]) == (60, 40, 170)
    assert np.abs(image_of(jpeg).astype(int) - 100).max() <= 2
    # 1.5 times the pixel threshold is the hottest colour.
    wanted = round(100 / 255 / 0.75 * 255)
    assert image_of(levels).shape == (16, 16)
    assert image_of(levels)[:, :8].max() == 0
    assert set(image_of(levels)[:, 8:].flat) == {wanted}
    # Who has seen it waits for the next one.
    assert get_live(page, seen=str(head["number"])) == []
    put(page, 0, index=8)
    ((after, _),) = get_live(page, seen=str(head["number"]))
    assert (after["frame"], after["number"]) == (8, head["number"] + 1)


def test_frames_of_every_kind_are_shown(page: LivePage) -> None:
    kinds: list[np.ndarray] = [
        np.full((30, 50), 7, np.uint8),
        np.full((30, 50, 4), 7, np.uint8),
        np.full((3000, 100, 3), 7, np.uint8)[::2],
        np.full((30, 50), 7 * 257, np.uint16),
    ]
    for number, image in enumerate(kinds):
        frame = Frame(image, 0, f"cam {number}", time.time(), time.monotonic())
        page.put(Detection(score=0.1, raw_score=0.1), frame)
    found: dict[int, tuple[int, ...]] = {}

    def look() -> bool:
        for head, parts in get_live(page, seen=",".join("1" if n in found else "" for n in range(4))):
            assert (len(parts), head["has_map"], head["is_anomalous"]) == (1, False, None)
            image = image_of(parts[0])
            assert np.abs(image.astype(int) - 7).max() <= 2
            found[head["source"]] = image.shape
        return len(found) == 4

    wait_until(look)
    assert found == {0: (30, 50, 3), 1: (30, 50, 3), 2: (1280, 85, 3), 3: (30, 50, 3)}


def test_rejects_are_kept_whoever_looks(page: LivePage) -> None:
    for index, value in enumerate((200, 50, 250)):
        put(page, value, index=index)
    rejects = wait_until(lambda: len(found := get_json(page, "api/rejects")["rejects"]) == 2 and found)
    assert [(each["frame"], each["number"]) for each in rejects] == [(2, 2), (0, 1)]
    assert rejects[1]["score"] == pytest.approx(200 / 255)
    with get(page, "api/rejects/1/frame.jpg") as response:
        assert response.headers["Content-Type"] == "image/jpeg"
        assert np.abs(image_of(response.read()).astype(int) - 200).max() <= 2
    with get(page, "api/rejects/1/map.png") as response:
        assert response.headers["Content-Type"] == "image/png"
        assert image_of(response.read())[0, 15] == 255
    with get(page, "api/rejects/2/thumb.jpg") as response:
        assert image_of(response.read()).shape == (40, 60, 3)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(page, "api/rejects/3/frame.jpg")


def test_there_is_nothing_beside_the_page(page: LivePage) -> None:
    connection = HTTPConnection(page.url.split("/")[2], timeout=30)
    for path in (
        "/nowhere",
        "/assets/",
        "/assets/../live_page.py",
        "/assets/..%2flive_page.py",
        "/assets/%2e%2e/live_page.py",
        "/assets//etc/passwd",
        "/../../etc/passwd",
        "//etc/passwd",
        "/api/rejects/1/../../../etc/passwd",
        "/api/trace?span_s=7",
        "/api/live?seen=x",
    ):
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        assert response.status == 404, path
        assert b"root:" not in body
        assert b"import" not in body
    connection.close()


def test_methods_names_and_headers(page: LivePage) -> None:
    connection = HTTPConnection(page.url.split("/")[2], timeout=30)
    for method, host, status in (
        ("HEAD", "localhost", 200),
        ("GET", "localhost", 200),
        ("POST", "localhost", 405),
        ("OPTIONS", "localhost", 405),
        ("GET", "evil.org", 403),
    ):
        connection.request(method, "/", headers={"Host": host})
        response = connection.getresponse()
        body = response.read()
        assert response.status == status
        assert (len(body) > 0) is (method != "HEAD")
        assert int(response.headers["Content-Length"]) > 0
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
        assert response.headers["Cache-Control"] == "no-store"
        assert "Server" not in response.headers
        assert "Access-Control-Allow-Origin" not in response.headers
    connection.close()


def test_another_address_asks_for_the_token(detector: Detector) -> None:
    with LivePage(detector, "0.0.0.0:0", token=TOKEN) as page:
        port = page.url.rpartition(":")[2].strip("/")
        base = f"http://127.0.0.1:{port}/"

        def ask(path: str, **headers: str) -> tuple[int, str, str]:
            request = urllib.request.Request(base + path, headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    return response.status, response.read().decode(), response.headers["Set-Cookie"] or ""
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode(), ""

        assert ask("api/state")[0] == 401
        assert ask("metrics", Authorization="Bearer wrong")[0] == 401
        assert 'name="token"' in ask("")[1]
        assert ask("assets/page.css")[0] == 200
        assert ask("assets/main.js")[0] == 200
        assert ask("metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
        status, body, cookie = ask(f"?token={TOKEN}")
        assert (status, 'http-equiv="refresh"' in body) == (200, True)
        assert ask("api/state", Cookie=cookie.partition(";")[0])[0] == 200


def test_a_taken_port_is_told_before_anything_runs(page: LivePage, detector: Detector) -> None:
    taken = page.url.split("/")[2]
    with pytest.raises(ConfigError, match=r"cannot be served at 127\.0\.0\.1:\d+: address already in use"):
        LivePage(detector, taken)
    with pytest.raises(ConfigError, match=r"cannot be served at .*wanted an address of this machine"):
        LivePage(detector, "192.0.2.1:0", token=TOKEN)  # a network for documentation: nobody's
    with pytest.raises(ConfigError, match="which other machines reach, without a token"):
        LivePage(detector, "0.0.0.0:0")


def test_a_missing_extra_names_its_command(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'tornado', .*pip install 'cada-edge\[serve\]'"):
        LivePage(detector, "127.0.0.1:0")


def test_a_process_that_does_not_start_is_told(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_page, "_CHILD", "raise SystemExit(7)")
    with pytest.raises(OutputError, match=r"127\.0\.0\.1:0 ended or did not listen; wanted it to serve"):
        LivePage(detector, "127.0.0.1:0")
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(OutputError, match="no Python executable of its own"):
        LivePage(detector, "127.0.0.1:0")


def test_a_dead_server_ends_no_inspection_and_comes_back(detector: Detector) -> None:
    events: list[StatusEvent] = []
    with LivePage(detector, "127.0.0.1:0", on_status=events.append) as page:
        put(page, 10)
        url = page.url
        os.kill(page.pid, signal.SIGKILL)
        wait_until(lambda: [event.kind for event in events] == ["page_failed"])
        put(page, 20, index=1)
        wait_until(lambda: [event.kind for event in events] == ["page_failed", "page_recovered"])
        assert page.url == url
        state = get_json(page, "api/state")
        assert state["inspected"] == 2
        assert [event["kind"] for event in state["events"]] == ["page_recovered", "page_failed"]
        ((head, _),) = get_live(page)
        assert head["frame"] == 1
    assert [event.kind for event in events] == ["page_failed", "page_recovered"]


def test_a_stopped_server_holds_nothing_up(detector: Detector) -> None:
    page = LivePage(detector, "127.0.0.1:0")
    os.kill(page.pid, signal.SIGSTOP)
    started = time.monotonic()
    for index in range(200):
        put(page, 200, index=index)
    assert time.monotonic() - started < 5
    page.close()
    page.close()
    assert time.monotonic() - started < 20
    put(page, 1)


def test_the_process_ends_with_the_inspection(tiny_model: Path) -> None:
    program = (
        "import sys, time; from cada_edge import Detector, LivePage\n"
        "if __name__ == '__main__':\n"
        "    page = LivePage(Detector(sys.argv[1]), '127.0.0.1:0')\n"
        "    print(page.pid, page.url, flush=True); time.sleep(60)\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", program, str(tiny_model)], stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    pid, url = running.stdout.readline().split()
    assert urllib.request.urlopen(url, timeout=30).status == 200
    os.kill(int(pid), signal.SIGTERM)  # a service manager's goes to every process: the page waits for the end
    time.sleep(0.2)
    urllib.request.urlopen(url, timeout=30).close()
    running.kill()
    running.communicate()
    wait_until(lambda: not _is_listening(url))


def _is_listening(url: str) -> bool:
    host, _, port = url.split("/")[2].partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_events_reach_the_page_without_secrets(page: LivePage) -> None:
    page.tell(make_event("lost", "rtsp://***@cam/1", "rtsp://***@cam/1 is lost: no route", reason="no route"))
    time.sleep(0.3)
    state = get_json(page, "api/state")
    assert state["event_counts"] == {"lost": 1}
    assert state["sources"][0]["status"] == "lost"


def test_predict_serves_the_page(tiny_model: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "part.png"), np.full((20, 20, 3), 255, np.uint8))
    (tmp_path / "endless.txt").write_text("part.png\n" * 50_000)
    command = [sys.executable, "-m", "cada_edge", "predict", str(tiny_model), str(tmp_path / "endless.txt")]
    running = subprocess.Popen(
        [*command, "--serve", "127.0.0.1:0", "--quiet"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    said = running.stderr.readline()
    try:
        assert said.startswith("page: http://127.0.0.1:")
        url = said.split()[1]

        def state() -> Any:
            with urllib.request.urlopen(f"{url}api/state", timeout=30) as response:
                return json.load(response)

        found = wait_until(lambda: (now := state())["inspected"] > 10 and now)
        assert found["sources"][0]["counts"]["captured"] > 10
        assert found["run"] == "running"
        # Ctrl-C goes to the page's process too, and ends the inspection in order all the same.
        running.send_signal(signal.SIGTERM)
        rest = running.communicate(timeout=60)[1]
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 0, rest
    assert "inspected" in rest
    assert "page_failed" not in rest
    assert not _is_listening(url)


@pytest.mark.parametrize(
    ("options", "said", "code"),
    [
        (["--serve", "0.0.0.0:0"], "CADA_EDGE_SERVE_TOKEN", 2),
        (["--serve", "nowhere"], "wanted HOST:PORT", 2),
        (["--serve", "0.0.0.0:0", "--serve-token", "short"], "wanted at least 16 printable ones", 2),
    ],
)
def test_predict_refuses_before_it_inspects(
    tiny_model: Path, tmp_path: Path, options: list[str], said: str, code: int
) -> None:
    cv2.imwrite(str(tmp_path / "part.png"), np.zeros((20, 20, 3), np.uint8))
    result = CliRunner().invoke(main, ["predict", str(tiny_model), str(tmp_path / "part.png"), *options])
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stdout == ""


def test_predict_takes_the_token_from_the_environment(tiny_model: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "part.png"), np.zeros((20, 20, 3), np.uint8))
    result = CliRunner().invoke(
        main,
        ["predict", str(tiny_model), str(tmp_path / "part.png"), "--serve", "0.0.0.0:0"],
        env={"CADA_EDGE_SERVE_TOKEN": TOKEN},
    )
    assert result.exit_code == 0, result.stderr
    assert "(asks for the token)" in result.stderr
    assert TOKEN not in result.output
