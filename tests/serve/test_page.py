"""The page in Chromium: pictures come in, are cut out, boxed, shown and downloaded."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.browser
TOKEN = "0123456789abcdef0123456789abcdef"
HOSTILE = '<img src=x onerror="window.hacked = 1">.jpg'


@pytest.fixture(scope="module")
def opened(browser: ModuleType) -> Iterator[Any]:
    if browser.find() is None:
        pytest.skip("no browser")
    with browser.Browser(browser.find()) as tab:
        yield tab


@pytest.fixture
def tab(opened: Any, service: Any) -> Any:
    opened.errors.clear()
    opened.open(f"http://127.0.0.1:{service.port}/")
    until(opened, "document.getElementById('rendition').options.length > 1")  # one that is not there cannot be chosen
    return opened


def choose(tab: Any, *paths: Path) -> None:
    """Choose files as a person does."""
    field = tab.call("Runtime.evaluate", expression="document.getElementById('files')")["result"]["objectId"]
    tab.call("DOM.setFileInputFiles", files=[str(path) for path in paths], objectId=field)


def until(tab: Any, script: str) -> Any:
    end = time.monotonic() + 60
    while not (found := tab.run(script)):
        assert time.monotonic() < end, (script, tab.errors, tab.run("document.body.innerText"))
        time.sleep(0.05)
    return found


ACTIVE = "document.activeElement"
FRAME = "document.querySelector('.photo .frame')"
DONE = "[...document.querySelectorAll('article')].filter((one) => one.querySelector('.cutout img')?.complete).length"


@pytest.fixture
def photos(make_photos: Callable[..., list[Path]], tmp_path: Path) -> list[Path]:
    return make_photos(tmp_path / "photos", 2)


def test_pictures_become_cutouts(tab: Any, photos: list[Path]) -> None:
    choose(tab, *photos)
    until(tab, f"{DONE} === 2")
    text = tab.run("document.querySelector('article').innerText")
    assert "photo-000.jpg" in text and "quality 0." in text and "120 × 90" in text
    sizes = tab.run("[...document.querySelectorAll('article img')].map((one) => [one.naturalWidth, one.naturalHeight])")
    assert sizes == [[120, 90]] * 3 + [[127, 101]] * 3
    tab.run("document.querySelector('[data-ground=black].swatch').click()")
    assert tab.run("getComputedStyle(document.querySelector('.cutout .frame')).backgroundColor") == "rgb(0, 0, 0)"
    assert tab.errors == []


def test_one_or_all_can_be_downloaded(tab: Any, photos: list[Path]) -> None:
    choose(tab, *photos, photos[0])
    until(tab, f"{DONE} === 3")
    tab.run("document.querySelector('.mask figcaption button').click()")
    assert Image.open(tab.downloaded("photo-000-mask.png")).mode == "L"
    tab.run("document.getElementById('all').click()")
    with zipfile.ZipFile(tab.downloaded("cutouts.zip")) as archive:
        assert archive.testzip() is None
        names = [f"photo-00{number}-{what}.png" for number in (0, 1) for what in ("cutout", "mask")]
        assert archive.namelist() == [*names, "photo-000-cutout-2.png", "photo-000-mask-2.png"]
        image = Image.open(io.BytesIO(archive.read("photo-001-cutout.png")))
        assert (image.mode, image.size) == ("RGBA", (127, 101))
    tab.downloaded("cutouts.zip").unlink()


def test_a_box_is_drawn_or_given_in_numbers(tab: Any, photos: list[Path]) -> None:
    choose(tab, photos[0])
    until(tab, f"{DONE} === 1")
    x, y, width, height = tab.run(f"(({{x, y, width, height}}) => [x, y, width, height])({FRAME}.getBoundingClientRect())")
    for kind, across, down in (("Pressed", 0.25, 0.2), ("Moved", 0.5, 0.5), ("Released", 0.5, 0.5)):
        place = {"x": x + across * width, "y": y + down * height}
        tab.call("Input.dispatchMouseEvent", type=f"mouse{kind}", button="left", buttons=1, clickCount=1, **place)
    drawn = tab.run("[...document.querySelectorAll('.numbers input')].map((one) => Number(one.value))")
    assert drawn == pytest.approx([30, 18, 60, 45], abs=1)
    until(tab, f"{DONE} === 1")
    assert tab.run("document.querySelectorAll('.photo rect').length") == 2
    for number, value in enumerate((0, 0, 30, 90)):
        tab.run(f"document.querySelectorAll('.numbers input')[{number}].value = {value}")
    tab.run("document.querySelector('.numbers button').click()")
    until(tab, "document.querySelector('.why') !== null")  # the fake model finds nothing there
    tab.run("[...document.querySelectorAll('button')].find((one) => one.innerText === 'Remove the box').click()")
    until(tab, f"{DONE} === 1 && !document.querySelector('.photo rect') && !document.querySelector('.why')")
    assert tab.errors == []


def test_a_rendition_is_tried(tab: Any, photos: list[Path]) -> None:
    choose(tab, photos[0])
    tab.run("document.getElementById('rendition').value = 'thumbnail'")
    tab.run("document.getElementById('rendition').dispatchEvent(new Event('change'))")
    until(tab, "document.querySelector('.thumbnail img')?.naturalWidth")
    width, height = tab.run("[(one = document.querySelector('.thumbnail img')).naturalWidth, one.naturalHeight]")
    assert width == height


REQUESTS = "performance.getEntriesByType('resource').filter(({name}) => name.includes('/v1/cutout')).map(({name}) => name)"


def test_only_what_changed_is_asked_for(tab: Any, photos: list[Path]) -> None:
    """One request gives cutout, mask and rendition. Another rendition needs one more, and none needs no request."""
    change = "(at => {{ at.value = '{}'; at.dispatchEvent(new Event('change')); }})(document.getElementById('rendition'))"
    tab.run(change.format("thumbnail"))
    choose(tab, photos[0])
    until(tab, "document.querySelector('.thumbnail img')?.naturalWidth")
    until(tab, f"{DONE} === 1")
    assert len(tab.run(REQUESTS)) == 1
    tab.run(change.format(""))
    until(tab, "!document.querySelector('.thumbnail')")
    tab.run(change.format("thumbnail"))
    until(tab, "document.querySelector('.thumbnail img')?.naturalWidth")
    assert len(tab.run(REQUESTS)) == 1
    tab.run(change.format("white"))
    until(tab, "document.querySelector('.white img')?.naturalWidth")
    requests = tab.run(REQUESTS)
    assert len(requests) == 2 and "output=json" not in requests[1] and tab.errors == []


def test_files_are_those_that_are_shown(tab: Any, photos: list[Path]) -> None:
    """The rendition that is no longer chosen is none of them, and a photo's own name says nothing about its files."""
    photo = photos[0].rename(photos[0].with_name("a-mask.v2.jpg"))
    change = "(at => {{ at.value = '{}'; at.dispatchEvent(new Event('change')); }})(document.getElementById('rendition'))"
    choose(tab, photo, photos[1])
    tab.run(change.format("thumbnail"))
    until(tab, "[...document.querySelectorAll('.thumbnail img')].filter((one) => one.naturalWidth).length === 2")
    tab.run(change.format(""))
    until(tab, "!document.querySelector('.thumbnail')")
    tab.run("document.querySelector('.mask figcaption button').click()")
    assert Image.open(tab.downloaded("a-mask.v2-mask.png")).mode == "L"
    tab.run("document.getElementById('all').click()")
    with zipfile.ZipFile(tab.downloaded("cutouts.zip")) as archive:
        assert len(archive.namelist()) == 4 and not any("thumbnail" in name for name in archive.namelist())


