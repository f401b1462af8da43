"""Name the further views of a frame that a recipe's model looks at, too."""

from __future__ import annotations

import re
from typing import NamedTuple

MIN_SCALE, MAX_SCALE = 0.5, 2.0
"""Smallest and largest scale of a view."""

_SCALE = re.compile(r"scale:(\d*\.?\d+)")


class View(NamedTuple):
    """One view: mirrored or not, and the size of things in it compared with the frame."""

    flip: bool
    scale: float

    def __str__(self) -> str:
        return "+".join([*(["flip"] if self.flip else []), *([f"scale:{self.scale:g}"] if self.scale != 1 else [])])


def parse_view(text: str) -> View:
    """Parse ``flip``, ``scale:0.75`` or ``flip+scale:0.75``.

    Raises:
        ValueError: The text has another form, a scale is out of range, or the view is the frame itself.
    """
    parts = str(text).strip().split("+")
    flip = parts[0] == "flip"
    scales = parts[1:] if flip else parts
    found = [_SCALE.fullmatch(one) for one in scales]
    if len(scales) > 1 or not all(found):
        raise ValueError(f"{str(text)[:40]!r} is no view; write flip, scale:0.75 or flip+scale:0.75")
    scale = float(found[0][1]) if found and found[0] else 1.0
    if scales and (scale == 1 or not MIN_SCALE <= scale <= MAX_SCALE):
        raise ValueError(f"the scale of a view must be {MIN_SCALE:g} to {MAX_SCALE:g} and not 1, the frame's own: {scale:g}")
    return View(flip, scale)
