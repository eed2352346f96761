"""The page in a real browser, headless Chromium, while a run is going: what a person sees, and does."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cada_edge.errors import SourceError
from cada_edge.runtime.camera import CameraOptions
from cada_edge.runtime.detector import Detector
from cada_edge.runtime.draw import heatmap
from cada_edge.runtime.live_address import LiveAddress
from cada_edge.runtime.live_page import LivePage
from cada_edge.runtime.live_source import LiveSource, Reconnect
from cada_edge.runtime.run_options import RunOptions

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.needs_system("chromium")]

TOKEN = "correct-horse-battery"
GOOD, BAD = 60, 220
"""Brightness of frames: the tiny model's score is their mean over 255, its threshold 0.5."""


class CameraDouble:
    """A camera whose cable a test can pull; a double, since no camera is at hand."""

    notes: tuple[str, ...] = ()

    def __init__(self, line: Line) -> None:
        self._line = line

    def read(self) -> tuple[Any | None, float, float] | None:
        time.sleep(0.05)
        if self._line.is_cut.is_set():
            return None
        image = np.full((120, 160, 3), GOOD, np.uint8)
        if self._line.rejects:
            self._line.rejects -= 1
            image[:] = BAD
        else:
            image[30:60, 40:80] = 255  # hot, and not enough of it for a reject
        return image, time.time(), time.monotonic()

    def close(self) -> None:
        pass


