"""The pages in headless Chromium with real keys: from an index to imported reviews."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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


def matteline(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code and isinstance(done.exception, SystemExit | None), (done.output, done.exception)
    return done.output


def page_of(output: Output, *words: str, code: int = 0) -> Path:
    matteline("report", output.folder, *words, code=code)
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
def shop(tmp_path: Path, fake_settings: dict[str, Any]) -> Output:
    """Three items of a shop, with a SKU and a price, boxes, a rendition, reasons; a failed one; one whose photo is gone."""
    output, photos = Output.at(str(tmp_path / "shop"), Files()), tmp_path / "photos"
    photos.mkdir()
    boxes, rows = ([40.0, 20.0, 200.0, 180.0], [-30.0, -10.0, 150.0, 300.0], None), []
    for number, box in enumerate(boxes):
        name = f"cup-{number}"
        mask = np.zeros((200, 300), np.uint8)
        mask[40:160, 60:220] = 255
        if number < 2:
            Image.new("RGB", (300, 200), (200, 180, 160)).save(photos / f"{name}.png")
        row = {
            "item_id": name,
            "output_name": name,
            "status": "review",
            "quality": 0.1 + number / 10,
            "quality_calibrated": True,
        }
        row |= {"image_uri": str(photos / f"{name}.png"), "box": box, "height": 200, "width": 300}
        row |= {
            "reasons": ["box_agreement"] if box else ["stability"],
            "signals": {"soft_dice": 0.5, "holes": 2.0, "empty": False},
        }
        for kind, folder in (("cutout", "cutouts"), ("rendition", "white")):
            path = f"{folder}/{name}.png"
            output.write(output.layout.uri(path), encode_cutout(np.full((200, 300, 3), 90, np.uint8), mask))
            row |= (
                {"cutout_path": path}
                if kind == "cutout"
                else {"renditions": [{"name": "white", "path": path, "note": "enlarged"}]}
            )
        rows.append(row | {"sku": f"SKU-100{number}", "price": 19.9 + number})
    failed = {
        "item_id": "lost",
        "output_name": "lost",
        "status": "failed",
        "error_code": "fetch",
        "error_detail": "no such file",
    }
    rows.append(failed | {"sku": "SKU-1009", "price": 5.0})
    columns = [*INDEX, pa.field("sku", pa.string()), pa.field("price", pa.float64())]
    write_part(output, pa.Table.from_pylist(rows, pa.schema(columns)))
    write_settings(output, fake_settings)
    return output


@pytest.fixture
def shop_page(shop: Output, tmp_path: Path) -> Path:
    return page_of(shop, "--allow-root", str(tmp_path / "photos"), code=1)


@pytest.fixture
def hostile(tmp_path: Path, fake_settings: dict[str, Any]) -> Output:
    """An output in which every text is hostile."""
    output, rows = Output.at(str(tmp_path / "bad"), Files()), []
    for number, text in enumerate(HOSTILE):
        path = output_path("cutout", object_name(text))
        cutout = encode_cutout(np.full((30, 40, 3), 90, np.uint8), np.full((30, 40), 200, np.uint8))
        output.write(output.layout.uri(path), cutout)
        row = {"item_id": text, "output_name": text, "status": "ok", "quality": number / 10, "reasons": [text]}
        row |= {"renditions": [{"name": text, "path": path, "note": text}, {"name": text, "path": text}]}
        row |= {"box": [-9.0, 5.0, 99.0, 20.0], "height": 30, "width": 40, "sku": text}
        rows.append(row | {"tags": f"{text};tag", "image_uri": text, "cutout_path": path, "run_id": text})
    gone = {"item_id": "gone", "output_name": "gone", "status": "failed"}
    rows.append(gone | {"error_code": HOSTILE[0], "error_detail": HOSTILE[1]})
    write_part(
        output, pa.Table.from_pylist(rows, pa.schema([*INDEX, *(pa.field(name, pa.string()) for name in ("tags", "sku"))]))
    )
    write_settings(output, fake_settings | {"name": HOSTILE[1]})
    return output


def test_reviews_go_from_the_keyboard_to_the_index(tab: Any, output: Output, tmp_path: Path) -> None:
    tab.open(page_of(output, code=1))
    assert shown(tab)[:4] == ["i0", "i1", "i2", "i3"], "items with pictures come first, the worst ones first"
    tab.press("a", "r", "j", "k", "a")  # i0 accepted, i1 rejected, to i3 and back: i2 accepted
    assert current(tab) == "i3"
    tab.answer = 'half a "handle", gone'
    tab.press("r", "k", "n", "j", "a", "u")  # i3 rejected with a note; i4's review is undone
    assert tab.dialogs == ["Note"]
    tab.press("ArrowRight", "r", "ArrowLeft", "e")
    written = tab.downloaded("reviews.csv")
    assert "5 reviews" in matteline("review", "import", str(written), output.folder)
    found = {item_id: (row["verdict"], row["note"]) for item_id, row in read_reviews(output).latest.items()}
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
    (part,) = output.parts()
    rows = [row | ({"mask_sha256": "f"} if row["item_id"] == "i0" else {}) for row in pq.read_table(part.uri).to_pylist()]
    write_part(output, pa.Table.from_pylist(rows, INDEX))  # as after --replace
    tab.open(page_of(output, code=1))
    assert len(tab.run(kept)) == 3, "the review of the earlier result does not count"
    assert "1 review in this browser judged earlier results" in tab.run("document.getElementById('notices').innerText")


def test_search_and_filters_by_keyboard(tab: Any, output: Output) -> None:
    tab.open(page_of(output, code=1))
    count = "document.getElementById('found').textContent"
    assert tab.run(count) == "61 items"
    tab.press("/", "I5", "Enter", "j", "r")
    assert shown(tab)[:3] == ["i5", "i50", "i51"] and tab.run(count) == "11 of 61 items"
    tab.press("/", "Escape")
    assert tab.run(count) == "61 items", "Escape clears the search"
    tab.press("/", "Tab", "ArrowDown", "Escape")
    assert tab.run("document.activeElement.id") == "" and shown(tab) == ["bad"], "the first status is failed"
    tab.press("/", "Tab", "ArrowUp", "Tab", "ArrowDown", "ArrowDown", "ArrowDown", "Escape")
    assert shown(tab) == ["i50"], "items that were rejected; the filters for reasons and tags are hidden, since no item has any"
    tab.press("?")
    assert tab.run("document.getElementById('help').open")
    tab.press("a", "Escape")
    assert (
        not tab.run("document.getElementById('help').open")
        and tab.run("document.querySelectorAll('article.accept').length") == 0
    )


def test_a_video_that_has_the_keyboard_keeps_its_keys(tab: Any, output: Output) -> None:
    tab.open(page_of(output, code=1))
    tab.run("document.body.append(Object.assign(document.createElement('video'), {controls: true, tabIndex: 0, id: 'clip'}))")
    tab.run("document.getElementById('clip').focus()")
    tab.press("ArrowRight", "ArrowDown")
    assert shown(tab)[0] == "i0" and current(tab) == "i0"


def test_hostile_texts_stay_text(tab: Any, hostile: Output, tmp_path: Path) -> None:
    tab.open(page_of(hostile, code=1), height=500)
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
    tab.press("k", "v", *["ArrowRight"] * 4)
    links = tab.run("[...document.querySelectorAll('a')].map((one) => one.href)")
    assert all(link == "" or link.startswith(f"file://{hostile.folder}/cutouts/") for link in links), links
    assert tab.run("window.hacked") is None
    tab.press("Escape")
    assert tab.run("document.querySelectorAll('main script, main a, main svg[onload], main [onerror], main b b').length") == 0
    tab.press("a" * 7, "e")
    matteline("review", "import", str(tab.downloaded("reviews.csv")), hostile.folder)
    assert set(read_reviews(hostile).latest) == {*HOSTILE, "gone"}
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
    captions = tab.run("[...document.querySelectorAll('.caption')].map((one) => one.textContent)")
    assert captions[:2] == ["Mask before", "Mask after"] and len(captions) == 7
    assert "Dice 0.800" in tab.run("document.body.innerText") and "Drift: the share of failed" in tab.run(
        "document.body.innerText"
    )
    assert tab.run("[...document.images].every((one) => one.naturalWidth > 0)")
    assert tab.run("document.getElementById('export').hidden"), "a comparison has no reviews"
    tab.press("a", "e")
    assert tab.run("document.querySelectorAll('article.accept').length") == 0


@pytest.mark.parametrize("page", ["report", "hostile", "compare"])
def test_the_page_is_readable_on_a_phone_and_in_dark_mode(
    tab: Any, browser: ModuleType, output: Output, hostile: Output, tmp_path: Path, make_output: MakeOutput, page: str
) -> None:
    if page == "compare":
        other, path = Output.at(str(tmp_path / "two"), Files()), tmp_path / "compare.html"
        make_output(other, grow=10)
        matteline("compare", output.folder, other.folder, "--html", str(path))
    else:
        path = page_of(hostile if page == "hostile" else output, code=1)
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
    assert len(shown(tab)) == 24 and tab.run("document.getElementById('page').textContent") == "Page 1 of 417"
    tab.press("/", "00009999", "Enter")
    assert shown(tab) == ["catalog/2026/shoes/00009999.jpg"]
    tab.press("/", "Escape", "/", "sku-000077", "Enter")
    assert shown(tab) == ["catalog/2026/shoes/00000077.jpg"]


def text_of(tab: Any, what: str) -> str:
    found: str = tab.run(f"document.querySelector('{what}').innerText")
    return found


def labels(tab: Any) -> list[str]:
    """Return the captions of the current item's pictures."""
    found: list[str] = tab.run(
        "[...document.querySelectorAll('article.here .caption:not(.remark)')].map((one) => one.textContent)"
    )
    return found


