"""Facts and pictures to one HTML file that needs nothing else: no network, no server, no library.

Whatever comes from manifests travels as JSON in script elements that are never run, and ``report.js`` puts it into the page
as text; the page's own policy (CSP) allows no script and no style but the two that are hashed here, and no connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.paths import PAGE

_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def render(facts: Mapping[str, Any], rows: Mapping[str, Any], pictures: Iterable[Mapping[str, Any]]) -> bytes:
    """The page.

    Args:
        facts: title, counts, tables and what the page may do; see ``report.js``.
        rows: the items, column by column: equally long lists.
        pictures: of the first items of ``rows``, in their order.
    """
    template, style, script = (_part(name) for name in ("report.html", "report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "POLICY": policy,
        "STYLE": style,
        "SCRIPT": script,
        "FACTS": embedded(facts),
        "ROWS": embedded(rows),
        "PICTURES": "\n".join(
            f'<script type="application/json" id="picture-{number}">{embedded(one)}</script>'
            for number, one in enumerate(pictures)
        ),
    }
    pieces = template.split("%%")  # text, name, text, name, …, text: what is put in is never looked at again
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces)).encode()


def embedded(content: Any) -> str:
    """JSON that can't end or begin an element: ``<``, ``>``, ``&``, U+2028 and U+2029 are escaped, NaN is refused.

    Lone surrogates, which UTF-8 can't hold, are escaped as well.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)
    return "".join(f"\\u{ord(sign):04x}" if "\ud800" <= sign <= "\udfff" else sign for sign in text) if _lone(text) else text


def data_uri(webp: bytes | None) -> str | None:
    """A WebP file as a ``data:`` URI."""
    return None if webp is None else "data:image/webp;base64," + base64.b64encode(webp).decode()


def _lone(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _part(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
