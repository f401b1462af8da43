"""COCO annotations with ids of their own, one file per split. Annotations of a source are in ``coco_source.py``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import IO, Any

from pipeline.datasets.classes import Classes, class_of
from pipeline.datasets.form import Object, Photo, Picture
from pipeline.datasets.rows import Row
from pipeline.datasets.values import plain, to_json
from pipeline.errors import ConfigError
from pipeline.imaging.polygons import outlines
from pipeline.imaging.rle import run_lengths
from pipeline.storage.files import Files
from pipeline.storage.uris import parent


class CocoForm:
    """Write COCO annotations with run lengths or polygons. Images and annotations are numbered 1, 2, … in each file.

    Args:
        target: The file. With splits, ``_<split>`` is added to its name.
        splits: The splits; None for the only one of a set without splits.
        classes: The categories.
        columns: Custom columns, which become ``attributes``.
        about: Description of the data set.
        folder: A local folder for temporary files.
        files: Access to storage.
        polygons: Polygons instead of run lengths.
    """

    needs_photo = False

    def __init__(
        self,
        target: str,
        splits: Iterable[str | None],
        classes: Classes,
        columns: Iterable[str],
        about: str,
        folder: Path,
        files: Files,
        *,
        polygons: bool = False,
    ) -> None:
        self.written: list[str] = []
        self.polygons = polygons
        self.columns, self.files = tuple(columns), files
        self._ids = dict(zip(classes.names, classes.ids, strict=True))
        head = {"info": {"description": about}, "categories": [_category(*pair) for pair in self._ids.items()]}
        self._open = {split: _File(split_target(target, split), head, folder) for split in splits}

    def check(self, picture: Picture) -> None:
        """Refuse two pictures of one file name."""
        if picture.shares_path:
            raise ConfigError(
                f"several images have the file name {picture.path[:200]!r}; give the manifest a column split that tells them "
                "apart, or export them from outputs of their own"
            )

    def begin(self, picture: Picture, _: Photo | None) -> Geometries:
        """Start the annotations of a picture."""
        return Geometries(polygons=self.polygons)

    def add(self, picture: Picture, made: list[tuple[Row, dict[str, Any]]]) -> None:
        """Write a picture's annotations."""
        self._open[picture.split].add(picture, [self._annotation(row, geometry) for row, geometry in made])

    def _annotation(self, row: Row, geometry: dict[str, Any]) -> dict[str, Any]:
        facts = {"category_id": self._ids[class_of(row)], "iscrowd": 0} | geometry
        facts |= {"score": round(row["quality"], 6), "item_id": row["item_id"]}
        return facts | attributes(row, self.columns)

    def close(self) -> None:
        """Complete the files and write them to their places."""
        for one in self._open.values():
            one.close(self.files)
            self.written.append(one.target)


class Geometries:
    """Collects the geometry of a picture's masks, without empty ones."""

    def __init__(self, *, polygons: bool) -> None:
        self.polygons = polygons
        self.made: list[tuple[Row, dict[str, Any]]] = []

    def add(self, one: Object) -> None:
        """Add ``segmentation``, ``area`` and ``bbox`` of a mask."""
        found = run_lengths(one.inside)
        if found["area"]:
            segmentation: Any = {"size": found["size"], "counts": found["counts"]}
            if self.polygons:
                segmentation = [ring.round(2).reshape(-1).tolist() for ring in outlines(one.inside)]
            self.made.append((one.row, {"bbox": found["bbox"], "area": found["area"], "segmentation": segmentation}))

    def finish(self) -> list[tuple[Row, dict[str, Any]]]:
        """Return the geometries with their rows."""
        return self.made


class _File:
    """One file of annotations. It is written from its start; the images wait in a second file for the end."""

    def __init__(self, target: str, head: dict[str, Any], folder: Path) -> None:
        self.target, self.images, self.objects = target, 0, 0
        self.path = Path(mkdtemp(dir=folder)) / "annotations.json"
        self._annotations: IO[bytes] = self.path.open("wb")
        self._images = TemporaryFile(dir=folder)  # noqa: SIM115  closed with the file
        self._annotations.write(to_json(head).removesuffix(b"}") + b',\n"annotations":[')

    def add(self, picture: Picture, annotations: list[dict[str, Any]]) -> None:
        self.images += 1
        image = {"id": self.images, "file_name": picture.path, "height": picture.size.height, "width": picture.size.width}
        self._images.write(b",\n" * (self.images > 1) + to_json(image))
        for annotation in annotations:
            self.objects += 1
            entry = {"id": self.objects, "image_id": self.images} | annotation
            self._annotations.write(b",\n" * (self.objects > 1) + to_json(entry))

    def close(self, files: Files) -> None:
        with self._annotations, self._images:
            self._annotations.write(b'],\n"images":[')
            self._images.seek(0)
            shutil.copyfileobj(self._images, self._annotations)
            self._annotations.write(b"]}\n")
        files.upload(self.target, self.path)
        self.path.unlink()


def attributes(row: Row, columns: Iterable[str]) -> dict[str, Any]:
    """Return the custom columns that have a value as ``{"attributes": …}``; nothing without any."""
    values = {name: value for name in columns if (value := plain(row[name])) is not None}
    return {"attributes": values} if values else {}


def split_target(target: str, split: str | None) -> str:
    """Return the file of a split: ``instances.json`` becomes ``instances_train.json``."""
    if split is None:
        return target
    stem, suffix = os.path.splitext(target.removeprefix(parent(target)))  # noqa: PTH122  a URI is no Path
    return f"{parent(target)}{stem}_{split}{suffix}"


def _category(name: str, number: int) -> dict[str, Any]:
    return {"id": number, "name": name, "supercategory": ""}
