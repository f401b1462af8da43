"""A sample of items that depends on their ids only, so that the same items can be drawn from another table with these ids."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.manifest.id_set import IdSet

SIZE = 4096
"""Items of a sample."""


class Request(NamedTuple):
    """An item as a manifest describes it."""

    item_id: str
    image_uri: str | None
    box: tuple[float, ...] | None

    @staticmethod
    def of(item_id: str, image_uri: str | None, box: list[float] | None) -> Request:
        """Build one from values of Arrow columns."""
        return Request(item_id, image_uri, None if box is None else tuple(box))


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
        rows = items.select(["item_id", "image_uri", "box"]).filter(pa.array(chosen)).to_pylist()
        for key, row in zip(hashes[chosen].tolist(), rows, strict=True):
            self._requests[key] = Request.of(**row)
        if len(self._requests) > 2 * SIZE:
            kept = sorted(self._requests)[:SIZE]
            self._requests, self._limit = {key: self._requests[key] for key in kept}, kept[-1]

    def by_id(self) -> dict[str, Request]:
        """Return the sample by id."""
        return {request.item_id: request for _, request in sorted(self._requests.items())[:SIZE]}
