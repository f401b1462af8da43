"""The paths of an output.

::

    <root>/<recipe folder>/
      recipe.json                      the settings that determine the pixels
      masks/ab/<object name>.<input>.png   ab: first two hex digits of sha256(item id), so 256 prefixes share S3's load
      cutouts/ab/<object name>.<input>.png
      trimaps/ab/<object name>.<input>.png
      renditions/<rendition>/ab/<object name>.<input>.jpg    or .png, .webp, .json
      index/part-<16 hex digits>.parquet
      superseded/part-….parquet        index parts whose rows were replaced
      runs/<run id>.json               the run record, written at the end of a run
      progress/<run id>.json           the progress of a run
      lease/<number>.json              the run that writes here now
      evaluation/part-….parquet        metrics against ground truth (matteline evaluate)
      reviews/reviews-….parquet        human reviews; also sample.json and accepted.json (the drift baseline)

Objects are never overwritten: ``<input>`` is a hash of the image's bytes and the box. A repeated task finds the same object,
and a changed image gets a new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.storage.object_names import id_bytes, object_name
from pipeline.storage.uris import join, name, parent

OUTPUTS = ("mask", "cutout", "trimap")
"""Objects of an item in its image's size, as ``recipe.outputs`` and the index columns name them."""


@dataclass(frozen=True)
class Layout:
    """The paths of one recipe's results. ``root`` is absolute (``uris.absolute``)."""

    root: str
    recipe_folder: str

    @classmethod
    def of(cls, folder: str) -> Layout:
        """Return the layout of a recipe folder."""
        return cls(parent(folder), name(folder))

    @property
    def folder(self) -> str:
        """The recipe folder."""
        return join(self.root, self.recipe_folder)

    @property
    def recipe(self) -> str:
        """The recipe as JSON."""
        return join(self.folder, "recipe.json")

    @property
    def objects(self) -> list[str]:
        """Folders that hold objects."""
        return [*(self.outputs(output) for output in OUTPUTS), self.renditions]

    @property
    def renditions(self) -> str:
        """Folder of the renditions."""
        return join(self.folder, "renditions")

    @property
    def index(self) -> str:
        """Folder of the index parts."""
        return join(self.folder, "index")

    @property
    def superseded(self) -> str:
        """Folder of replaced index parts."""
        return join(self.folder, "superseded")

    @property
    def runs(self) -> str:
        """Folder of the run records."""
        return join(self.folder, "runs")

    @property
    def progresses(self) -> str:
        """Folder of the progress objects."""
        return join(self.folder, "progress")

    @property
    def lease(self) -> str:
        """Folder of the lease."""
        return join(self.folder, "lease")

    @property
    def evaluation(self) -> str:
        """Folder of the evaluation parts."""
        return join(self.folder, "evaluation")

    @property
    def reviews(self) -> str:
        """Folder of reviews, sample and baseline."""
        return join(self.folder, "reviews")

    def outputs(self, output: str) -> str:
        """Return the folder of one of the ``OUTPUTS``."""
        return join(self.folder, f"{output}s")

    def output(self, output: str, item_id: str, made_from: str) -> str:
        """Return the URI of one of an item's ``OUTPUTS``. ``made_from`` is the ``input_mark``."""
        return self._object(self.outputs(output), item_id, made_from)

    def rendition(self, rendition: str, item_id: str, made_from: str, suffix: str) -> str:
        """Return the URI of an item's rendition. ``rendition`` and ``suffix`` are those of ``Rendered``."""
        return self._object(join(self.renditions, rendition), item_id, made_from, suffix)

    def part(self, item_ids: Iterable[str]) -> str:
        """Return the URI of the index part with these items. A repeated task overwrites its own part."""
        return join(self.index, part_name(item_ids))

    def run(self, run_id: str) -> str:
        """Return the URI of a run record."""
        return join(self.runs, f"{run_id}.json")

    def progress(self, run_id: str) -> str:
        """Return the URI of a run's progress object."""
        return join(self.progresses, f"{run_id}.json")

    def _object(self, folder: str, item_id: str, made_from: str, suffix: str = "png") -> str:
        spread = hashlib.sha256(id_bytes(item_id)).hexdigest()[:2]
        return join(folder, spread, f"{object_name(item_id)}.{made_from}.{suffix}")


def input_mark(image_sha256: str, box: Sequence[float] | None) -> str:
    """Hash the image's bytes and the item's box, as the index has them, to 12 hex digits."""
    corners = "" if box is None else " ".join(repr(float(corner)) for corner in box)
    return hashlib.sha256(f"{image_sha256} {corners}".encode()).hexdigest()[:12]


def part_name(item_ids: Iterable[str]) -> str:
    """Return ``part-<16 hex digits>.parquet``, a hash of the item ids."""
    content = hashlib.sha256()
    for item_id in sorted(item_ids):
        encoded = id_bytes(item_id)
        content.update(len(encoded).to_bytes(8, "big") + encoded)
    return f"part-{content.hexdigest()[:16]}.parquet"
