"""COCO annotations as in the file from which the manifest was built, with the geometry of the masks."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Any

from pipeline.datasets.coco import Geometries, attributes, split_target
from pipeline.datasets.form import Photo, Picture
from pipeline.datasets.rows import Row
from pipeline.datasets.values import to_json
from pipeline.errors import ConfigError, FetchError
from pipeline.manifest.coco import id_text
from pipeline.storage.files import Files

_SPACE = " \t\n\r"

MAX_DIGITS = 18
"""Digits of a category's id, at most."""


def coco_file_name(row: Row) -> str | None:
    """Return the image's file name in the source, which is a part of the item's id; None for an item of another manifest."""
    name, sign, number = row["item_id"].rpartition("#")
    return name if sign and number == row["coco_id"] else None


class JsonMembers:
    """The members of a JSON object, of which only one element of a list is parsed at a time.

    Args:
        text: The object.
    """

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self._decoder = json.JSONDecoder()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yield each key with its value; of a list, an iterator of its elements, which ends when the next member is taken.

        Raises:
            ValueError: It is no JSON object.
        """
        self.at = 0
        self._take("{")
        more = self._next() != "}"
        while more:
            key = self._value()
            self._take(":")
            if self._next() == "[":
                elements = self._elements()
                yield key, elements
                for _ in elements:
                    pass
            else:
                yield key, self._value()
            more = self._take(",}") == ","

    def _elements(self) -> Iterator[Any]:
        self._take("[")
        if self._next() == "]":
            self._take("]")
            return
        while True:
            yield self._value()
            if self._take(",]") == "]":
                return

    def _next(self) -> str:
        while self.at < len(self.text) and self.text[self.at] in _SPACE:
            self.at += 1
        if self.at == len(self.text):
            raise ValueError("it ends too early")
        return self.text[self.at]

    def _take(self, signs: str) -> str:
        found = self._next()
        if found not in signs:
            raise ValueError(f"at character {self.at} is {found!r} instead of {' or '.join(signs)}")
        self.at += 1
        return found

    def _value(self) -> Any:
        self._next()
        value, self.at = self._decoder.raw_decode(self.text, self.at)
        return value


def _text_of(entry: Any, key: str) -> str | None:
    """Return an id as text, since tools mix 1, 1.0 and "1"; None without one."""
    value = entry.get(key) if isinstance(entry, dict) else None
    return None if value is None else id_text(value)


def is_coco(data: bytes) -> bool:
    """Return whether a file is a JSON object with images and annotations."""
    try:
        return {"images", "annotations"} <= {key for key, _ in JsonMembers(data.decode(json.detect_encoding(data)))}
    except (ValueError, RecursionError):
        return False


def _is_category(entry: Any) -> bool:
    number = _text_of(entry, "id")
    return number is not None and number.isdecimal() and len(number) <= MAX_DIGITS and bool(_text_of(entry, "name"))


class CocoSource:
    """A file of COCO annotations. Its text is in memory, and one of its annotations.

    Args:
        uri: The file.
        files: Access to storage.

    Raises:
        ConfigError: It cannot be read, or is not COCO JSON.
    """

    def __init__(self, uri: str, files: Files) -> None:
        self.uri = uri
        hint = "if it was moved, give its new place with --source FILE; --source none gives new ids instead"
        try:
            data = files.read(uri).removeprefix(codecs.BOM_UTF8)
            self._text = data.decode(json.detect_encoding(data))
            self.categories: list[dict[str, Any]] = []
            self.places: dict[str, int] = {}
            """The place of each annotation's geometry by its id; -1 without one."""
            self.shared: set[str] = set()
            """The ids that several annotations have which differ."""
            for key, value in self.members():
                if key == "categories":
                    self.categories = list(filter(_is_category, value or ()))
                elif key == "annotations":
                    self._add_ids(number for one in value if (number := _text_of(one, "id")) is not None)
            if self.shared:
                self.shared = self._different(self.shared)
        except FetchError as error:
            raise ConfigError(f"the annotations from which the manifest was built cannot be read: {error}; {hint}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(f"{uri} is not COCO JSON ({type(error).__name__}: {error}); {hint}") from error

    def _add_ids(self, ids: Iterable[str]) -> None:
        for one in ids:
            if one in self.places:
                self.shared.add(one)
            self.places[one] = -1

    def _different(self, ids: set[str]) -> set[str]:
        """Return those of some ids that annotations have which differ: an exact repeat is the same annotation."""
        first: dict[str, Any] = {}
        annotations = (one for key, value in self.members() if key == "annotations" for one in value)
        named = ((number, one) for one in annotations if (number := _text_of(one, "id")) in ids)
        return {number for number, one in named if number is not None and first.setdefault(number, one) != one}

    def members(self) -> JsonMembers:
        """Return the members of the file."""
        return JsonMembers(self._text)


class SourceForm:
    """Write a source's annotations again, in their order and with their ids. Only segmentation, area and bbox are new.

    Annotations without a mask (crowds, failed items, empty masks, those that are not in the manifest) stay as they are. If the
    source has images of several splits, an image belongs to that of its items; images without items are left out.

    Args:
        source: The source.
        target: The file. With splits, ``_<split>`` is added to its name.
        splits: The splits of the source's items; None for the only one of a set without splits.
        columns: Custom columns, which are added to ``attributes``.
        folder: A local folder for temporary files.
        files: Access to storage.
        polygons: Polygons instead of run lengths.
    """

    needs_photo = False

    def __init__(
        self,
        source: CocoSource,
        target: str,
        splits: Iterable[str | None],
        columns: Iterable[str],
        folder: Path,
        files: Files,
        *,
        polygons: bool = False,
    ) -> None:
        self.source, self.files, self.columns, self.polygons = source, files, tuple(columns), polygons
        self.targets = {split: split_target(target, split) for split in splits}
        self.written = list(self.targets.values())
        self.kept = 0
        """Annotations that have the source's geometry."""
        self.no_split = 0
        """Images of the source that are left out, because they have no item and hence no split."""
        self._splits = {split: number for number, split in enumerate(self.targets)}
        self._of_item: dict[str, int] = {}
        self._folder = Path(mkdtemp(dir=folder))
        self._made: IO[bytes] = (self._folder / "geometry").open("w+b")

    def check(self, picture: Picture) -> None:
        """Refuse a picture with an annotation that the source does not have, or has twice."""
        for row in picture.rows:
            if row["coco_id"] in self.source.shared:
                raise ConfigError(
                    f"the item {row['item_id']} has the coco_id {row['coco_id']!r}, which two annotations in {self.source.uri} "
                    "have; give each an id of its own and build the manifest again, or use --source none for new ids"
                )
            if row["coco_id"] not in self.source.places:
                raise ConfigError(
                    f"the item {row['item_id']} has the coco_id {row['coco_id']!r}, which no annotation in {self.source.uri} "
                    "has; give the file from which the manifest was built with --source FILE, or --source none for new ids"
                )
            if len(self.targets) > 1:
                self._of_item[row["coco_id"]] = self._splits[picture.split]

    def begin(self, picture: Picture, _: Photo | None) -> Geometries:
        """Start the annotations of a picture."""
        return Geometries(polygons=self.polygons)

    def add(self, picture: Picture, made: list[tuple[Row, dict[str, Any]]]) -> None:
        """Note the geometry of a picture's annotations."""
        for row, geometry in made:
            self.source.places[row["coco_id"]] = self._made.tell()
            self._made.write(to_json(geometry | attributes(row, self.columns)) + b"\n")

    def close(self) -> None:
        """Write the files."""
        images = self._images_by_split() if len(self.targets) > 1 else {}
        with self._made:
            for split, target in self.targets.items():
                path = self._folder / "annotations.json"
                with path.open("wb") as file:
                    self._write(file, images, self._splits[split])
                self.files.upload(target, path)
                path.unlink()

    def _images_by_split(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for key, value in self.source.members():
            if key == "annotations":
                pairs = ((_text_of(one, "image_id"), self._of_item.get(_text_of(one, "id") or "")) for one in value)
                found |= {image: split for image, split in pairs if image is not None and split is not None}
        for key, value in self.source.members():
            if key == "images":
                self.no_split += sum(_text_of(one, "id") not in found for one in value)
        return found

    def _write(self, file: IO[bytes], images: Mapping[str, int], split: int) -> None:
        before = b"{"
        for key, value in self.source.members():
            file.write(before + to_json(key) + b":")
            before = b",\n"
            if not isinstance(value, Iterator):
                file.write(to_json(value))
                continue
            image_key = {"images": "id", "annotations": "image_id"}.get(key) if len(self.targets) > 1 else None
            kept = (one for one in value if image_key is None or images.get(_text_of(one, image_key) or "") == split)
            self._write_list(file, map(self._updated, kept) if key == "annotations" else kept)
        file.write(b"}\n")

    def _write_list(self, file: IO[bytes], elements: Iterable[Any]) -> None:
        before = b"["
        for one in elements:
            file.write(before + to_json(one))
            before = b",\n"
        file.write(b"[]" if before == b"[" else b"]")

    def _updated(self, annotation: Any) -> Any:
        place = self.source.places.get(_text_of(annotation, "id") or "", -1)
        if place < 0:
            self.kept += 1
            return annotation
        self._made.seek(place)
        made: dict[str, Any] = json.loads(self._made.readline())
        added = made.pop("attributes", {})
        if added:
            given = annotation.get("attributes")
            made["attributes"] = added | (given if isinstance(given, dict) else {})
        return annotation | made


class SourceForms:
    """Write the annotations of several sources, each of which has its own splits."""

    needs_photo = False

    def __init__(self, forms: Iterable[SourceForm]) -> None:
        self._forms = {split: form for form in forms for split in form.targets}
        self.written = [target for form in self._all() for target in form.written]

    @property
    def kept(self) -> int:
        """Annotations that have their source's geometry."""
        return sum(form.kept for form in self._all())

    @property
    def no_split(self) -> int:
        """Images that are left out, because they have no item and hence no split."""
        return sum(form.no_split for form in self._all())

    def check(self, picture: Picture) -> None:
        """Refuse a picture with an annotation that its source does not have."""
        self._forms[picture.split].check(picture)

    def begin(self, picture: Picture, photo: Photo | None) -> Geometries:
        """Start the annotations of a picture."""
        return self._forms[picture.split].begin(picture, photo)

    def add(self, picture: Picture, made: list[tuple[Row, dict[str, Any]]]) -> None:
        """Note the geometry of a picture's annotations."""
        self._forms[picture.split].add(picture, made)

    def close(self) -> None:
        """Write the files."""
        for form in self._all():
            form.close()

    def _all(self) -> list[SourceForm]:
        return list(dict.fromkeys(self._forms.values()))
