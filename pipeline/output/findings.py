"""The findings of a verification."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pyarrow as pa

MAX_EXAMPLES = 20
"""Findings of one kind that are named. The others are counted."""

KINDS = {
    "twice": "an item has more than one row",
    "missing": "an item of the manifest has no row",
    "unknown": "a row's item is not in the manifest",
    "other": "a row is of another image, box or point than the manifest's (of a sample of 4,096 items)",
    "incoherent": "the columns of a row contradict each other",
    "absent": "an object cannot be read",
    "changed": "an object's size or SHA-256 differs from the row's",
    "undecodable": "an object is truncated, or its size or format differs from the row's",
    "unreadable": "an index part cannot be read",
    "segments": "the segments of a video cannot be read, or are of another run than its row",
    "orphan": "an object belongs to no row; matteline gc removes it",
}
"""Kinds of findings."""

REPAIRABLE = {"incoherent", "absent", "changed", "undecodable", "unreadable", "segments"}
"""Those that ``matteline verify --repair`` removes, so that the next run makes the items again."""


@dataclass
class VerifyReport:
    """Numbers and findings of a verification."""

    rows: int = 0
    objects: int = 0
    """Objects that were read."""
    object_bytes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Findings by kind (``KINDS``). Empty if there are none."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    repaired: int = 0
    """Items whose rows ``repair`` removed, so that the next run processes them again."""

    @property
    def sound(self) -> bool:
        """Return True if there are no findings."""
        return not self.counts

    @property
    def repairable(self) -> bool:
        """Return True if something was found that ``matteline verify --repair`` would repair."""
        return bool(REPAIRABLE & self.counts.keys())

    def add(self, kind: str, *examples: str, count: int = 1) -> None:
        """Add ``count`` findings, of which some are named."""
        if count:
            self.counts[kind] = self.counts.get(kind, 0) + count
            named = self.examples.setdefault(kind, [])
            named += examples[: MAX_EXAMPLES - len(named)]

    def add_all(self, kind: str, keys: pa.ChunkedArray, prefix: str = "") -> None:
        """Add a finding for each key (binary). ``prefix`` goes before those that are named."""
        examples = [prefix + os.fsdecode(key) for key in keys.slice(0, MAX_EXAMPLES).to_pylist()]
        self.add(kind, *examples, count=len(keys))

    def merge(self, part: VerifyReport) -> None:
        """Add what was found in a part of the objects. Rows and repaired items are not added."""
        self.objects += part.objects
        self.object_bytes += part.object_bytes
        for kind, count in part.counts.items():
            self.add(kind, *part.examples[kind], count=count)