def test_the_photo_keeps_the_keyboard_while_a_box_is_tried(tab: Any, photos: list[Path]) -> None:
    choose(tab, photos[0])
    until(tab, f"{DONE} === 1")
    tab.run("document.querySelector('details').open = true; document.querySelectorAll('.numbers input')[3].focus()")
    tab.run(
        "[...document.querySelectorAll('.numbers input')].forEach((one, place) => { one.value = [30, 18, 60, 45][place]; })"
    )
    tab.run("document.querySelector('.numbers').requestSubmit()")
    until(tab, f"{DONE} === 1 && document.querySelector('.photo rect') !== null")
    assert tab.run(f"{ACTIVE}.tagName") == "INPUT"


def test_what_is_no_picture_is_named_on_the_empty_page(tab: Any) -> None:
    tab.run("window.made = new DataTransfer(); made.items.add(new File(['x'], 'a.pdf', {type: 'application/pdf'}))")
    tab.run("dispatchEvent(new DragEvent('drop', {dataTransfer: made}))")
    assert "1 file is no picture and was left out." in tab.run("document.body.innerText")


def test_a_photo_that_the_browser_cannot_show_is_cut_out(tab: Any, tmp_path: Path, picture: bytes) -> None:
    Image.open(io.BytesIO(picture)).save(tmp_path / "scan.tiff")
    choose(tab, tmp_path / "scan.tiff")
    assert "cannot show" in until(tab, "document.querySelector('.photo .unseen-photo')?.innerText")
    until(tab, f"{DONE} === 1")


