"""A manifest's column ``tags``, as people write it."""

from __future__ import annotations

import json
import re


def tags_of(cell: object) -> list[str]:
    """A cell's tags, each once: a list, a JSON list as text, or text with ``;`` or ``,`` between; anything else is none."""
    if isinstance(cell, str):
        cell = _listed(cell) if cell.lstrip().startswith("[") else re.split("[;,]", cell)
    named = [str(tag).strip() for tag in cell if tag is not None] if isinstance(cell, list) else []
    return list(dict.fromkeys(tag for tag in named if tag))


def _listed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
