"""The pages in headless Chromium with real keys: from an index to imported reviews."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.main import app
from pipeline.imaging.png import encode_cutout
from pipeline.output.index import write_part
from pipeline.output.layout import output_path
from pipeline.output.output import Output
from pipeline.output.settings import write_settings
from pipeline.review.reviews import read_reviews
from pipeline.schema import INDEX
from pipeline.storage.files import Files
from pipeline.storage.object_names import object_name

pytestmark = pytest.mark.browser
MakeOutput = Callable[..., None]

HOSTILE = [
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "javascript:window.hacked = 1",
    "</script><svg onload=window.hacked=1>",
    "a, \"b\"\n=HYPERLINK('x')",
    "\u202eevil\u202c & <b>bold</b>",
]


@pytest.fixture(scope="module")
def tab(browser: ModuleType) -> Iterator[Any]:
    found = browser.find()
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(browser.NAMES)} is installed")
    with browser.Browser(found) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_errors(tab: Any) -> Iterator[None]:
    """Fail a test if the page's scripts raise errors."""
    tab.errors.clear()
    tab.dialogs.clear()
    tab.answer = None
    yield
    assert tab.errors == []


def matteline(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def page_of(output: Output) -> Path:
    matteline("report", output.folder)
    return Path(output.folder, "report.html")


def shown(tab: Any) -> list[str]:
    """Return the ids of the items on the page."""
    found: list[str] = tab.run("[...document.querySelectorAll('article .top b')].map((one) => one.textContent)")
    return found


def current(tab: Any) -> str:
    found: str = tab.run("document.querySelector('article.here .top b').textContent")
    return found


@pytest.fixture
def output(tmp_path: Path, make_output: MakeOutput) -> Output:
    output = Output.at(str(tmp_path / "out"), Files())
    make_output(output)
    return output


@pytest.fixture
def hostile(tmp_path: Path) -> Output:
    """An output in which every text is hostile."""
    output, rows = Output.at(str(tmp_path / "bad"), Files()), []
    for number, text in enumerate(HOSTILE):
        path = output_path("cutout", object_name(text))
        cutout = encode_cutout(np.full((30, 40, 3), 90, np.uint8), np.full((30, 40), 200, np.uint8))
        output.write(output.layout.uri(path), cutout)
        row = {"item_id": text, "output_name": text, "status": text, "quality": number / 10, "reasons": [text]}
        rows.append(row | {"tags": f"{text};tag", "image_uri": text, "cutout_path": path, "run_id": text})
    gone = {"item_id": "gone", "output_name": "gone", "status": "failed"}
    rows.append(gone | {"error_code": HOSTILE[0], "error_detail": HOSTILE[1]})
    write_part(output, pa.Table.from_pylist(rows, pa.schema([*INDEX, pa.field("tags", pa.string())])))
    write_settings(output, {"name": HOSTILE[1], "fingerprint": "0" * 64, "recipe": {"frame_px": 64}, "renditions": {}})
    return output


def test_reviews_go_from_the_keyboard_to_the_index(tab: Any, output: Output, tmp_path: Path) -> None:
    tab.open(page_of(output))
    assert shown(tab)[:4] == ["i0", "i1", "i2", "i3"], "items with pictures come first, the worst ones first"
    tab.press("a", "r", "j", "k", "a")  # i0 accepted, i1 rejected, to i3 and back: i2 accepted
    assert current(tab) == "i3"
    tab.answer = 'half a "handle", gone'
    tab.press("r", "k", "n", "j", "a", "u")  # i3 rejected with a note; i4's review is undone
    assert tab.dialogs == ["Note"]
    tab.press("ArrowRight", "r", "ArrowLeft", "e")
    written = tab.downloaded("reviews.csv")
    assert "5 reviews" in matteline("review", "import", str(written), output.folder)
    found = {item_id: (row["verdict"], row["note"]) for item_id, row in read_reviews(output).items()}
    assert found == {
        "i0": ("accept", None),
        "i1": ("reject", None),
        "i2": ("accept", None),
        "i3": ("reject", 'half a "handle", gone'),
        "i24": ("reject", None),
    }
    tab.open(Path(output.folder, "report.html"))
    kept = "[...document.querySelectorAll('article.accept, article.reject')].map((one) => one.className)"
    assert [name.split()[1] if "line" in name else name.split()[0] for name in tab.run(kept)] == ["accept", "reject"] * 2


def test_search_and_filters_by_keyboard(tab: Any, output: Output) -> None:
    tab.open(page_of(output))
    count = "document.getElementById('found').textContent"
    assert tab.run(count) == "61 of 61"
    tab.press("/", "I5", "Enter", "j", "r")
    assert shown(tab)[:3] == ["i5", "i50", "i51"] and tab.run(count) == "11 of 61"
    tab.press("/", "Escape")
    assert tab.run(count) == "61 of 61", "Escape clears the search"
    tab.press("/", "Tab", "ArrowDown", "Escape")
    assert tab.run("document.activeElement.id") == "" and shown(tab) == ["bad"], "the first status is failed"
    tab.press("/", "Tab", "ArrowUp", "Tab", "ArrowDown", "ArrowDown", "ArrowDown", "Escape")
    assert shown(tab) == ["i50"], "items that were rejected; the filters for reasons and tags are hidden, since no item has any"
    tab.press("?")
    assert tab.run("document.getElementById('help').open")
    tab.press("a", "Escape")
    assert not tab.run("document.getElementById('help').open") and tab.run("document.querySelectorAll('.accept').length") == 0


def test_hostile_texts_stay_text(tab: Any, hostile: Output, tmp_path: Path) -> None:
    tab.open(page_of(hostile), height=500)
    written_out = [one.replace("\n", "\\u000a").replace("\u202e", "\\u202e").replace("\u202c", "\\u202c") for one in HOSTILE]
    assert sorted(shown(tab)) == sorted([*written_out, "gone"]), "invisible and bidirectional characters are escaped"
    text = tab.run("document.body.innerText")
    for one in HOSTILE[:4]:
        assert one in text
    assert tab.run("window.hacked") is None and tab.dialogs == []
    tab.press("j")
    top, bar = (
        tab.run(f"document.querySelector('{what}').getBoundingClientRect().{edge}")
        for what, edge in ((".here", "top"), ("nav", "bottom"))
    )
    assert top >= bar, "the bar of filters, two lines of it here, does not cover the current item"
    tab.press("k")
    assert tab.run("document.querySelectorAll('main script, main a, main svg[onload], main [onerror], main b b').length") == 0
    tab.press("a" * 7, "e")
    matteline("review", "import", str(tab.downloaded("reviews.csv")), hostile.folder)
    assert set(read_reviews(hostile)) == {*HOSTILE, "gone"}
    tab.downloaded("reviews.csv").unlink()
    compared = tmp_path / "compare.html"
    matteline("compare", hostile.folder, hostile.folder, "--html", str(compared))
    tab.open(compared)
    assert tab.run("window.hacked") is None


def test_a_comparison_shows_both_sides(tab: Any, tmp_path: Path, make_output: MakeOutput) -> None:
    sides = [Output.at(str(tmp_path / name), Files()) for name in ("one", "two")]
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photos" / "0.png")
    make_output(sides[0], photos=tmp_path / "photos")
    make_output(sides[1], grow=10, photos=tmp_path / "photos", failed=20)
    page = tmp_path / "compare.html"
    printed = matteline(
        "compare", sides[0].folder, sides[1].folder, "--html", str(page), "--allow-root", str(tmp_path / "photos")
    )
    assert "drift    the share of failed by at least" in printed
    tab.open(page)
    assert shown(tab) == ["i0"]
    captions = tab.run("[...document.querySelectorAll('figcaption')].map((one) => one.textContent)")
    assert captions[:2] == ["mask before", "mask after"] and len(captions) == 7
    assert "Dice 0.800" in tab.run("document.body.innerText") and "drift: the share of failed" in tab.run(
        "document.body.innerText"
    )
    assert tab.run("[...document.images].every((one) => one.naturalWidth > 0)")
    assert tab.run("document.getElementById('export').hidden"), "a comparison has no reviews"
    tab.press("a", "e")
    assert tab.run("document.querySelectorAll('.accept').length") == 0


@pytest.mark.parametrize("page", ["report", "hostile", "compare"])
def test_the_page_is_readable_on_a_phone_and_in_dark_mode(
    tab: Any, browser: ModuleType, output: Output, hostile: Output, tmp_path: Path, make_output: MakeOutput, page: str
) -> None:
    if page == "compare":
        other, path = Output.at(str(tmp_path / "two"), Files()), tmp_path / "compare.html"
        make_output(other, grow=10)
        matteline("compare", output.folder, other.folder, "--html", str(path))
    else:
        path = page_of(hostile if page == "hostile" else output)
    grounds = set()
    for dark in (False, True):
        for size in ({"width": 390, "height": 844, "phone": True}, {"width": 1280, "height": 900}):
            tab.open(path, dark=dark, **size)
            tab.press("j", "r")
            assert tab.run(browser.WIDER) <= 0
            assert tab.run(browser.LEAST_TEXT) >= 12
            contrast, text = tab.run(browser.LEAST_CONTRAST)
            assert contrast >= 4.5, (text, contrast, dark)
        grounds.add(tab.run("getComputedStyle(document.querySelector('nav')).backgroundColor"))
    assert len(grounds) == 2


def test_ten_thousand_items_can_be_paged_and_searched(tab: Any, browser: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "large.html"
    page.write_bytes(browser.synthetic(10_000, 30))
    tab.open(page)
    assert len(shown(tab)) == 24 and tab.run("document.getElementById('page').textContent") == "page 1 of 417"
    tab.press("/", "00009999", "Enter")
    assert shown(tab) == ["catalog/2026/shoes/00009999.jpg"]
