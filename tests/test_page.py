"""A page of hostile texts is a page of texts; a browser agrees."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.page import embedded, render

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!--<script>",
    "]]>\u2028\u2029%%ROWS%%&lt;",
    '"onclick="alert(1)',
    "javascript:alert(1)",
    "\ud800",
]


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def page_of(text: str) -> str:
    rows = {name: [text] for name in ("item_id", "status", "detail")} | {
        "quality": [0.5],
        "reasons": [[text]],
        "tags": [[text]],
    }
    facts = {
        **dict.fromkeys(("title", "about", "recipe"), text),
        **{"counts": [[text, 1]], "lines": [text], "histogram": [1, 2], "judges": ["accept", "reject"]},
        **{"tables": [{"title": text, "columns": [text], "rows": [[text]]}], "views": [[text, "photo", ""]]},
    }
    picture = {"width": 1, "height": 1, "contour": text, "photo": "data:,", "notes": [text], "signals": text}
    return render(facts, rows, [picture]).decode()


def elements(page: str) -> list[str]:
    parser = Elements()
    parser.feed(page)
    return parser.tags


@given(st.text() | st.sampled_from(HOSTILE))
def test_no_text_becomes_markup(text: str) -> None:
    assert elements(page_of(text)) == elements(page_of("plain"))


@given(st.text(st.characters(exclude_categories=())))
def test_json_is_kept_and_holds_no_sign_of_markup(text: str) -> None:
    made = embedded([text])
    assert json.loads(made) == [text]
    assert not re.search("[<>&\u2028\u2029\ud800-\udfff]", made)


def test_the_policy_allows_nothing_from_outside() -> None:
    page = page_of("plain")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None and policy[1].startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy[1] and not re.search(r"""(?:src|href)=["']?(?:http|//)""", page)


@pytest.fixture(scope="session")
def chromium(browser: ModuleType) -> str:
    found = browser.find()
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(browser.NAMES)} is installed")
    return str(found)


@pytest.mark.browser
def test_hostile_texts_in_a_browser(browser: ModuleType, chromium: str, tmp_path: Path) -> None:
    for number, text in enumerate(HOSTILE[:2]):
        page = tmp_path / f"{number}.html"
        page.write_text(page_of(text))
        seen = browser.look(chromium, page)
        assert seen.ready_ms is not None and not seen.console
        assert "onerror=alert(1)>" not in re.sub(r"<script.*?</script>", "", seen.document, flags=re.DOTALL)
        assert seen.document.count("<script") == page.read_text().count("<script")


@pytest.mark.browser
def test_ten_thousand_items_open_within_two_seconds(browser: ModuleType, chromium: str, tmp_path: Path) -> None:
    page = tmp_path / "large.html"
    page.write_bytes(browser.synthetic(10_000))
    seen = browser.look(chromium, page)
    assert not seen.console
    assert seen.ready_ms is not None and seen.ready_ms < 2000
