"""``make report-demo``: the demo's page and large ones in Chromium, held to bars; screenshots in out/report."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline.output.index import only_recipe
from pipeline.output.layout import Layout
from pipeline.review.html import render
from pipeline.review.reviews import import_reviews, read_reviews
from pipeline.storage.files import Files

pytestmark = pytest.mark.study
ROOT = Path(__file__).resolve().parents[3]
OUT = ROOT / "out" / "report"
TIMES = 3
HOSTILE = ("<script>window.hacked = 1</script>", '"><img src=x onerror="window.hacked = 1">', "javascript:window.hacked = 1")


@pytest.fixture(scope="module")
def page() -> Path:
    """The demo's page, which the make target has made."""
    found = OUT / "report.html"
    assert found.exists(), f"no {found}; make report-demo makes it"
    return found


@pytest.fixture
def tab(browser: ModuleType, bars: Any) -> Iterator[Any]:
    path = browser.find()
    assert path is not None, f"no browser to look with: none of {', '.join(browser.NAMES)} is installed"
    with browser.Browser(path) as opened:
        yield opened


def first_views(tab: Any, path: Path, **look: Any) -> list[int]:
    """Milliseconds, several times over."""
    return [tab.open(path, **look) for _ in range(TIMES)]


def test_the_first_view(tab: Any, browser: ModuleType, bars: Any, page: Path) -> None:
    for items in (10_000, 100_000):
        (OUT / f"synthetic-{items}.html").write_bytes(browser.synthetic(items))
    times = {items: max(first_views(tab, OUT / f"synthetic-{items}.html")) for items in (10_000, 100_000)}
    demo = max(first_views(tab, page))
    errors = len(tab.errors)
    print(f"first view: demo {demo} ms, 10,000 items {times[10_000]} ms, 100,000 items {times[100_000]} ms (worst of {TIMES})")
    bars.at_most("first view of 10,000 items, ms, worst of 3", times[10_000], 2000)
    bars.at_most("first view of the demo, ms, worst of 3", demo, 2000)
    bars.at_most("script errors: demo, 10,000 and 100,000 items", errors, 0)


def test_the_keyboard(tab: Any, bars: Any, page: Path, tmp_path: Path) -> None:
    """Every item is judged by a key, exported by another, and imported into a copy of the demo's index."""
    demo = only_recipe(str(ROOT / "out" / "demo"), Files())
    copy = Layout(str(tmp_path), demo.recipe_folder)
    shutil.copytree(demo.index, copy.index)
    tab.open(page)
    items = tab.run("JSON.parse(document.getElementById('rows').textContent).item_id.length")
    tab.press("ar" * (items // 2) + "a" * (items % 2), "e")
    with tab.downloaded("verdicts.csv").open(newline="") as file:
        text = file.read()
    import_reviews(text, copy, Files())
    found = read_reviews(copy, Files())
    judged = [
        row for row in csv.DictReader(text.splitlines()) if found.get(row["item_id"], {}).get("verdict") == row["verdict"]
    ]
    bars.at_least("verdicts that went from keys into the index", len(judged), items)
    bars.at_least("of them rejected", sum(row["verdict"] == "reject" for row in judged), items // 2)
    bars.at_most("script errors meanwhile", len(tab.errors), 0)


def test_phones_and_the_dark(tab: Any, browser: ModuleType, bars: Any, page: Path) -> None:
    phone = {"width": 390, "height": 1400, "phone": True}
    looks = {
        "desktop": {"height": 1600},
        "dark": {"height": 1600, "dark": True},
        "phone": phone,
        "phone-dark": phone | {"dark": True},
    }
    contrasts, wider, least = [], [], []
    for name, look in looks.items():
        tab.open(page, **look)
        tab.screenshot(OUT / f"{name}.png")
        print(OUT / f"{name}.png")
        wider.append(tab.run(browser.WIDER))
        least.append(tab.run(browser.LEAST_TEXT))
        contrasts.append(tab.run(browser.LEAST_CONTRAST)[0])
    bars.at_most("pixels that the page is wider than its window, phones too", max(wider), 0)
    bars.at_least("smallest text, px", min(least), 12)
    bars.at_least("least contrast of text, light and dark (WCAG AA: 4.5)", min(contrasts), 4.5)


def test_hostile_texts(tab: Any, bars: Any, tmp_path: Path) -> None:
    rows: dict[str, list[Any]] = {name: list(HOSTILE) for name in ("item_id", "status", "detail")}
    rows |= {"quality": [0.5] * len(HOSTILE)} | {name: [[one] for one in HOSTILE] for name in ("reasons", "tags")}
    facts: dict[str, Any] = {
        **dict.fromkeys(("title", "about", "recipe", "folder"), HOSTILE[0]),
        **{"counts": [[HOSTILE[1], 1]], "lines": list(HOSTILE), "histogram": [1], "views": [], "judges": ["accept", "reject"]},
        **{"tables": [{"title": HOSTILE[2], "columns": [HOSTILE[0]], "rows": [[one] for one in HOSTILE]}]},
    }
    path = tmp_path / "hostile.html"
    path.write_bytes(render(facts, rows, [{"notes": list(HOSTILE), "signals": HOSTILE[0]} for _ in HOSTILE]))
    tab.open(path)
    tab.press("a", "r")
    seen = tab.run("document.body.innerText")
    made = tab.run("document.querySelectorAll('body > :not(script) script, img, a, [onerror], [onload]').length")
    bars.at_least("hostile texts that are shown letter by letter", sum(one in seen for one in HOSTILE), len(HOSTILE))
    bars.at_most("elements made of them, scripts run, dialogs", made + bool(tab.run("window.hacked")) + len(tab.dialogs), 0)
    bars.at_most("script errors with them", len(tab.errors), 0)
