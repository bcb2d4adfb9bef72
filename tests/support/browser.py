"""Drives a headless Chromium by the protocol of its developer tools, over two pipes: no package, no port."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
SHIM = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3]]
for number, end in zip((3, 4), ends):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """A page in a browser; ``said`` collects what its console says, ``asked`` what it would load beside the page itself.

    with Browser(folder) as browser:
        browser.open(page)
        browser.value("document.title")
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.number, self.buffer = folder, 0, b""
        self.said: list[str] = []
        self.asked: list[str] = []

    def __enter__(self) -> Browser:
        theirs_in, self.to = os.pipe()
        self.back, theirs_out = os.pipe()
        shim = [sys.executable, "-c", SHIM, str(theirs_in), str(theirs_out)]
        command = [*shim, str(BROWSER), *OPTIONS, f"--user-data-dir={self.folder}", "--remote-debugging-pipe"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stdout=quiet, stderr=quiet)
        os.close(theirs_in)
        os.close(theirs_out)
        self.session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self.to)
        os.close(self.back)
        self.process.kill()
        self.process.wait(30)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Calls a method of the protocol and returns its result."""
        self.number += 1
        session = {"sessionId": self.session} if self.session else {}
        message = {"id": self.number, "method": method, "params": params, **session}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, page: Path) -> None:
        """Opens a file, and waits until it is loaded."""
        self.page = page.resolve().as_uri()
        self.call("Page.navigate", url=self.page)
        while (found := self._next()).get("method") != "Page.loadEventFired":
            self._note(found)

    def value(self, script: str) -> Any:
        """Returns what a line of JavaScript gives; an AssertionError where it fails."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def click(self, script: str) -> None:
        """Clicks with the mouse on the middle of the element that a line of JavaScript gives."""
        self.move(script)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=self.at[0], y=self.at[1], button="left", clickCount=1)

    def move(self, script: str) -> None:
        """Moves the mouse to the middle of an element."""
        self.value(f"({script}).scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.value(f"(({script}).getBoundingClientRect()).toJSON()")
        self.at = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=self.at[0], y=self.at[1])

    def sized(self, width: int, height: int = 900, media: str = "", **features: str) -> None:
        """Sets the window's size, the medium ("print") and features such as ``prefers_color_scheme="dark"``."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        chosen = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", media=media, features=chosen)

    def picture(self, path: Path) -> None:
        """Keeps a picture of the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            part = os.read(self.back, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(line)

    def _note(self, found: Mapping[str, Any]) -> None:
        params = found.get("params", {})
        if found.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.said.append(json.dumps(params))
        url = params.get("request", {}).get("url", "") if found.get("method") == "Network.requestWillBeSent" else ""
        if url and not url.startswith("data:") and url != getattr(self, "page", ""):
            self.asked.append(url)