def test_a_box_is_drawn_by_touch_and_a_tap_keeps_it(tab: Any, photos: list[Path]) -> None:
    choose(tab, photos[0])
    until(tab, f"{DONE} === 1")
    tab.call("Emulation.setTouchEmulationEnabled", enabled=True)

    def drag(*places: tuple[float, float]) -> None:
        x, y, width, height = tab.run(f"(({{x, y, width, height}}) => [x, y, width, height])({FRAME}.getBoundingClientRect())")
        for kind, place in zip(["Start"] + ["Move"] * (len(places) - 1), places, strict=True):
            at = {"x": x + place[0] * width, "y": y + place[1] * height}
            tab.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=[at])
        tab.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    drag((0.25, 0.2), (0.4, 0.4), (0.5, 0.5))  # scrolls the page: no box is wanted
    assert not tab.run("document.querySelector('.photo rect')")
    start = "[...document.querySelectorAll('button')].find((one) => one.innerText === 'Draw a box').click()"
    tab.run(start)
    drag((0.25, 0.2), (0.4, 0.4), (0.5, 0.5))
    numbers = "[...document.querySelectorAll('.numbers input')].map((one) => Number(one.value))"
    assert tab.run(numbers) == pytest.approx([30, 18, 60, 45], abs=2)
    until(tab, f"{DONE} === 1")
    tab.run(start)
    drag((0.6, 0.6), (0.61, 0.61))  # too small for a box
    assert tab.run(numbers) == pytest.approx([30, 18, 60, 45], abs=2)
    assert tab.run("document.querySelectorAll('.photo rect').length") == 2
    tab.call("Emulation.setTouchEmulationEnabled", enabled=False)
    assert tab.errors == []


def test_pasted_and_dropped_pictures(tab: Any, picture: bytes) -> None:
    tab.run(
        f"window.bytes = new Uint8Array({list(picture)}); window.data = (name) => {{ const made = new DataTransfer(); "
        "made.items.add(new File([bytes], name, {type: 'image/jpeg'})); return made; }"
    )
    tab.run("dispatchEvent(new ClipboardEvent('paste', {clipboardData: data('pasted.jpg')}))")
    tab.run(f"dispatchEvent(new DragEvent('drop', {{dataTransfer: data({json.dumps(HOSTILE)})}}))")
    until(tab, f"{DONE} === 2")
    assert HOSTILE in tab.run("document.body.innerText") and not tab.run("window.hacked") and tab.errors == []


def test_what_is_no_picture_gets_a_sentence(tab: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    choose(tab, tmp_path / "broken.png")
    assert "PNG" in until(tab, "document.querySelector('.problem')?.innerText")
    assert tab.run("document.querySelector('.chip').innerText") == "failed"


def test_everything_is_reached_by_keyboard(tab: Any, photos: list[Path]) -> None:
    choose(tab, photos[0])
    until(tab, f"{DONE} === 1")
    tab.run("document.activeElement.blur()")
    reached = set()
    for _ in range(40):
        tab.press("Tab")
        reached.add(tab.run(f"{ACTIVE}.getAttribute('aria-label') || {ACTIVE}.innerText || {ACTIVE}.id"))
    wanted = {"Use it from a program", "files", "Checkerboard", "Black", "Remove photo-000.jpg", "Draw a box", "Box in pixels"}
    assert wanted | {"Download mask of photo-000.jpg", "Download cutout of photo-000.jpg"} <= reached
    tab.run("document.querySelector('.cutout button.frame').focus()")
    tab.press("Enter")
    assert tab.run("document.getElementById('large').open")
    tab.press("Escape")
    until(tab, "!document.getElementById('large').open")
    assert tab.run("document.activeElement.classList.contains('frame')")
    tab.run("document.querySelector('.remove').focus()")
    tab.press("Enter")
    assert tab.run("document.querySelectorAll('article').length") == 0


def test_a_token_is_asked_for(opened: Any, start_service: Callable[..., Any], fake_preset: str, photos: list[Path]) -> None:
    service = start_service("--preset", fake_preset, env={"MATTELINE_TOKEN": TOKEN})
    opened.open(f"http://127.0.0.1:{service.port}/")
    until(opened, "!document.getElementById('token').hidden")
    choose(opened, photos[0])
    until(opened, "document.querySelector('.problem')?.innerText.includes('token')")
    opened.run("document.getElementById('token-text').focus()")
    opened.press(TOKEN, "Enter")
    until(opened, f"{DONE} === 1 && document.getElementById('rendition').options.length > 3")
    listed = "[...document.getElementById('rendition').options].map((one) => one.value)"
    before = opened.run(listed)
    opened.run("document.getElementById('token').dispatchEvent(new Event('submit', {cancelable: true}))")
    time.sleep(0.5)
    assert opened.run(listed) == before
