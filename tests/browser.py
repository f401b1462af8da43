"""Pages in headless Chromium: screenshots, script errors, and when the first view stands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.imaging.views import views
from pipeline.page import data_uri, render

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Look(NamedTuple):
    """The document once its script has run, milliseconds until then, and what the console says."""

    document: str
    ready_ms: int | None
    console: list[str]


def find() -> str | None:
    """The browser's path; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def look(browser: str, page: Path) -> Look:
    """Open a page and read it."""
    done = _chromium(browser, page, "--dump-dom")
    ready = re.search(r'<body[^>]* data-ready="(\d+)"', done.stdout)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Look(done.stdout, int(ready[1]) if ready else None, console)


def screenshot(browser: str, page: Path, target: Path, width: int, height: int) -> None:
    """A PNG of the page at a width, in a frame: a window can't be as narrow as a phone."""
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        inside = f'<iframe src="{page.resolve().as_uri()}" style="border:0;width:{width}px;height:{height}px"></iframe>'
        frame.write_text(f'<!doctype html><body style="margin:0">{inside}')
        options = (f"--window-size={max(width, 500)},{height}", f"--screenshot={target.resolve()}", "--hide-scrollbars")
        _chromium(browser, frame, *options)


def synthetic(items: int, pictures: int = 300) -> bytes:
    """A page of so many items; its pictures are noise, which no real ones are larger than."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (600, 800, 3), np.uint8)
    made = views(noise, None, noise[..., 0])
    shown = {"width": made.width, "height": made.height, "contour": made.contour}
    shown |= {name: data_uri(getattr(made, name)) for name in ("photo", "cutout", "zoom")}
    rows: dict[str, list[Any]] = {
        "item_id": [f"catalog/2026/shoes/{number:08}.jpg" for number in range(items)],
        "status": ["review" if number % 9 == 0 else "ok" for number in range(items)],
        "quality": [number / items for number in range(items)],
        "reasons": [["stability", "soft_dice"][: number % 3] for number in range(items)],
        "tags": [["hair"] if number % 5 == 0 else [] for number in range(items)],
        "detail": [""] * items,
    }
    shows = [["photo", "photo", ""], ["contour", "photo", "outline"], ["on white", "cutout", "white"], ["zoom", "zoom", "wide"]]
    facts = {
        **{"title": "synthetic", "about": "", "recipe": "synthetic", "lines": [], "tables": [], "views": shows},
        **{"counts": [["ok", items]], "histogram": list(range(20)), "judges": ["accept", "reject"]},
    }
    return render(facts, rows, [shown | {"notes": [], "signals": ""} for _ in range(min(pictures, items))])


def _chromium(browser: str, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as profile:
        plain = ("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={profile}")
        command = [browser, *plain, *options, page.resolve().as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def main(folder: Path) -> int:
    """``make report-demo``: 0 if all is well, 1 if a page has errors or is slow, 2 without a browser."""
    browser = find()
    if browser is None:
        print(f"no browser to look with: none of {', '.join(NAMES)} is installed", file=sys.stderr)
        return 2
    fine = True
    pages = {"report": folder / "report.html"}
    for items in (10_000, 100_000):
        pages[f"{items} items"] = folder / f"synthetic-{items}.html"
        pages[f"{items} items"].write_bytes(synthetic(items))
    for name, page in pages.items():
        seen = look(browser, page)
        print(f"{name}: {page.stat().st_size / 2**20:.1f} MiB, first view after {seen.ready_ms} ms", *seen.console, sep="\n  ")
        slow = name != "100000 items" and (seen.ready_ms or 9999) > 2000
        fine &= seen.ready_ms is not None and not seen.console and not slow
    for name, width, height in (("desktop", 1280, 1600), ("phone", 390, 1400)):
        screenshot(browser, pages["report"], folder / f"{name}.png", width, height)
        print(f"  {folder / name}.png")
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