def test_the_page_speaks_the_users_words(tab: Any, shop_page: Path) -> None:
    tab.open(shop_page)
    assert text_of(tab, "h1") == "shop" and tab.run("document.title") == "shop"
    card = text_of(tab, "article.here")
    for words in ("cup-0", "to review", "quality 10 %", "SKU-1000", "19.9", "The mask disagrees with the box you asked for"):
        assert words in card
    page = text_of(tab, "body")
    assert "box_agreement" not in page and "soft_dice" not in page, "signals are behind a click"
    tab.run("document.querySelector('article.here .signals summary').click()")
    tab.run("new Promise(requestAnimationFrame)")
    assert "soft_dice" in text_of(tab, "article.here .signals") and "holes" in text_of(tab, "article.here .signals")
    assert "empty" not in tab.run("[...document.querySelectorAll('article.here th')].map((one) => one.textContent).join()")
    assert labels(tab)[:5] == ["Photo with your box", "Outline with your box", "Mask", "Cutout", "white"]
    failed = tab.run("[...document.querySelectorAll('article')].at(-1).innerText")
    assert "lost" in failed and "The photo cannot be read: no such file" in failed


def test_the_manifests_columns_are_searched_and_reasons_filter(tab: Any, shop_page: Path) -> None:
    tab.open(shop_page)
    assert tab.run("document.getElementById('search').placeholder") == "Search item id, sku, price"
    tab.press("/", "sku-1002", "Enter")
    assert shown(tab) == ["cup-2"]
    tab.run("document.querySelector('ul.tallies button').click()")
    assert shown(tab) == ["cup-0", "cup-1"], "the search is cleared"
    tab.run("[...document.querySelectorAll('.count')].at(-1).click()")
    assert shown(tab) == ["lost"]
    tab.press("/", "nothing", "Enter")
    assert shown(tab) == [] and "No items match" in text_of(tab, "main")


