"""Where things land below an output.

::

    <root>/<recipe folder>/
      recipe.json                      what makes these pixels
      masks/ab/<object name>.<input>.png   ab = first two hex digits of sha256(item id): 256 prefixes share S3's load
      cutouts/ab/<object name>.<input>.png
      trimaps/ab/<object name>.<input>.png
      renditions/<rendition>/ab/<object name>.<input>.jpg    or .png, .webp, .json
      index/part-<16 hex digits>.parquet
      superseded/part-….parquet        parts whose rows a later run replaced
      runs/<run id>.json               written last
      progress/<run id>.json           how far each run is, or was when it ended
      lease/<number>.json              who is at work here now
      evaluation/part-….parquet        how far the masks are from true ones, if that was asked for
      reviews/reviews-….parquet      what people said of items; beside it sample.json, and accepted.json of the whole

Objects are never overwritten: ``<input>`` stands for the image's bytes and the box, so whoever makes the same object again
finds it there, and a changed image makes another one beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.storage.object_names import id_bytes, object_name
from pipeline.storage.uris import join, name, parent

OUTPUTS = ("mask", "cutout", "trimap")
"""What an item's objects of its image's size are, as ``recipe.outputs`` and the index's columns name them."""


@dataclass(frozen=True)
class Layout:
    """The places of one recipe's results. ``root`` is absolute, as ``uris.absolute`` gives it."""

    root: str
    recipe_folder: str

    @classmethod
    def of(cls, folder: str) -> Layout:
        """The layout whose ``folder`` this is."""
        return cls(parent(folder), name(folder))

    @property
    def folder(self) -> str:
        return join(self.root, self.recipe_folder)

    @property
    def recipe(self) -> str:
        return join(self.folder, "recipe.json")

    @property
    def objects(self) -> list[str]:
        """The folders that hold objects."""
        return [*(self.outputs(output) for output in OUTPUTS), self.renditions]

    @property
    def renditions(self) -> str:
        return join(self.folder, "renditions")

    @property
    def index(self) -> str:
        return join(self.folder, "index")

    @property
    def superseded(self) -> str:
        return join(self.folder, "superseded")

    @property
    def runs(self) -> str:
        return join(self.folder, "runs")

    @property
    def progresses(self) -> str:
        return join(self.folder, "progress")

    @property
    def lease(self) -> str:
        return join(self.folder, "lease")

    @property
    def evaluation(self) -> str:
        return join(self.folder, "evaluation")

    @property
    def reviews(self) -> str:
        return join(self.folder, "reviews")

    def outputs(self, output: str) -> str:
        """The folder of one of the ``OUTPUTS``."""
        return join(self.folder, f"{output}s")

    def output(self, output: str, item_id: str, made_from: str) -> str:
        """Where one of an item's ``OUTPUTS`` lies; ``made_from`` as ``input_mark`` gives it."""
        return self._object(self.outputs(output), item_id, made_from)

    def rendition(self, rendition: str, item_id: str, made_from: str, suffix: str) -> str:
        """Where an item's file of a rendition lies; ``rendition`` and ``suffix`` as ``Rendered`` has them."""
        return self._object(join(self.renditions, rendition), item_id, made_from, suffix)

    def part(self, item_ids: Iterable[str]) -> str:
        """The index part that holds these items: a task that is run again writes the same part again."""
        return join(self.index, part_name(item_ids))

    def run(self, run_id: str) -> str:
        return join(self.runs, f"{run_id}.json")

    def progress(self, run_id: str) -> str:
        return join(self.progresses, f"{run_id}.json")

    def _object(self, folder: str, item_id: str, made_from: str, suffix: str = "png") -> str:
        spread = hashlib.sha256(id_bytes(item_id)).hexdigest()[:2]
        return join(folder, spread, f"{object_name(item_id)}.{made_from}.{suffix}")


def input_mark(image_sha256: str, box: Sequence[float] | None) -> str:
    """12 hex digits for what the recipe is applied to: the image's bytes and the item's box, as the index has them."""
    corners = "" if box is None else " ".join(repr(float(corner)) for corner in box)
    return hashlib.sha256(f"{image_sha256} {corners}".encode()).hexdigest()[:12]


def part_name(item_ids: Iterable[str]) -> str:
    """``part-<16 hex digits>.parquet``, from what is in the part and not from who wrote it."""
    content = hashlib.sha256()
    for item_id in sorted(item_ids):
        encoded = id_bytes(item_id)
        content.update(len(encoded).to_bytes(8, "big") + encoded)
    return f"part-{content.hexdigest()[:16]}.parquet"
