"""``make report-demo``: bars on the report page of the demo, and of large outputs, in headless Chromium."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline.output.output import Output, open_output
from pipeline.review.html import render
from pipeline.review.reviews import import_reviews, read_reviews
from pipeline.storage.files import Files

pytestmark = pytest.mark.study
HOSTILE = ("<script>window.hacked = 1</script>", '"><img src=x onerror="window.hacked = 1">', "javascript:window.hacked = 1")
PHONE = {"width": 390, "height": 844, "phone": True}
LOOKS: dict[str, dict[str, Any]] = {
    "desktop": {"height": 800},
    "dark": {"height": 800, "dark": True},
    "phone": PHONE,
    "phone-dark": PHONE | {"dark": True},
}


VIEWS = {"top": [], "item": ["j"], "large": ["j", "v", "ArrowRight"], "help": ["?"]}
"""Keys that lead to each view of the page."""


@pytest.fixture
def out(results: Callable[[str], Path]) -> Path:
    return results("report")


@pytest.fixture
def page(out: Path) -> Path:
    """The demo's page, which the make target writes first."""
    path = out / "report.html"
    assert path.exists(), f"{path} does not exist; run make report-demo"
    return path


@pytest.fixture
def tab(browser: ModuleType) -> Iterator[Any]:
    path = browser.find()
    assert path is not None, f"no browser is installed; install one of {', '.join(browser.NAMES)}"
    with browser.Browser(path) as opened:
        yield opened


def test_pages_open_fast(tab: Any, browser: ModuleType, bars: Any, page: Path, out: Path) -> None:
    pages = {"the demo": page}
    for items in (10_000, 100_000):
        pages[f"{items:,} items"] = path = out / f"synthetic-{items}.html"
        path.write_bytes(browser.synthetic(items))
    ms, whole_ms = {}, {}
    for name, path in pages.items():
        times = [(tab.open(path), tab.whole_ms) for _ in range(3)]
        ms[name], whole_ms[name] = map(max, zip(*times, strict=True))
    print(f"first view, ms, worst of 3: {ms}; whole page: {whole_ms}")
    bars.at_most("first view of 10,000 items, ms, worst of 3", ms["10,000 items"], 2000)
    bars.at_most("first view of 100,000 items, ms, worst of 3", ms["100,000 items"], 2000)
    bars.at_most("first view of the demo, ms, worst of 3", ms["the demo"], 2000)
    bars.at_most("script errors: demo, 10,000 and 100,000 items", len(tab.errors), 0)


def test_reviews_by_keyboard_reach_the_index(tab: Any, bars: Any, page: Path, tmp_path: Path) -> None:
    """Every item is judged by a key, exported by another, and imported into a copy of the demo's index."""
    demo = open_output(str(page.parents[1] / "demo"), Files()).layout
    copy = Output.at(str(tmp_path / "copy"), Files())
    shutil.copytree(demo.folder, copy.folder)
    tab.open(page)
    items = tab.run("JSON.parse(document.getElementById('rows').textContent).item_id.length")
    tab.press("ar" * (items // 2) + "a" * (items % 2), "e")
    with tab.downloaded("reviews.csv").open(newline="") as file:
        text = file.read()
    import_reviews(text, copy)
    reviews = read_reviews(copy).latest
    rows = csv.DictReader(text.splitlines())
    arrived = [row for row in rows if reviews.get(row["item_id"], {}).get("verdict") == row["verdict"]]
    bars.at_least("verdicts that went from keys into the index", len(arrived), items)
    bars.at_least("of them rejected", sum(row["verdict"] == "reject" for row in arrived), items // 2)
    bars.at_most("script errors meanwhile", len(tab.errors), 0)


def test_the_page_is_readable_on_phones_and_in_dark_mode(
    tab: Any, browser: ModuleType, bars: Any, page: Path, out: Path
) -> None:
    contrasts, overflows, text_sizes = [], [], []
    for name, look in LOOKS.items():
        for view, keys in VIEWS.items():
            tab.open(page, **look)
            tab.press(*keys)
            tab.run("new Promise((done) => setTimeout(done, 300))")  # pictures are decoded
            tab.screenshot(out / f"{name}-{view}.png")
            print(out / f"{name}-{view}.png")
            overflows.append(tab.run(browser.WIDER))
            text_sizes.append(tab.run(browser.LEAST_TEXT))
            contrasts.append(tab.run(browser.LEAST_CONTRAST)[0])
    bars.at_most("pixels that the page is wider than its window, phones too", max(overflows), 0)
    bars.at_least("smallest text, px", min(text_sizes), 12)
    bars.at_least("lowest contrast of text, light and dark (WCAG AA: 4.5)", min(contrasts), 4.5)


def test_hostile_texts_are_only_text(tab: Any, browser: ModuleType, bars: Any, tmp_path: Path) -> None:
    one, other, third = HOSTILE
    rows: dict[str, list[Any]] = {name: list(HOSTILE) for name in ("item_id", "status", "version", "code", "detail")}
    rows |= {"quality": [0.5] * len(HOSTILE), "shown": [list(HOSTILE)]}
    rows |= {name: [[text] for text in HOSTILE] for name in ("reasons", "tags")}
    facts = browser.blank_facts() | dict.fromkeys(("title", "tab", "date", "recipe", "folder", "base"), one)
    facts |= {"counts": [[other, 1]], "lines": list(HOSTILE), "histogram": [1], "missing": [third], "columns": [other]}
    facts |= {"reasons": [[one, 1]], "failures": [[other, 1, third]], "about": [[one, other]], "missing_rows": [0]}
    facts |= {"sample": {"draw": 3, "allowed": 0, "text": third, "result": one}}
    facts |= {"tables": [{"title": third, "columns": [one], "rows": [[text] for text in HOSTILE]}]}
    picture = {"missing": [[one, other]], "signals": [[third, one]], "photo_uri": other, "files": {"mask": third}}
    picture |= {"renditions": [{"name": one, "note": other, "file": third}]}
    path = tmp_path / "hostile.html"
    path.write_bytes(render(facts, rows, [picture for _ in HOSTILE]))
    tab.open(path)
    tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    tab.press("a", "r", "v")
    shown = tab.run("document.body.innerText")
    elements = tab.run("document.querySelectorAll('body > :not(script) script, img, a[href], [onerror], [onload]').length")
    bars.at_least("hostile texts that are shown letter by letter", sum(text in shown for text in HOSTILE), len(HOSTILE))
    executed = elements + bool(tab.run("window.hacked")) + len(tab.dialogs)
    bars.at_most("elements made of them, scripts run, dialogs", executed, 0)
    bars.at_most("script errors with them", len(tab.errors), 0)