def test_missing_pictures_are_said_at_the_top(tab: Any, shop_page: Path) -> None:
    tab.open(shop_page)
    assert "Pictures are missing for 1 item" in text_of(tab, ".notice") and "1 photo (cup-2):" in text_of(tab, ".notice")
    tab.run("document.querySelector('.notice button').click()")
    assert shown(tab) == ["cup-2"] and "Photo not shown: " in text_of(tab, "article.here")


def test_boxes_are_drawn_where_they_are_also_beyond_the_edge(tab: Any, shop_page: Path) -> None:
    tab.open(shop_page)
    drawn = """[...document.querySelectorAll('article.here .view')].slice(0, 2).map((view) => {
      const [photo, box] = ['img', 'rect.box'].map((name) => view.querySelector(name).getBoundingClientRect());
      const share = (value, start, length) => (value - start) / length;
      return [share(box.left, photo.left, photo.width), share(box.top, photo.top, photo.height),
        share(box.right, photo.left, photo.width), share(box.bottom, photo.top, photo.height)];
    })"""
    for found in tab.run(drawn):
        assert found == pytest.approx([40 / 300, 20 / 200, 200 / 300, 180 / 200], abs=0.03)
    tab.press("j")
    for found in tab.run(drawn):
        assert found == pytest.approx([0, 0, 150 / 300, 1], abs=0.03)
    assert "The box reaches beyond the photo" in text_of(tab, "article.here")
    tab.press("j")
    assert labels(tab)[0] == "Mask" and tab.run("document.querySelectorAll('article.here rect').length") == 0


SIGHT = """(({width, height, left, top}) => [width, height, left, top].map(Math.round))(
  document.querySelector('#stage .frame').getBoundingClientRect())"""
"""Size and place of the large picture."""


