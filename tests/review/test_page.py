"""Hostile texts stay text on the page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from pipeline.review.html import embed_json, render

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
    rows = {name: [text] for name in ("item_id", "status", "version", "code", "detail")} | {
        "quality": [0.5],
        "reasons": [[text]],
        "tags": [[text]],
        "shown": [[text]],
    }
    facts = {
        **dict.fromkeys(("title", "tab", "date", "recipe", "folder", "base"), text),
        **{"counts": [[text, 1]], "lines": [text], "histogram": [1, 2], "verdicts": ["accept", "reject"], "columns": [text]},
        **{"tables": [{"title": text, "columns": [text], "rows": [[text]]}], "views": [[text, "photo", ""]]},
        **{
            "missing": [text],
            "missing_rows": [0],
            "reasons": [[text, 1]],
            "failures": [[text, 1, text]],
            "about": [[text, text]],
            "words": {text: text},
        },
        **{"signals": {text: text}, "sample": {"draw": 1, "allowed": 0, "text": text, "result": text}, "calibrated": True},
    }
    picture = {
        "width": 1,
        "height": 1,
        "contour": text,
        "photo": "data:,",
        "missing": [[text, text]],
        "signals": [[text, text]],
    }
    picture |= {"files": {"mask": text}, "renditions": [{"name": text, "note": text, "file": text}]}
    return render(facts, rows, [picture]).decode()


def elements(page: str) -> list[str]:
    parser = Elements()
    parser.feed(page)
    return parser.tags


@given(st.text() | st.sampled_from(HOSTILE))
def test_no_text_becomes_markup(text: str) -> None:
    assert elements(page_of(text)) == elements(page_of("plain"))


@given(st.text(st.characters(exclude_categories=())))
def test_embedded_json_round_trips_and_has_no_markup(text: str) -> None:
    encoded = embed_json([text])
    assert json.loads(encoded) == [text]
    assert not re.search("[<>&\u2028\u2029\ud800-\udfff]", encoded)


def test_the_content_security_policy_allows_no_connection() -> None:
    page = page_of("plain")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None and policy[1].startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy[1] and not re.search(r"""(?:src|href)=["']?(?:http|//)""", page)