class Line:
    """Two cameras, a run and the page."""

    def __init__(self, detector: Detector, page: LivePage) -> None:
        self.is_cut = threading.Event()
        self.rejects = 0
        self.page = page
        self.run = detector.run(
            self._source("left"),
            self._source("right", of=Line.__new__(Line)),
            on_result=page.put,
            on_status=page.tell,
            options=RunOptions(batch=2),
        )
        page.watch(self.run)

    def _source(self, name: str, *, of: Line | None = None) -> LiveSource:
        line = of or self
        if of is not None:
            of.is_cut, of.rejects = threading.Event(), 0  # this one is never cut

        def connect(address: LiveAddress, options: CameraOptions) -> CameraDouble:
            if line.is_cut.is_set():
                raise SourceError("no route to the camera.")
            return CameraDouble(line)

        return LiveSource(
            LiveAddress("network", f"rtsp://me:secret@{name}/1", f"rtsp://***@{name}/1"),
            reconnect=Reconnect(0.5, 0.5, 0),
            policy="block",  # every reject is seen, however slow the machine
            connect=connect,
        )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("chromium", Path(__file__).with_name("chromium.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.Chromium(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def line(tiny_model: Path) -> Iterator[Line]:
    with Detector(tiny_model, threads=1) as detector, LivePage(detector, "127.0.0.1:0") as page:
        line = Line(detector, page)
        yield line
        line.run.stop()
        line.run.join()


def open_page(browser: Any, url: str, *, width: int = 1280, height: int = 720, scheme: str = "dark") -> None:
    # The page of the test before has lost its server, and says so in the console.
    browser.open("about:blank")
    browser.wait_for("location.href === 'about:blank'")
    browser.events.clear()
    browser.look(width=width, height=height, scheme=scheme)
    browser.open(url)
    browser.wait_for("document.querySelectorAll('.card[data-status=live]').length === 2")


def card(name: str) -> str:
    return f"[...document.querySelectorAll('.card')].find(each => each.innerText.includes('{name}'))"


def pixels(browser: Any, canvas: str, x: float, y: float) -> list[int]:
    """Return the colour (R, G, B) of a canvas at a place, given as shares of its size."""
    found: list[int] = browser.evaluate(
        f"(() => {{ const shown = {canvas}; const copy = document.createElement('canvas');"
        "const context = copy.getContext('2d', { willReadFrequently: true });"
        f"context.drawImage(shown, -{x} * shown.width, -{y} * shown.height);"
        "return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3); })()"
    )
    return found


def test_a_person_sees_the_line(line: Line, browser: Any) -> None:
    open_page(browser, line.page.url)
    browser.wait_for(f"{card('right')}.innerText.includes('OK')")
    said = browser.text()
    assert "Running" in said
    assert "tiny.onnx" in said
    assert "secret" not in said
    canvas = f"{card('left')}.querySelector('canvas')"
    assert browser.wait_for(f"{canvas}.width") == 160
    # The heat-map's colour over the hot part is the one that `draw` gives.
    hot = heatmap(np.full((1, 1), 1.0), (0, 0.75))[0, 0, ::-1].astype(float)
    opacity = 0.6
    wanted = 255 * (1 - opacity) + opacity * hot
    shown = pixels(browser, canvas, 0.375, 0.375)
    assert np.abs(np.array(shown) - wanted).max() < 12, (shown, wanted)
    browser.evaluate("document.getElementById('overlay').click()")
    assert min(pixels(browser, canvas, 0.375, 0.375)) > 245
    browser.evaluate("document.getElementById('overlay').click()")
    assert min(pixels(browser, canvas, 0.375, 0.375)) < 240
    # Frames move: the number of the one that is shown goes up.
    number = f"Number({card('left')}.querySelector('.verdict small').textContent.replace(/\\D/g, ''))"
    before = browser.evaluate(number)
    browser.wait_for(f"{number} > {before} + 5")
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.errors() == []
    # Nothing came from elsewhere.
    assert {each.split("/")[2] for each in browser.requested() if each.startswith("http")} == {
        line.page.url.split("/")[2]
    }


def test_a_paused_inspection_does_not_pass_for_a_quiet_one(line: Line, browser: Any) -> None:
    open_page(browser, line.page.url)
    said = "document.getElementById('run').textContent"
    browser.wait_for(f"{said}.includes('Running')")
    line.run.pause()
    browser.wait_for(f"{said}.includes('Paused')")
    line.run.resume()
    browser.wait_for(f"{said}.includes('Running')")


def test_rejects_open_large_and_the_keyboard_turns_them(line: Line, browser: Any) -> None:
    open_page(browser, line.page.url)
    line.rejects = 3
    browser.wait_for("document.querySelectorAll('#rejects img').length === 3")
    browser.wait_for("[...document.querySelectorAll('#rejects img')].every(each => each.naturalWidth > 0)")
    assert browser.evaluate("document.querySelector('#rejects button').ariaLabel").startswith(
        "Reject 3: score 0.86"
    )
    browser.evaluate("document.querySelector('#rejects button').focus()")
    browser.press("Enter")
    browser.wait_for("document.getElementById('viewer').open")
    place = "document.getElementById('viewer-place').textContent"
    browser.wait_for(f"{place} === '1 of 3'")
    assert "0.86 > 0.50" in browser.evaluate("document.getElementById('viewer-title').textContent")
    picture = "document.getElementById('viewer-picture')"
    browser.wait_for(f"{picture}.width === 160")
    browser.press("ArrowRight")
    browser.wait_for(f"{place} === '2 of 3'")
    browser.press("ArrowRight")
    browser.press("ArrowRight")  # there is no older one
    browser.wait_for(f"{place} === '3 of 3'")
    browser.press("ArrowLeft")
    browser.wait_for(f"{place} === '2 of 3'")
    browser.press("Escape")
    browser.wait_for("!document.getElementById('viewer').open")
    # The focus is back where it was opened, at the reject that was seen last.
    browser.wait_for("document.activeElement.ariaLabel?.startsWith('Reject 2:')")
    assert browser.errors() == []


def test_a_reload_shows_the_same_line(line: Line, browser: Any) -> None:
    open_page(browser, line.page.url)
    line.rejects = 1
    browser.wait_for("document.querySelectorAll('#rejects img').length === 1")
    browser.evaluate("document.getElementById('overlay').click()")
    browser.command("Page.reload")
    browser.wait_for("document.querySelectorAll('.card[data-status=live]').length === 2")
    browser.wait_for("document.querySelectorAll('#rejects img').length === 1")
    assert browser.evaluate("document.getElementById('overlay').checked") is False  # as he left it
    browser.evaluate("document.getElementById('overlay').click()")
    assert "is open" in browser.evaluate("document.getElementById('events').innerText")
    assert browser.errors() == []


def test_an_inspection_that_is_started_again_shows_no_reject_of_before(
    tiny_model: Path, line: Line, browser: Any
) -> None:
    open_page(browser, line.page.url)
    line.rejects = 2
    browser.wait_for("document.querySelectorAll('#rejects img').length === 2")
    browser.evaluate("document.querySelector('#rejects button').click()")
    browser.wait_for("document.getElementById('viewer').open")
    before = browser.evaluate(
        "fetch('/api/state').then(found => found.json()).then(state => state.inspection)"
    )
    assert isinstance(before, str)
    port = int(line.page.url.rstrip("/").rpartition(":")[2])
    line.run.stop()
    line.run.join()
    line.page.close()
    with Detector(tiny_model, threads=1) as detector, LivePage(detector, f"127.0.0.1:{port}") as page:
        again = Line(detector, page)
        again.rejects = 1
        try:
            browser.wait_for("document.querySelectorAll('#rejects img').length === 1")
            assert browser.evaluate("document.getElementById('viewer').open") is False
            browser.wait_for("document.querySelectorAll('.card[data-status=live]').length === 2")
            assert browser.evaluate("document.querySelectorAll('.card').length") == 2
            # Asked for by its number under the name of before, there is none.
            status = "fetch('/api/rejects/1/frame.jpg?of={}').then(found => found.status)"
            assert browser.evaluate(status.format(before)) == 404
        finally:
            again.run.stop()
            again.run.join()


def test_a_lost_source_is_never_shown_as_live(line: Line, browser: Any) -> None:
    open_page(browser, line.page.url)
    left = card("left")
    browser.wait_for(f"{left}.querySelector('.screen').dataset.shown === 'live'")
    line.is_cut.set()
    browser.wait_for(f"{left}.dataset.status === 'lost'")
    said = browser.evaluate(f"{left}.innerText")
    assert "No frame since " in said
    assert "Lost" in said
    assert "NOT INSPECTED" in said
    assert "✓ OK" not in said
    browser.wait_for(f"{left}.innerText.includes('no route to the camera')")
    browser.wait_for("document.title.startsWith('▲ 1 lost')")
    assert "1 of 2 lost" in browser.text()
    # What was seen last is grey and dark.
    style = f"getComputedStyle({left}.querySelector('.screen canvas')).filter"
    assert "grayscale(1)" in browser.evaluate(style)
    assert browser.evaluate(f"{card('right')}.dataset.status") == "live"
    line.is_cut.clear()
    browser.wait_for(f"{left}.dataset.status === 'live'")
    assert browser.evaluate(style) == "none"
    assert browser.errors() == []


def test_the_page_says_when_it_has_lost_the_inspection(line: Line, browser: Any) -> None:
    open_page(browser, line.page.url)
    alarm = "document.getElementById('alarm')"
    assert browser.evaluate(f"{alarm}.hidden") is True
    os.kill(line.page.pid, signal.SIGSTOP)
    try:
        browser.wait_for(f"!{alarm}.hidden")
        assert "No connection to the inspection since" in browser.evaluate(f"{alarm}.innerText")
        assert browser.evaluate("document.querySelectorAll('.card[data-status=unknown]').length") == 2
        assert "OK" not in browser.evaluate("document.getElementById('sources').innerText")
    finally:
        os.kill(line.page.pid, signal.SIGCONT)
    browser.wait_for(f"{alarm}.hidden")
    browser.wait_for("document.querySelectorAll('.card[data-status=live]').length === 2")


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844)])
def test_it_fits_every_screen_in_both_schemes(
    line: Line, browser: Any, width: int, height: int, scheme: str
) -> None:
    line.rejects = 1
    open_page(browser, line.page.url, width=width, height=height, scheme=scheme)
    browser.wait_for("document.querySelectorAll('#rejects img').length === 1")
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shot = cv2.imdecode(np.frombuffer(browser.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert shot is not None
    assert shot.shape == (height, width, 3)
    ground = shot[-1, 0].mean()
    assert ground < 40 if scheme == "dark" else ground > 215
    # Every text can be read: contrast 4.5 to 1 (WCAG AA) against the ground that it stands on.
    assert browser.evaluate(CONTRAST) == []


CONTRAST = """(() => {
  const luminance = (colour) => {
    const [r, g, b] = colour.map((value) => {
      value /= 255;
      return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.6) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest("noscript")) continue;
    const one = luminance(parse(getComputedStyle(element).color).slice(0, 3));
    const two = luminance(ground(element));
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (ratio < 4.5) faint.push(`${walker.currentNode.textContent} ${ratio.toFixed(2)}`);
  }
  return faint;
})()"""


def test_another_machine_signs_in_once(tiny_model: Path, browser: Any) -> None:
    with Detector(tiny_model, threads=1) as detector, LivePage(detector, "0.0.0.0:0", token=TOKEN) as page:
        url = page.url.replace("0.0.0.0", "127.0.0.1")
        browser.open(url)
        browser.wait_for("document.getElementById('token') !== null")
        browser.evaluate(
            f"document.getElementById('token').value = '{TOKEN}'; document.querySelector('button').click()"
        )
        browser.wait_for("document.getElementById('figures') !== null")
        # The token is neither in the address nor within reach of a script.
        browser.wait_for("document.querySelector('#model').textContent.includes('tiny.onnx')")
        assert browser.evaluate("location.href") == url
        assert browser.evaluate("document.cookie") == ""
        browser.command("Page.reload")
        browser.wait_for("document.querySelector('#model')?.textContent.includes('tiny.onnx')")
