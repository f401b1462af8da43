"""Parse the manifest column ``tags``."""

from __future__ import annotations

import json
import re


def parse_tags(cell: object) -> list[str]:
    """Return the distinct tags of a list, a JSON list as text, or text separated by ``;`` or ``,``; else an empty list."""
    if isinstance(cell, str):
        cell = _parse_json(cell) if cell.lstrip().startswith("[") else re.split("[;,]", cell)
    tags = [str(tag).strip() for tag in cell if tag is not None] if isinstance(cell, list) else []
    return list(dict.fromkeys(tag for tag in tags if tag))


def _parse_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
