"""The version of an item's result: what a review has judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERSION_COLUMNS = ("status", "cutout_sha256", "mask_sha256", "video_facts")
"""Columns of the index that a version depends on."""

CHARACTERS = 12
"""Hex digits of a hash in a version: 48 bits, to tell the results of one item apart."""


def version_of(row: Mapping[str, Any]) -> str:
    """Return the begin of the hash of the row's cutout, mask or first file of a video; without any of them, its status.

    It stays the same when renditions are added, or when an item is processed again with the same result.
    """
    files: list[dict[str, Any]] = (row["video_facts"] or {}).get("files") or [{}]
    sha256 = row["cutout_sha256"] or row["mask_sha256"] or files[0].get("sha256") or row["status"]
    return str(sha256)[:CHARACTERS]
