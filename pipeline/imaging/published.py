"""Is a published PNG whole?"""

from __future__ import annotations

from pipeline.config import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.decode import decode

BOUNDLESS = Limits(max_pixels=2**40, max_bytes=2**40)


def png_fault(data: bytes, height: int, width: int) -> str | None:
    """What is wrong with a mask or cutout that should be ``height`` x ``width`` pixels; None if nothing is."""
    try:
        found = decode(data, BOUNDLESS).shape[:2]
    except DecodeError as error:
        return str(error)
    return None if found == (height, width) else f"it is {found[1]} wide and {found[0]} high, the row says {width} and {height}"
