"""Export the masks of an output as data sets, grouped by image (``matteline dataset``)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pipeline.concurrency import map_ahead
from pipeline.datasets.classes import OBJECT, Classes
from pipeline.datasets.coco import CocoForm, split_target
from pipeline.datasets.coco_source import CocoSource, SourceForm, SourceForms, coco_file_name, is_coco
from pipeline.datasets.form import Form, Object, Photo, Picture
from pipeline.datasets.hub import Columns
from pipeline.datasets.hub_parquet import ParquetForm
from pipeline.datasets.image_folder import FolderForm
from pipeline.datasets.names import Names, image_path
from pipeline.datasets.palette import PaletteForm
from pipeline.datasets.photos import ImageMode, PhotoWriter, read_photo
from pipeline.datasets.rows import LabelColumns, Row, SortedRows, Survey, survey
from pipeline.datasets.yolo import YoloForm
from pipeline.errors import ConfigError, DecodeError, FetchError, ItemError, ItemRefused, StorageError
from pipeline.imaging.rle import binarize
from pipeline.imaging.validate import decode_mask
from pipeline.log import PassProgress
from pipeline.output.layout import REPAIR
from pipeline.output.output import Output
from pipeline.output.photos import manifest_folder, photo_roots
from pipeline.storage import uris
from pipeline.storage.allowlist import AllowList, display_uri
from pipeline.storage.overwriting import refuse_foreign, refuse_inputs
from pipeline.types import Size

THREADS = 16
WAITING_BYTES = 256 * 1024 * 1024
"""Bytes of photos that are read ahead."""

MAX_SPLITS = 50
"""Splits of a set, at most: each has open files."""

_SPLIT = re.compile(r"\w+(\.\w+)*", re.ASCII)


@dataclass(frozen=True)
class Targets:
    """Destination of each form: absolute path or URI, None for a form that is not wanted. See ``README.md``."""

    coco: str | None = None
    indexed: str | None = None
    yolo: str | None = None
    imagefolder: str | None = None
    parquet: str | None = None

    def folders(self) -> dict[str, str]:
        """Return the folders by the names of their options."""
        names = ("indexed", "yolo", "imagefolder", "parquet")
        return {f"--{name}": value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Choices:
    """Options of all forms."""

    class_ids: bool = False
    """Pixels of palette PNGs are class ids instead of object numbers."""
    coco_polygons: bool = False
    """COCO annotations have polygons instead of run lengths."""
    images: ImageMode = "copy"
    source: str | None = None
    """COCO annotations instead of those that the manifest names; ``none``: number images and annotations anew."""
    allow_roots: Sequence[str] = ()
    labels: LabelColumns = LabelColumns()  # noqa: RUF009  (immutable)


@dataclass
class DatasetReport:
    """Counts of an exported data set."""

    images: int = 0
    objects: int = 0
    empty: int = 0
    """Masks without a pixel above one half. Their images are in the data set, without an annotation."""
    stale: int = 0
    """Masks that are left out, because a newer row has another version of the same image."""
    kept: int = 0
    """COCO annotations that keep the geometry of the source, because they have no mask."""
    no_split: int = 0
    """COCO images of the source that are left out, because they have no item and hence no split."""
    without_photo: int = 0
    """Images that are left out of the forms with photos, because theirs cannot be read or has changed."""
    first_reason: str = ""
    """Reason for the first of them."""
    written: list[str] = field(default_factory=list)


class _Made(NamedTuple):
    picture: Picture
    parts: list[tuple[Form, Any]]
    empty: int
    reason: str


def export_dataset(output: Output, targets: Targets, choices: Choices = Choices()) -> DatasetReport:
    """Write all masks in each wanted form.

    Images are sorted by URI and the objects of an image by id, so the same index gives the same bytes. Memory does not grow
    with the number of items, but for 40 bytes per image and what ``coco_source`` holds.

    Raises:
        ConfigError: There are no masks, a folder is not empty, or a form cannot hold an image.
        StorageError: The index or a mask cannot be read.
        WriteError: A file cannot be written.
    """
    _check_folders(targets, output)
    found, report = survey(output, choices.labels), DatasetReport()
    _check_splits(found)
    with TemporaryDirectory(prefix="matteline-") as scratch:
        rows = SortedRows(output, found, Path(scratch) / "rows", choices.labels)
        base = manifest_folder(output)
        pictures = _Pictures(rows, base, coco_names=choices.source != "none")
        forms = _forms(output, targets, choices, found, pictures, Path(scratch))
        for picture in pictures:
            for form in forms:
                form.check(picture)
        _write(output, forms, pictures, photo_roots(output, choices.allow_roots), found.rows, report)
    for form in forms:
        report.written += form.written
        if isinstance(form, SourceForms):
            report.kept, report.no_split = form.kept, form.no_split
    return report


class _Pictures:
    """The images with their current rows. Can be iterated several times."""

    def __init__(self, rows: SortedRows, base: str | None, *, coco_names: bool) -> None:
        self.rows, self.base, self.coco_names = rows, base, coco_names
        self.names = Names(self._path(group[0]) for group in rows.by_image())

    def _path(self, row: Row) -> str:
        uri = row["image_uri"]
        return (coco_file_name(row) if self.coco_names else None) or image_path(uri, self.base)

    def __iter__(self) -> Iterator[Picture]:
        for group in self.rows.by_image():
            newest = max(group, key=lambda row: (row["run_id"] or "", row["finished_at"]))
            current = [row for row in group if row["image_sha256"] == newest["image_sha256"]]
            splits = sorted({row["split"] for row in current if row["split"] is not None})
            if len(splits) > 1:
                raise ConfigError(
                    f"{display_uri(newest['image_uri'])} is in the splits {splits[0]} and {splits[1]}; the column "
                    "split must have one value per image"
                )
            path, size = self._path(group[0]), Size(newest["height"], newest["width"])
            name, split = self.names.name(path, newest["image_uri"]), splits[0] if splits else None
            yield Picture(path, self.names.is_shared(path), name, split, size, current, len(group) - len(current))


def _check_folders(targets: Targets, output: Output) -> None:
    """Refuse folders with files in them, and forms whose files would mix."""
    folders = targets.folders()
    for (option, folder), (other, inside) in permutations(folders.items(), 2):
        if f"{inside}/".startswith(f"{folder}/"):
            raise ConfigError(f"{other} {inside} is the folder of {option}, or in it; give each form a folder of its own")
    for option, folder in folders.items():
        if next(iter(output.files.list(folder)), None) is not None:
            raise ConfigError(f"{folder} is not empty; give {option} a new folder, or delete it")


def _check_splits(found: Survey) -> None:
    """Refuse splits that are no names of files, or that some items lack, and too many."""
    names = sorted(split for split in found.splits if split is not None)
    if len(names) > MAX_SPLITS:
        raise ConfigError(
            f"there are {len(names)} splits, such as {names[0][:80]!r}; a set may have {MAX_SPLITS}: name another column with "
            "--split-column, or remove the column split from the manifest and run again"
        )
    if names and None in found.splits:
        raise ConfigError("some items have no split; fill the column split in the manifest, or remove it, and run again")
    for name in names:
        if not _SPLIT.fullmatch(name) or len(name) > 64:
            raise ConfigError(f"the split {name[:80]!r} is no name of letters, digits, _ and single dots; rename it")
    if len({name.casefold() for name in names}) < len(names):
        raise ConfigError(f"the splits {', '.join(names)[:200]} differ by case only; rename them")


def _forms(
    output: Output, targets: Targets, choices: Choices, found: Survey, pictures: Iterable[Picture], scratch: Path
) -> list[Form]:
    files, splits = output.files, sorted(found.splits, key=lambda split: split or "")
    names = [category or OBJECT for category in found.categories]
    sources = _sources(output, choices, found) if targets.coco or targets.yolo or choices.class_ids else {}
    if targets.coco:
        _check_annotations([split_target(targets.coco, split) for split in splits], [one.uri for one in sources], found, output)
    known = next(iter(sources)).categories if len(sources) == 1 else []
    classes, columns, photos = Classes.of(names, known), Columns(found.columns), PhotoWriter(choices.images, files)
    several = bool(targets.imagefolder or targets.parquet) and any(len(picture.rows) > 1 for picture in pictures)
    forms: list[Form] = []
    if targets.coco and sources:
        polygons = choices.coco_polygons
        parts = [
            SourceForm(one, targets.coco, some, found.columns, scratch, files, polygons=polygons)
            for one, some in sources.items()
        ]
        forms.append(SourceForms(parts))
    elif targets.coco:
        about = f"{uris.name(output.folder)}, cut out by Matteline"
        made = CocoForm(targets.coco, splits, classes, found.columns, about, scratch, files, polygons=choices.coco_polygons)
        forms.append(made)
    if targets.indexed:
        forms.append(PaletteForm(targets.indexed, classes if choices.class_ids else None, files))
    if targets.yolo:
        forms.append(YoloForm(targets.yolo, splits, classes, photos, files))
    if targets.imagefolder:
        forms.append(FolderForm(targets.imagefolder, splits, columns, several, photos, scratch, files))
    if targets.parquet:
        forms.append(ParquetForm(targets.parquet, splits, columns, several, scratch, files))
    return forms


def _check_annotations(targets: Sequence[str], sources: Sequence[str], found: Survey, output: Output) -> None:
    """Refuse to replace the annotations that the manifest was built from, and files that are not COCO."""
    inputs, base = list(sources), manifest_folder(output)
    for source in {source for source, _ in found.sources if source is not None}:
        with suppress(ConfigError):
            inputs.append(_resolved(source, base))
    refuse_inputs("--coco", targets, inputs)
    for target in targets:
        refuse_foreign("--coco", target, output.files, (), is_coco)


def _sources(output: Output, choices: Choices, found: Survey) -> dict[CocoSource, list[str | None]]:
    """Return the COCO files from which the manifest was built with their splits; none for ids of our own."""
    named = {source for source, _ in found.sources}
    if choices.source == "none" or named == {None}:
        if choices.source not in ("none", None):
            raise ConfigError("the manifest was not built from COCO annotations, so --source has no use; leave it out")
        return {}
    if None in named:
        raise ConfigError("some items are not from COCO annotations; use --source none to give all of them new ids")
    of_split: dict[str | None, str] = {}
    for source, split in sorted(found.sources, key=str):
        if source is not None and of_split.setdefault(split, source) != source:
            raise ConfigError(
                f"the items are from the COCO files {of_split[split]} and {source}; give the manifest a column split with one "
                "value per file, or use --source none to give new ids"
            )
    if choices.source is not None and len(named) > 1:
        raise ConfigError(f"the items are from {len(named)} COCO files, so --source cannot name theirs; use --source none")
    given = None if choices.source is None else output.files.absolute(choices.source)
    base = manifest_folder(output)
    opened: dict[str, CocoSource] = {}
    result: dict[CocoSource, list[str | None]] = {}
    for split, source in of_split.items():
        if source not in opened:
            opened[source] = CocoSource(given or _resolved(source, base), output.files)
        result.setdefault(opened[source], []).append(split)
    return result


def _resolved(source: str, base: str | None) -> str:
    try:
        return uris.resolve(source, base or "/")
    except ItemRefused as error:
        raise ConfigError(str(error).replace("image_uri", "coco_file", 1)) from None


def _write(
    output: Output, forms: Sequence[Form], pictures: Iterable[Picture], allowlist: AllowList, rows: int, report: DatasetReport
) -> None:
    make = partial(_make, output, forms, allowlist)
    weight = _photo_bytes if any(form.needs_photo for form in forms) else _nothing
    with ThreadPoolExecutor(THREADS) as pool, PassProgress("writing the data set", rows) as progress:
        made = map_ahead(pool, make, pictures, 2 * THREADS, weight=weight, max_weight=WAITING_BYTES)
        for picture, parts, empty, reason in made:
            report.images += 1
            report.objects += len(picture.rows) - empty
            report.empty += empty
            report.stale += picture.stale
            if reason:
                report.without_photo += 1
                report.first_reason = report.first_reason or reason
            for form, part in parts:
                form.add(picture, part)
            progress.add(len(picture.rows) + picture.stale)
    for form in forms:
        form.close()


def _photo_bytes(picture: Picture) -> float:
    return float(picture.rows[0]["image_bytes"] or 0)


def _nothing(_: Picture) -> float:
    return 0.0


def _make(output: Output, forms: Sequence[Form], allowlist: AllowList, picture: Picture) -> _Made:
    """Read the masks of one picture, one after the other, and make its part of each form."""
    photo: Photo | None = None
    reason = ""
    if any(form.needs_photo for form in forms):
        try:
            photo = read_photo(picture, allowlist, output.files)
        except ItemError as error:
            reason = str(error)
    parts = [(form, form.begin(picture, photo)) for form in forms if photo is not None or not form.needs_photo]
    empty = 0
    for row in picture.rows:
        one = _object(output, row, picture.size)
        empty += not one.inside.any()
        for _, part in parts:
            part.add(one)
    return _Made(picture, [(form, part.finish()) for form, part in parts], empty, reason)


def _object(output: Output, row: Row, size: Size) -> Object:
    path = row["mask_path"]
    try:
        png, mask = output.load(path, lambda data: (data, decode_mask(data)))
    except (FetchError, DecodeError) as error:
        raise StorageError(f"a mask cannot be read: {error}") from error
    if mask.shape != size:
        raise StorageError(f"the mask {path} does not have its image's size; {REPAIR}")
    return Object(row, png, mask, binarize(mask))
