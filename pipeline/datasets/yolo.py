"""YOLO: one polygon per object, in the layout of ultralytics' segmentation data sets."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml

from pipeline.datasets.classes import Classes
from pipeline.datasets.form import Object, Photo, Picture
from pipeline.datasets.photos import PhotoWriter
from pipeline.errors import ConfigError
from pipeline.imaging.polygons import outline
from pipeline.storage.files import Files
from pipeline.storage.uris import join

IMAGES, LABELS, YAML = "images", "labels", "data.yaml"
TRAIN, VAL = "train", "val"
SPLITS = {"valid": VAL, "validation": VAL, "dev": VAL}
"""Other names of the splits that ultralytics knows."""

_KEYS = ("path", "names", "nc", "channels", "download")
"""Keys of ``data.yaml`` with a meaning of their own; ``download`` is run as a program."""

_IMAGES_FOLDER = re.compile(r"(?<![^/])images(?=/)")


class YoloForm:
    """Write ``images/<split>/<name>.jpg``, ``labels/<split>/<name>.txt`` and ``data.yaml``.

    Args:
        folder: Where to write.
        splits: The splits; None for the only one of a set without splits, which is named ``train``.
        classes: Their places are the class numbers, from 0.
        photos: Copies or links photos.
        files: Access to storage.

    Raises:
        ConfigError: A split has the name of a key of ``data.yaml``.
    """

    needs_photo = True

    def __init__(self, folder: str, splits: Iterable[str | None], classes: Classes, photos: PhotoWriter, files: Files) -> None:
        self.folder, self.classes, self.photos, self.files, self.written = folder, classes, photos, files, [folder]
        self.splits = {split: TRAIN if split is None else SPLITS.get(split, split) for split in splits}
        if taken := [split for split in self.splits if split in _KEYS]:
            raise ConfigError(f"the split {taken[0]!r} has the name of a key of {YAML}; rename it for --yolo")

    def check(self, picture: Picture) -> None:
        """Check that the photo can be copied or linked."""
        self.photos.check(picture)

    def begin(self, picture: Picture, photo: Photo | None) -> _Polygons:
        """Start the labels of a picture."""
        assert photo is not None
        # Ultralytics replaces the last /images/ of a photo's path by /labels/.
        name = join(self.splits[picture.split], _IMAGES_FOLDER.sub("Images", picture.name))
        self.photos.write(photo, join(self.folder, IMAGES, f"{name}.{photo.suffix}"))
        return _Polygons(self, join(self.folder, LABELS, f"{name}.txt"))

    def add(self, picture: Picture, made: None) -> None:
        """Do nothing: photo and labels are written."""

    def close(self) -> None:
        """Write ``data.yaml``. Paths in it are relative to it. A set without ``train`` or ``val`` uses what it has for both."""
        names = list(dict.fromkeys(self.splits.values()))
        folders = {name: f"{IMAGES}/{name}" for name in (TRAIN, VAL) if name in names}
        folders |= {name: folders.get(name, f"{IMAGES}/{names[0]}") for name in (TRAIN, VAL)}
        content = folders | {name: f"{IMAGES}/{name}" for name in names} | {"names": dict(enumerate(self.classes.names))}
        self.files.write(join(self.folder, YAML), yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())


class _Polygons:
    def __init__(self, form: YoloForm, target: str) -> None:
        self.form, self.target = form, target
        self.lines: list[str] = []

    def add(self, one: Object) -> None:
        ring = outline(one.inside)
        if ring is not None:
            shares = (ring / (one.mask.shape[1], one.mask.shape[0])).reshape(-1)
            self.lines.append(" ".join([str(self.form.classes.place(one.row)), *(f"{share:.6f}" for share in shares)]))

    def finish(self) -> None:
        self.form.files.write(self.target, "".join(f"{line}\n" for line in self.lines).encode())
