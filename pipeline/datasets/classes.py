"""The classes of a data set: the values of the column ``category``, with their ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.datasets.rows import Row
from pipeline.errors import ConfigError

OBJECT = "object"
"""The class of items without a category."""

MAX_LABEL = 254
"""Largest class id, and number of objects, in a palette image: 0 is the background, and 255 means "void" in Pascal VOC."""


@dataclass(frozen=True)
class Classes:
    """Class names in the order of their ids.

    Without annotations of a source, classes are sorted by name and have the ids 1, 2, …
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    @classmethod
    def of(cls, names: Iterable[str], source: Iterable[Mapping[str, Any]] = ()) -> Classes:
        """Return the categories of a COCO file by their ids, then the names that are not among them."""
        known: dict[str, int] = {}
        for category in sorted(source, key=lambda one: int(one["id"])):
            known.setdefault(str(category["name"]), int(category["id"]))
        more = sorted(set(names) - set(known))
        first = max(known.values(), default=0) + 1
        return cls((*known, *more), (*known.values(), *range(first, first + len(more))))

    def place(self, row: Row) -> int:
        """Return the number of a row's class, from 0."""
        return self.names.index(class_of(row))

    def labels(self) -> dict[int, str]:
        """Return the names by their ids in palette images.

        They are those of the source, or 1, 2, … where one of these is outside of 1 to 254, or belongs to two names.

        Raises:
            ConfigError: There are too many classes.
        """
        if len(self.names) > MAX_LABEL:
            raise ConfigError(f"there are {len(self.names)} categories, but a palette holds {MAX_LABEL}; use --coco")
        fits = all(1 <= one <= MAX_LABEL for one in self.ids) and len(set(self.ids)) == len(self.ids)
        return dict(zip(self.ids if fits else range(1, len(self.names) + 1), self.names, strict=True))


def class_of(row: Row) -> str:
    """Return the class of a row."""
    return row["category"] or OBJECT
