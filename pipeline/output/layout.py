"""The paths of an output.

::

    <output>/
      masks/<name>.png           8-bit alpha; .mp4 for videos
      cutouts/<name>.png         RGBA; .webm, .mov, .mp4 for videos
      trimaps/<name>.png         if requested
      <rendition>/<name>.jpg     or .png, .webp, .json; a rendition of several sizes has one folder per size
      index/part-<16 hex digits>.parquet
      segments/part-<16 hex digits>.parquet   one row per segment of a long video
      report.html                written by matteline report
      _matteline/                bookkeeping
        recipe.json              the settings of all items here
        runs/<run id>.json       the run record, written at the end of a run; -watch- in the id marks the rounds of a watch
        progress/<run id>.json   the progress of a run
        lease/<number>.json      the run that writes here now
        masks/<16 hex digits>/   masks of finished segments of a video that is not done yet
        overwrites/….json        items whose objects are being replaced (see ``overwrites``)
        superseded/part-….parquet   index parts whose rows were replaced
        verify.json              the objects that an interrupted verification has read
        evaluation/part-….parquet   metrics against ground truth (matteline evaluate)
        reviews/reviews-….parquet   human reviews; also sample.json and accepted.json (the drift baseline)

``<name>`` is the index column ``output_name``. It depends on the item alone, not on its photo and not on the recipe. The index
stores paths relative to the output, so that an output can be moved or copied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.storage.uris import join

REPAIR = "run matteline verify --repair, then the same run again"
"""Advice about damaged and missing files, for messages."""

OUTPUTS = ("mask", "cutout", "trimap")
"""Objects of an item in its image's size, as ``recipe.outputs`` and the index columns name them."""


@dataclass(frozen=True)
class Layout:
    """The paths of an output. ``folder`` is absolute (``uris.absolute``)."""

    folder: str

    @property
    def own(self) -> str:
        """``_matteline``: settings, run records, progress, lease."""
        return join(self.folder, "_matteline")

    @property
    def recipe(self) -> str:
        """The settings of all items, as JSON."""
        return join(self.own, "recipe.json")

    @property
    def index(self) -> str:
        """Folder of the index parts."""
        return join(self.folder, "index")

    @property
    def superseded(self) -> str:
        """Folder of replaced index parts."""
        return join(self.own, "superseded")

    @property
    def overwrites(self) -> str:
        """Folder of the notes about objects that are being replaced."""
        return join(self.own, "overwrites")

    @property
    def segments(self) -> str:
        """Folder of the table of segments."""
        return join(self.folder, "segments")

    @property
    def all_kept_masks(self) -> str:
        """Folder of the masks that are kept of videos while these are worked on."""
        return join(self.own, "masks")

    def kept_masks(self, item_id: str) -> str:
        """Return the folder of the masks that are kept of an item."""
        return join(self.all_kept_masks, hashlib.sha256(item_id.encode("utf-8", "surrogatepass")).hexdigest()[:16])

    @property
    def runs(self) -> str:
        """Folder of the run records."""
        return join(self.own, "runs")

    @property
    def progresses(self) -> str:
        """Folder of the progress objects."""
        return join(self.own, "progress")

    @property
    def lease(self) -> str:
        """Folder of the lease."""
        return join(self.own, "lease")

    @property
    def verify(self) -> str:
        """The progress of a verification."""
        return join(self.own, "verify.json")

    @property
    def evaluation(self) -> str:
        """Folder of the evaluation parts."""
        return join(self.own, "evaluation")

    @property
    def reviews(self) -> str:
        """Folder of reviews, sample and baseline."""
        return join(self.own, "reviews")

    def outputs(self, output: str) -> str:
        """Return the folder of one of the ``OUTPUTS``."""
        return join(self.folder, f"{output}s")

    def uri(self, path: str) -> str:
        """Return the URI of a path of the index."""
        return join(self.folder, path)

    def part(self, item_ids: Iterable[str]) -> str:
        """Return the URI of the index part with these items. A repeated task overwrites its own part."""
        return join(self.index, part_name(item_ids))

    def run(self, run_id: str) -> str:
        """Return the URI of a run record."""
        return join(self.runs, f"{run_id}.json")

    def progress(self, run_id: str) -> str:
        """Return the URI of a run's progress object."""
        return join(self.progresses, f"{run_id}.json")


def is_inside(path: str) -> bool:
    """Check whether a path of the index leads to a place below the output."""
    return not path.startswith("/") and ".." not in path.split("/")


def output_path(output: str, name: str) -> str:
    """Return the path of one of an item's ``OUTPUTS``. ``name`` is the column ``output_name``."""
    return f"{output}s/{name}.png"


def video_path(file: str, name: str) -> str:
    """Return the path of one of a video's files. ``file`` is its name in ``recipe.videos``."""
    return f"masks/{name}.mp4" if file == "mask" else f"cutouts/{name}.{'zip' if file == 'png' else file}"


def rendition_path(rendition: str, name: str, suffix: str) -> str:
    """Return the path of an item's rendition. ``rendition`` and ``suffix`` are those of ``Rendered``."""
    return f"{rendition}/{name}.{suffix}"


def part_name(item_ids: Iterable[str]) -> str:
    """Return ``part-<16 hex digits>.parquet``, a hash of the item ids."""
    content = hashlib.sha256()
    for item_id in sorted(item_ids):
        encoded = item_id.encode("utf-8", "surrogatepass")
        content.update(len(encoded).to_bytes(8, "big") + encoded)
    return f"part-{content.hexdigest()[:16]}.parquet"
