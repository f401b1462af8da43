"""Join the page to try the service into one file: no network beside the service, no library.

The policy (CSP) allows only the script and the style whose hashes are computed here, and requests to the service itself.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import NamedTuple

from pipeline.paths import SERVE_PAGE

SCRIPTS = ("base.js", "api.js", "zip.js", "box.js", "cards.js", "main.js")
"""Files of the page's script, in the order in which they are joined into one function."""


class Page(NamedTuple):
    """The page, and the header ``Content-Security-Policy`` that belongs to it."""

    html: str
    policy: str


@functools.cache
def page() -> Page:
    """Return the page. It is the same for every visitor."""
    style = _read("try.css")
    script = f'"use strict";\n(() => {{\n{"".join(map(_read, SCRIPTS))}}})();\n'
    html = _read("try.html").replace("%%STYLE%%", style, 1).replace("%%SCRIPT%%", script, 1)
    policy = (
        f"default-src 'none'; img-src blob: data:; connect-src 'self'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(html, policy)


def _read(name: str) -> str:
    return (SERVE_PAGE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
