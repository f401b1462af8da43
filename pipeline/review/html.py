"""Render facts and pictures as one self-contained HTML file: no network, no server, no library.

All data is JSON in script elements that are not executed, and the script inserts it as text. The page's content security
policy (CSP) allows only the script and the style whose hashes are computed here, and no connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.paths import PAGE

SCRIPTS = ("base.js", "reviews.js", "summary.js", "items.js", "viewer.js", "keys.js")
"""Files of the page's script, in the order in which they are joined into one function."""

FIRST = 24
"""Items whose pictures stand before the script, so that the first view does not wait for the others; ``PAGE`` in items.js."""

POLICY = "default-src 'none'; img-src data:; style-src"
MEDIA = "media-src data: 'self' file:"

_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def is_page(data: bytes) -> bool:
    """Return whether a file is a page that ``render`` has written: by the begin of its content security policy."""
    return POLICY.encode() in data[:1000]


def render(facts: Mapping[str, Any], rows: Mapping[str, Any], pictures: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the page.

    Args:
        facts: What the page says about the whole output; see ``content.report_head``.
        rows: The items, column by column: lists of the same length.
        pictures: Pictures of the first items of ``rows``, in their order.
    """
    template, style = _read("report.html"), _read("report.css")
    script = f'"use strict";\n(() => {{\n{"".join(map(_read, SCRIPTS))}}})();\n'
    held = [
        f'<script type="application/json" id="picture-{number}">{embed_json(one)}</script>'
        for number, one in enumerate(pictures)
    ]
    policy = f"{POLICY} '{_hash(style)}'; script-src '{_hash(script)}'; {MEDIA}; base-uri 'none'; form-action 'none'"
    parts = {
        "POLICY": policy,
        "STYLE": style,
        "SCRIPT": script,
        "FACTS": embed_json(facts),
        "ROWS": embed_json(rows),
        "FIRST": "\n".join(held[:FIRST]),
        "REST": "\n".join(held[FIRST:]),
    }
    pieces = template.split("%%")  # text, name, text, …, text: inserted text is not scanned for names
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces)).encode()


def embed_json(content: Any) -> str:
    """Encode JSON for a script element: ``<``, ``>``, ``&``, U+2028, U+2029 and lone surrogates are escaped.

    Raises:
        ValueError: The content has NaN or infinity.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def data_uri(data: bytes | None, kind: str = "image/webp") -> str | None:
    """Return a file, by default WebP, as a ``data:`` URI."""
    return None if data is None else f"data:{kind};base64," + base64.b64encode(data).decode()


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
