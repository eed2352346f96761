"""Pictures for the page: what they show, and how many are drawn at most; and the files of the page."""

from __future__ import annotations

import re
import time

import cv2
import numpy as np
import pytest

from cada_edge.runtime import page_pictures
from cada_edge.runtime.detection import Detection
from cada_edge.runtime.draw import heat_levels
from cada_edge.runtime.page_link import Message
from cada_edge.runtime.page_pictures import Drawn, PictureDesk, draw_reject
from cada_edge.runtime.page_routes import pack_pictures, read_assets
from cada_edge.runtime.page_state import PageState, Shot
from cada_edge.runtime.source_base import Frame


def frame(index: int = 0, source: str = "cam", size_hw: tuple[int, int] = (20, 30)) -> Frame:
    return Frame(np.full((*size_hw, 3), 90, np.uint8), index, source, time.time(), time.monotonic())


def detection(score: float = 0.5, pixel_threshold: float | None = 1.0) -> Detection:
    anomaly_map = np.array([[0.0, 1.0], [1.01, 9.0]], np.float32)
    return Detection(
        score=score, raw_score=0, threshold=1.0, pixel_threshold=pixel_threshold, anomaly_map=anomaly_map
    )


def test_levels_are_those_of_the_colour_scale() -> None:
    levels, limit = heat_levels(detection())
    assert levels is not None
    # 1.5 times the threshold is the hottest colour; what is above the threshold is above the limit.
    assert (levels.tolist(), limit) == ([[0, 170], [172, 255]], 170)
    assert heat_levels(Detection(score=1, raw_score=1)) == (None, None)
    levels, limit = heat_levels(detection(pixel_threshold=None))
    assert limit is None
    levels, limit = heat_levels(detection(pixel_threshold=-1.0))
    assert limit is None  # the scale begins at 0


def test_a_reject_is_large_and_its_thumbnail_small() -> None:
    drawn = draw_reject(Shot(3, 1, detection(score=2), frame(7, size_hw=(1500, 3000))))
    sizes = []
    for part in drawn.parts:
        image = cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_UNCHANGED)
        assert image is not None
        sizes.append(image.shape)
    assert sizes == [(960, 1920, 3), (180, 360, 3), (2, 2)]
    assert (drawn.head["number"], drawn.head["source"], drawn.head["frame"]) == (3, 1, 7)
    assert (drawn.head["width"], drawn.head["height"], drawn.head["is_anomalous"]) == (1920, 960, True)


def test_drawing_takes_its_share_and_every_source_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    state = PageState()
    desk = PictureDesk(state)
    drawn: list[tuple[float, float, int]] = []

    def slow(shot: Shot) -> Drawn:
        began_s = time.monotonic()
        time.sleep(0.005)
        drawn.append((began_s, time.monotonic(), shot.source))
        return Drawn({}, [])

    monkeypatch.setattr(page_pictures, "draw_live", slow)
    deadline = time.monotonic() + 60
    while len(drawn) < 7:
        assert time.monotonic() < deadline
        for source in "abc":
            state.put(detection(), frame(0, source))
        desk.live({})
        time.sleep(0.001)
    spent_s = sum(ended_s - began_s for began_s, ended_s, _ in drawn[:-1])
    assert spent_s <= 0.055 * (drawn[-1][0] - drawn[0][0])
    assert [source for _, _, source in drawn] == [0, 1, 2, 0, 1, 2, 0]


def test_a_frame_that_the_page_has_is_not_drawn_again() -> None:
    state = PageState()
    desk = PictureDesk(state)
    state.put(detection(), frame())
    found = desk.live({})
    assert found is not None
    time.sleep(0.3)
    assert desk.live({"0": found.head["number"]}) is None
    # A page that has come anew gets it, also when no newer one comes.
    assert desk.live({}) is not None


def test_pictures_are_packed_one_after_another() -> None:
    body = pack_pictures([Message({"a": 1}, [b"xy", b"z"]), Message({"a": 2}, [b"w"])])
    length = int.from_bytes(body[:4], "big")
    assert body[4 + length :] == b"xyzw"
    assert b'"sizes": [2, 1]' in body
    assert pack_pictures([])[4:] == b'{"pictures": []}'


def test_the_page_needs_nothing_from_elsewhere() -> None:
    assets = read_assets()
    assert {"index.html", "page.css", "main.js", "sign_in.html", "welcome.html", "icon.svg"} <= set(assets)
    named = set()
    for name, asset in assets.items():
        text = asset.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"^\s*//.*$|\s// .*$", "", text, flags=re.MULTILINE), name
        assert not re.search(r"""\son\w+=|style=|<script>|<style|javascript:""", text), name
        named |= set(re.findall(r'/assets/([\w.]+)|from "\./([\w.]+)"', text))
    # Every file that is named is there, and every file is named.
    found = {one or other for one, other in named}
    assert found == set(assets) - {"index.html", "sign_in.html", "welcome.html"}


def test_the_pages_colours_are_those_of_draw() -> None:
    text = read_assets()["heat.js"].body.decode()
    digits = "".join(re.findall(r'^  "([0-9a-f]{96}|[0-9a-f]+)"', text, flags=re.MULTILINE))
    colours = np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(256, 3)
    wanted = cv2.applyColorMap(np.arange(256, dtype=np.uint8).reshape(1, 256), cv2.COLORMAP_INFERNO)[0]
    # OpenCV's versions differ by a step of rounding.
    assert np.abs(colours[:, ::-1].astype(int) - wanted.astype(int)).max() <= 1
