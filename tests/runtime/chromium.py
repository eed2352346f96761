"""Headless Chromium for test_page_browser.py, driven by its DevTools protocol: no further package is needed.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tornado.websocket import websocket_connect

# As root, and silent: no look for updates, nothing sent anywhere.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-breakpad",
    "--disable-crash-reporter",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
LONGEST_S = 60.0


async def _connect(url: str) -> Any:
    return await websocket_connect(url, max_message_size=1 << 28)


class Chromium:
    """A browser with one tab; used by one thread."""

    def __init__(self, folder: Path) -> None:
        """Start it with a fresh profile in a folder."""
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            ["chromium", *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port, path = self._wait(lambda: (folder / "DevToolsActivePort").read_text().split())
            url = f"ws://127.0.0.1:{port}{path}"
            self._socket: Any = self._loop.run_until_complete(_connect(url))
            target = self.command("Target.createTarget", url="about:blank")["targetId"]
            attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.command(f"{domain}.enable")
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _wait(self, look: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + LONGEST_S
        while True:
            try:
                found = look()
            except OSError:
                found = None
            if found:
                return found
            assert time.monotonic() < deadline, "Chromium does not start"
            time.sleep(0.05)

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come meanwhile are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        return self._loop.run_until_complete(asyncio.wait_for(self._exchange(message), LONGEST_S))

    async def _hang_up(self) -> None:
        # In the loop: elsewhere the futures of Tornado make a loop of their own, which nobody closes.
        self._socket.close()
        await asyncio.sleep(0)

    async def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        await self._socket.write_message(json.dumps(message))
        while True:
            text = await self._socket.read_message()
            assert text is not None, "Chromium has ended"
            found: dict[str, Any] = json.loads(text)
            if found.get("id") == message["id"]:
                assert "error" not in found, found
                result: dict[str, Any] = found["result"]
                return result
            self.events.append(found)

    def open(self, url: str) -> None:
        """Go to an address."""
        self.command("Page.navigate", url=url)

    def look(self, *, width: int, height: int, scheme: str = "dark", ratio: float = 1) -> None:
        """Take a size in CSS pixels and a colour scheme."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=ratio,
            mobile=width < 600,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setEmulatedMedia", features=[feature])

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or of the promise that it is."""
        found = self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str, *, longest_s: float = LONGEST_S) -> Any:
        """Wait until an expression is true and return its value."""
        deadline = time.monotonic() + longest_s
        while not (found := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"{expression} stays {found!r}: {self.text()}"
            time.sleep(0.05)
        return found

    def text(self) -> str:
        """Return what a person can read."""
        return str(self.evaluate("document.body.innerText"))

    def press(self, key: str) -> None:
        """Press a key, by its name in the DOM."""
        codes = {"ArrowLeft": 37, "ArrowRight": 39, "Escape": 27, "Enter": 13, "Tab": 9, " ": 32}
        text = {"Enter": "\r", " ": " "}.get(key)
        down: dict[str, Any] = {"text": text} if text else {}
        code = codes[key]
        self.command(
            "Input.dispatchKeyEvent",
            type="keyDown" if text else "rawKeyDown",
            key=key,
            code=key,
            windowsVirtualKeyCode=code,
            **down,
        )
        self.command("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path | None = None, *, whole: bool = False) -> bytes:
        """Return a PNG of what is seen, or of the whole page; and write it."""
        found = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        data = base64.b64decode(found["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    def errors(self) -> list[str]:
        """List the errors and warnings of the console, exceptions and failed loads so far."""
        found = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(json.dumps(params["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(params["args"]))
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return found

    def requested(self) -> list[str]:
        """List the addresses that were asked for so far."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def close(self) -> None:
        """End it."""
        try:
            self._loop.run_until_complete(self._hang_up())
        finally:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._loop.close()
