"""Palette PNGs, one per image: the numbers of its objects, or their class ids."""

from __future__ import annotations

import json

import numpy as np

from pipeline.datasets.classes import MAX_LABEL, Classes, class_of
from pipeline.datasets.form import Object, Photo, Picture
from pipeline.errors import ConfigError
from pipeline.imaging.png import encode_labels
from pipeline.imaging.rle import HALF
from pipeline.storage.files import Files
from pipeline.storage.uris import join

NAMES = "id2label.json"


class PaletteForm:
    """Write ``<folder>/<split>/<name>.png``, and the class names if pixels are class ids.

    Args:
        folder: Where to write.
        classes: Pixels are class ids of these; None: pixels are the numbers of the image's objects, 1, 2, …
        files: Access to storage.
    """

    needs_photo = False

    def __init__(self, folder: str, classes: Classes | None, files: Files) -> None:
        self.folder, self.files, self.written = folder, files, [folder]
        self.labels = None if classes is None else classes.labels()
        self.ids = None if self.labels is None else {name: number for number, name in self.labels.items()}

    def check(self, picture: Picture) -> None:
        """Refuse an image with more objects than a palette has numbers."""
        if self.ids is None and len(picture.rows) > MAX_LABEL:
            raise ConfigError(
                f"{picture.rows[0]['image_uri']} has {len(picture.rows)} objects, but a palette holds {MAX_LABEL}; use --coco "
                "without --indexed, or add --classes"
            )

    def begin(self, picture: Picture, _: Photo | None) -> _Labels:
        """Start a PNG."""
        return _Labels(self, picture)

    def add(self, picture: Picture, made: None) -> None:
        """Do nothing: the PNG is written."""

    def close(self) -> None:
        """Write the class names, with ``background`` as 0."""
        if self.labels is not None:
            names = {"0": "background"} | {str(number): name for number, name in sorted(self.labels.items())}
            self.files.write(join(self.folder, NAMES), json.dumps(names, ensure_ascii=False, indent=2).encode())


class _Labels:
    """Palette PNG of one picture. Where objects overlap, the more opaque one is used."""

    def __init__(self, form: PaletteForm, picture: Picture) -> None:
        self.form, self.picture, self.count = form, picture, 0

    def add(self, one: Object) -> None:
        if not self.count:  # not earlier: the size may be wrong, and large
            self.labels, self.strongest = np.zeros_like(one.mask), np.full_like(one.mask, HALF - 1)
        self.count += 1
        wins = one.mask > self.strongest
        self.labels[wins] = self.count if self.form.ids is None else self.form.ids[class_of(one.row)]
        self.strongest[wins] = one.mask[wins]

    def finish(self) -> None:
        target = join(self.form.folder, self.picture.split or "", f"{self.picture.name}.png")
        self.form.files.write(target, encode_labels(self.labels))