def test_a_picture_opens_large_by_keyboard(tab: Any, shop_page: Path, shop: Output) -> None:
    tab.open(shop_page)
    label = "document.getElementById('viewer-label').textContent"
    tab.press("v")
    assert tab.run("document.getElementById('viewer').open") and tab.run(label) == "Photo with your box (1 of 6)"
    fitted = tab.run(SIGHT)
    assert fitted[0] > 800 and fitted[0] / fitted[1] == pytest.approx(1.5, abs=0.01), "larger than its 300 pixels"
    tab.press("+", "+")
    larger = tab.run(SIGHT)
    assert larger[0] == pytest.approx(fitted[0] * 1.96, rel=0.01)
    tab.press("ArrowRight")
    assert tab.run(label).startswith("Outline") and tab.run(SIGHT) == larger, "pictures of one size are compared at one place"
    tab.press("ArrowRight", "ArrowRight")
    link = tab.run("document.getElementById('viewer-file').href")
    assert link == Path(shop.folder, "cutouts/cup-0.png").as_uri()
    tab.press("b")
    assert tab.run("getComputedStyle(document.querySelector('#stage .frame')).backgroundColor") == "rgb(255, 255, 255)"
    tab.press("ArrowDown")
    assert text_of(tab, "#viewer-title") == "cup-1" and tab.run(label).startswith("Cutout"), "the same picture of the next item"
    tab.press("r")
    assert text_of(tab, "#viewer-title") == "cup-2" and tab.run("document.querySelectorAll('article.reject').length") == 1
    tab.press("ArrowDown")
    assert text_of(tab, "#viewer-title") == "cup-2", "the failed item has no pictures"
    tab.press("0", "Escape")
    assert not tab.run("document.getElementById('viewer').open") and current(tab) == "cup-2"


def test_a_picture_is_zoomed_and_moved_by_mouse_and_opened_by_tab_and_enter(tab: Any, shop_page: Path) -> None:
    tab.open(shop_page)
    tab.run("document.querySelector('article.here .view').focus()")
    tab.press("Enter")
    fitted = tab.run(SIGHT)
    mouse = {"x": 300, "y": 300, "button": "left", "clickCount": 1}
    tab.call("Input.dispatchMouseEvent", type="mouseWheel", deltaX=0, deltaY=-400, **mouse)
    tab.run("new Promise((done) => setTimeout(done, 200))")
    zoomed = tab.run(SIGHT)
    assert zoomed[0] > 2 * fitted[0]
    share = [(300 - seen[2]) / seen[0] for seen in (fitted, zoomed)]
    assert share[0] == pytest.approx(share[1], abs=0.01), "the place below the mouse stays"
    for kind, x in (("mousePressed", 300), ("mouseMoved", 260), ("mouseReleased", 260)):
        tab.call("Input.dispatchMouseEvent", type=kind, **(mouse | {"x": x, "buttons": 1}))
    assert tab.run(SIGHT)[2] == zoomed[2] - 40
    tab.press("Escape")
    assert tab.run("document.activeElement.className").startswith("view"), "the focus is where it was"


def test_a_sample_is_explained_and_counted(tab: Any, shop: Output, tmp_path: Path) -> None:
    tab.open(page_of(shop, "--sample", "--at-most", "0.1", "--allow-root", str(tmp_path / "photos"), code=1))
    notice = text_of(tab, "#notices")
    assert "Checks all 3 items; if none of them is bad, at most 10 % of all 3 items are bad (95 % certain)." in notice
    state = "document.getElementById('sample-state').textContent"
    assert tab.run(state) == "0 of 3 checked here, 0 rejected. 3 items to go."
    tab.press("a", "a")
    assert tab.run(state) == "2 of 3 checked here, 0 rejected. 1 item to go."
    tab.press("a")
    assert "It is passed." in tab.run(state)
    tab.press("r")
    assert "1 rejected. It is not passed" in tab.run(state)


def test_pages_without_columns_or_results_say_so(tab: Any, tmp_path: Path, fake_settings: dict[str, Any]) -> None:
    output = Output.at(str(tmp_path / "failed"), Files())
    rows = [{"item_id": "x", "output_name": "x", "status": "failed", "error_code": "decode", "error_detail": "cut off"}]
    write_part(output, pa.Table.from_pylist(rows, INDEX))
    write_settings(output, fake_settings)
    tab.open(page_of(output))
    assert shown(tab) == ["x"] and "The file is not a picture that can be used: cut off" in text_of(tab, "article")
    assert tab.run("document.getElementById('search').placeholder") == "Search item id"
    tab.press("v", "j", "k")
    assert not tab.run("document.getElementById('viewer').open"), "there is nothing to look at"
