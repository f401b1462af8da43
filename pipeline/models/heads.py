"""Read the beginning of a weights file of any format, and refuse what is none. Imports no PyTorch."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import WeightsError


def read_head(path: Path) -> bytes:
    """Return the first bytes of a weights file of any format.

    Raises:
        WeightsError: The file is unreadable, empty, a web page, or a Git LFS pointer.
    """
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {error.strerror or error}") from error
    if not head:
        raise WeightsError(f"{path} is empty; download the file again")
    if re.match(rb"\s*<(!doctype|html|head|\?xml)", head, re.IGNORECASE):
        raise WeightsError(f"{path} is a web page, not weights; its URL led to a login or error page; download the file again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer, not the weights themselves; fetch them with git lfs pull")
    return head
