"""Pages in headless Chromium, driven by its own protocol over a pipe: real keys, phones, dark mode, downloads, screenshots.

https://chromedevtools.github.io/devtools-protocol/, as ``--remote-debugging-pipe`` speaks it: JSON and a zero byte, both ways.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pipeline.imaging.views import views
from pipeline.review.content import VIEWS, words
from pipeline.review.html import data_uri, render

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT_S = 60.0
CODES = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
"""Of keys that do something of themselves, in Windows' numbering."""


def find() -> str | None:
    """The browser's path; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One tab of a browser with a profile of its own. Use as a context manager."""

    def __init__(self, path: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.downloads = Path(self._folder.name) / "downloads"
        self.downloads.mkdir()
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        high = [fcntl.fcntl(pipe, fcntl.F_DUPFD, 10) for pipe in (theirs_in, theirs_out)]
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars")
        command = ["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "bash", path, *options]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={self._folder.name}/profile", "about:blank"],
            pass_fds=high,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for pipe in (theirs_in, theirs_out, *high):
            os.close(pipe)
        self._read, self._number, self._session = b"", 0, ""
        self.whole_ms = 0
        self.errors: list[str] = []
        """What went wrong in the page: exceptions, and what the console was told to be an error or refused by policy."""
        self.dialogs: list[str] = []
        """What the page has asked in boxes of the browser's own."""
        self.answer: str | None = None
        """What is answered to them; None dismisses them."""

    def __enter__(self) -> Browser:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self._folder.name, ignore_errors=True)
        self._folder.cleanup()

    def call(self, method: str, **params: Any) -> Any:
        """One call of the protocol, and its result."""
        number, until = self._send(method, params), time.monotonic() + TIMEOUT_S
        while True:
            message = self._receive(until)
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._note(message)

    def open(self, page: Path | str, *, width: int = 1280, height: int = 1000, dark: bool = False, phone: bool = False) -> int:
        """Show a page of ours, a file or an address; gives the milliseconds until its first view stood, pictures and all.

        The page is whole by then: ``whole_ms`` says since when."""
        scale = 2 if phone else 1
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        until = time.monotonic() + TIMEOUT_S
        times = "[document.body?.dataset.viewed, document.body?.dataset.ready]"
        while None in (found := self.run(times)):
            assert time.monotonic() < until, f"{page} was never ready: {self.errors}"
            time.sleep(0.02)
        viewed, self.whole_ms = map(int, found)
        return viewed

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, *keys: str) -> None:
        """Keys by their names, ``j`` or ``ArrowDown``, one after the other; a text of several letters is typed."""
        for key in (one for word in keys for one in ([word] if word in CODES else word)):
            text = {"Enter": "\r"}.get(key, "" if key in CODES else key)
            code = {"windowsVirtualKeyCode": CODES[key], "code": key} if key in CODES else {}
            self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", key=key, text=text, **code)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def screenshot(self, target: Path) -> None:
        """A PNG of what is seen."""
        target.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def downloaded(self, name: str) -> Path:
        """The file of this name, once the browser has it whole."""
        until = time.monotonic() + TIMEOUT_S
        while not (self.downloads / name).exists() or list(self.downloads.glob("*.crdownload")):
            assert time.monotonic() < until, f"no {name} in {[path.name for path in self.downloads.iterdir()]}"
            time.sleep(0.02)
        return self.downloads / name

    def _send(self, method: str, params: dict[str, Any]) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session and not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._number

    def _receive(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser says nothing"
            more = os.read(self._in, 2**20)
            assert more, "the browser has gone"
            self._read += more
        message, _, self._read = self._read.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _note(self, message: dict[str, Any]) -> None:
        """An event: errors are kept, dialogs are answered, or the page would wait for ever."""
        about = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = about["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description") or details["text"])
            case "Runtime.consoleAPICalled" if about["type"] == "error":
                self.errors.append(str([one.get("value") for one in about["args"]]))
            case "Log.entryAdded" if about["entry"]["level"] == "error":
                self.errors.append(about["entry"]["text"])
            case "Page.javascriptDialogOpening":
                self.dialogs.append(about["message"])
                self._send("Page.handleJavaScriptDialog", {"accept": self.answer is not None, "promptText": self.answer or ""})


WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
"""Pixels by which a page is wider than its window."""

LEAST_TEXT = """(() => {
  const sizes = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (walker.currentNode.data.trim() && parent.checkVisibility()) sizes.push(parseFloat(getComputedStyle(parent).fontSize));
  }
  return Math.min(...sizes);
})()"""
"""The size of the smallest text that is shown, in CSS pixels."""

LEAST_CONTRAST = """(() => {
  const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const over = (top, under) => {
    const [r, g, b, a = 1] = top;
    return [r, g, b].map((level, place) => level * a + under[place] * (1 - a));
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((level) => (level /= 255) <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const canvas = document.createElement("div");
  canvas.style.color = "Canvas";
  document.body.append(canvas);
  const page = numbers(getComputedStyle(canvas).color);
  canvas.remove();
  let least = [99, ""];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !parent.checkVisibility() || parent.closest(":disabled")) continue;
    const above = [];
    let opacity = 1;
    for (let one = parent; one; one = one.parentElement) {
      above.unshift(numbers(getComputedStyle(one).backgroundColor));
      opacity *= Number(getComputedStyle(one).opacity);
    }
    const ground = above.reduce((under, top) => over(top, under), page);
    const [r, g, b, a = 1] = numbers(getComputedStyle(parent).color);
    const pair = [light(over([r, g, b, a * opacity], ground)), light(ground)].sort((x, y) => y - x);
    const found = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (found < least[0]) least = [found, walker.currentNode.data.trim().slice(0, 40)];
  }
  return least;
})()"""
"""The least contrast of text and its ground by WCAG 2.2 (4.5 is asked for), and the text that has it."""


def synthetic(items: int, pictures: int = 300) -> bytes:
    """A page of so many items; its pictures are noise, which no real ones are larger than."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (600, 800, 3), np.uint8)
    made = views(noise, None, noise[..., 0])
    shown = {"width": made.width, "height": made.height, "contour": made.contour, "box": [9, 9, 700, 500], "full": [800, 600]}
    shown |= {name: data_uri(getattr(made, name)) for name in ("photo", "cutout", "zoom")}
    shown |= {"missing": [], "signals": [["soft_dice", "0.9"]], "photo_uri": "", "files": {}, "renditions": []}
    rows: dict[str, list[Any]] = {
        "item_id": [f"catalog/2026/shoes/{number:08}.jpg" for number in range(items)],
        "status": ["review" if number % 9 == 0 else "ok" for number in range(items)],
        "quality": [number / items for number in range(items)],
        "reasons": [["stability", "soft_dice"][: number % 3] for number in range(items)],
        "tags": [["hair"] if number % 5 == 0 else [] for number in range(items)],
        "version": ["ok"] * items,
        "code": [""] * items,
        "detail": [""] * items,
        "shown": [
            [f"SKU-{number:06}" for number in range(items)],
            [f"A shoe of size {number % 50}" for number in range(items)],
        ],
    }
    facts = blank_facts() | {
        "title": "synthetic",
        "tab": "synthetic",
        "counts": [["ok", items]],
        "histogram": list(range(20)),
        "columns": ["sku", "title"],
    }
    return render(facts, rows, [shown for _ in range(min(pictures, items))])


def blank_facts() -> dict[str, Any]:
    """What a page says about an output of which nothing is known."""
    texts = dict.fromkeys(("title", "tab", "date", "recipe", "folder"), "")
    lists = {
        name: []
        for name in (
            "counts",
            "about",
            "lines",
            "missing",
            "missing_rows",
            "histogram",
            "reasons",
            "failures",
            "tables",
            "columns",
        )
    }
    rest = {"calibrated": True, "sample": None, "base": None, "views": VIEWS, "verdicts": ["accept", "reject"]}
    return {**texts, **lists, **rest, **words()}
