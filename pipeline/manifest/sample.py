"""A sample of items that depends on their ids only, so that the same items can be drawn from another table with these ids."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.manifest.id_set import IdSet
from pipeline.manifest.points import COLUMN as POINT
from pipeline.manifest.points import Point, points_of

SIZE = 4096
"""Items of a sample."""

COLUMNS = ("item_id", "image_uri", "box", POINT)
"""Columns that a request is made of. A manifest without points has no column for them."""


class Request(NamedTuple):
    """An item as a manifest describes it."""

    item_id: str
    image_uri: str | None
    box: tuple[float, ...] | None
    point: Point | None

    @staticmethod
    def all_of(rows: pa.Table) -> list[Request]:
        """Build one from each row of a manifest or of the index."""
        columns = (rows[name].to_pylist() for name in ("item_id", "image_uri", "box"))
        boxed = zip(*columns, points_of(rows), strict=True)
        return [Request(item_id, uri, None if box is None else tuple(box), point) for item_id, uri, box, point in boxed]


class Sample:
    """The ``SIZE`` items whose ids have the smallest hashes (a bottom-k sketch)."""

    def __init__(self) -> None:
        self._requests: dict[bytes, Request] = {}
        self._limit: bytes | None = None

    def add(self, items: pa.Table, hashes: IdSet) -> None:
        """Add items with the hashes of their ids."""
        chosen = hashes < self._limit if self._limit is not None else np.ones(len(hashes), np.bool_)
        if not chosen.any():
            return
        rows = items.select([name for name in COLUMNS if name in items.column_names]).filter(pa.array(chosen))
        self._requests |= zip(hashes[chosen].tolist(), Request.all_of(rows), strict=True)
        if len(self._requests) > 2 * SIZE:
            kept = sorted(self._requests)[:SIZE]
            self._requests, self._limit = {key: self._requests[key] for key in kept}, kept[-1]

    def by_id(self) -> dict[str, Request]:
        """Return the sample by id."""
        return {request.item_id: request for _, request in sorted(self._requests.items())[:SIZE]}
