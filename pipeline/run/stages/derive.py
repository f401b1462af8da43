"""Make the outputs and renditions that finished items lack, from their masks and cutouts, and commit the new rows."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

import pyarrow as pa

from pipeline.concurrency import map_ahead
from pipeline.errors import DecodeError, FetchError, ItemError
from pipeline.imaging.decode import decode
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.png import encode_cutout, encode_mask
from pipeline.imaging.renditions.render import Rendered, render
from pipeline.imaging.trimap import trimap_of
from pipeline.imaging.validate import decode_cutout, decode_mask
from pipeline.output.derived import unwanted_columns
from pipeline.output.index import write_part
from pipeline.output.layout import REPAIR
from pipeline.run.context import StageContext
from pipeline.run.stages.columns import sha256
from pipeline.run.stages.objects import note_replacements, write_output, write_rendition
from pipeline.run.stages.process import tune_process
from pipeline.types import Mask, Pixels


def derive_batch(rows: pa.Table, *, context: StageContext) -> pa.Table:
    """Make what these items lack, commit their new rows as one index part, and return one row about it.

    The row has ``done`` (items), ``failures`` as JSON: id and message of each item that still lacks something, and ``left``:
    the number of items that were not begun, because ``context.deadline`` has passed.
    """
    if context.is_late():
        return _facts([], {}, rows.num_rows)
    tune_process()
    entries, failures = rows.to_pylist(), {}
    isolated = context.isolated("derive", [entry["item_id"] for entry in entries])
    note_replacements(context, [entry["item_id"] for entry in entries])
    done: list[dict[str, Any]] = []
    threads = context.job.compute.fetch_threads
    with ThreadPoolExecutor(threads) as pool:
        sources = map_ahead(pool, lambda entry: _Source(entry, context), entries, 2 * threads)
        for number, (entry, source) in enumerate(zip(entries, sources, strict=True)):
            if context.is_late():
                break
            try:
                done.append(isolated.run_one(number, partial(_derive, entry, source, context)))
            except ItemError as error:
                failures[entry["item_id"]] = str(error)
    isolated.finish()
    if done:
        write_part(context.output, pa.Table.from_pylist(done, rows.schema))
    return _facts(done, failures, len(entries) - len(done) - len(failures))


def _facts(done: list[dict[str, Any]], failures: dict[str, str], left: int) -> pa.Table:
    return pa.table({"done": [len(done)], "failures": [json.dumps(failures)], "left": [left]})


def _derive(entry: dict[str, Any], source: _Source, context: StageContext) -> dict[str, Any]:
    """Write what an item lacks, and return its new row.

    Raises:
        ItemError: Its mask, cutout or photo cannot be read, or a file cannot be written.
    """
    recipe, item_id, name = context.recipe, entry["item_id"], entry["output_name"]
    wanted = context.rendition_recipes
    kept = {one["name"]: one for one in entry["renditions"] or () if wanted.get(one["name"]) == one["recipe"]}
    columns: dict[str, Any] = dict.fromkeys(unwanted_columns(recipe))
    for output in recipe.outputs:
        if entry[f"{output}_path"] is None:
            columns |= write_output(context, item_id, name, output, _encode(output, source))
    missing = [one for one in recipe.renditions if any(file.name not in kept for file in one.files)]
    for rendered in _render(missing, source, context):
        written = write_rendition(context, item_id, name, rendered, wanted[rendered.name])
        kept[rendered.name] = written["rendition"]
    columns.pop("write_s", None)
    columns["renditions"] = [kept[file] for file in wanted] if wanted else None
    worker = f"{socket.gethostname()}/{os.getpid()}"
    return entry | columns | {"run_id": context.run_id, "worker": worker, "finished_at": datetime.now(UTC)}


def _encode(output: str, source: _Source) -> bytes:
    match output:
        case "mask":
            return encode_mask(source.mask)
        case "trimap":
            return encode_mask(trimap_of(source.mask))
        case _:
            return encode_cutout(source.foreground, source.mask)


def _render(missing: list[Any], source: _Source, context: StageContext) -> Iterator[Rendered]:
    if missing:
        needs_colours = any(one.what == "cutout" for one in missing)
        foreground = source.foreground if needs_colours else source.no_colours
        photo = source.photo if any(one.needs_photo for one in missing) else None
        yield from render(missing, foreground, source.mask, context.backgrounds, photo)


class _Source:
    """Source of an item's new files: its mask, its cutout, and its photo where there is no cutout or a file needs it."""

    def __init__(self, entry: dict[str, Any], context: StageContext) -> None:
        self.entry, self.context = entry, context
        self.kind = "cutout" if entry["cutout_path"] else "mask"
        self.data: bytes | FetchError
        try:
            self.data = context.output.load(entry[f"{self.kind}_path"], bytes)
        except FetchError as error:
            self.data = error

    @cached_property
    def _decoded(self) -> tuple[Pixels | None, Mask]:
        if isinstance(self.data, FetchError):
            raise self.data
        if sha256(self.data) != self.entry[f"{self.kind}_sha256"]:
            path = self.entry[f"{self.kind}_path"]
            raise FetchError(f"{path} differs from its row in the index; {REPAIR}")
        return decode_cutout(self.data) if self.kind == "cutout" else (None, decode_mask(self.data))

    @property
    def mask(self) -> Mask:
        """(H, W) uint8."""
        return self._decoded[1]

    @property
    def no_colours(self) -> Pixels:
        """A stand-in for renditions of the mask, which use no colours."""
        colours, mask = self._decoded
        return mask[..., None].repeat(3, 2) if colours is None else colours

    @cached_property
    def foreground(self) -> Pixels:
        """Straight colours, (H, W, 3) uint8."""
        colours, mask = self._decoded
        return estimate_foreground(self.photo, mask, self.context.recipe.foreground) if colours is None else colours

    @cached_property
    def photo(self) -> Pixels:
        """The photo that the mask was made of, (H, W, 3) uint8."""
        allowlist, limits = self.context.allowlist, self.context.job.limits
        if allowlist.outside(pa.array([self.entry["image_uri"]])).any():
            raise FetchError(allowlist.refusal(self.entry["image_uri"]))
        uri = allowlist.real_path(self.entry["image_uri"])
        data = self.context.files.read(uri, max_bytes=limits.max_bytes, timeout_s=limits.fetch_s)
        if sha256(data) != self.entry["image_sha256"]:
            raise FetchError(f"{self.entry['image_uri']} has changed since its mask was made; add --changed")
        photo = decode(data, limits)
        if photo.shape[:2] != self.mask.shape:
            raise DecodeError(f"the mask does not have the size of {self.entry['image_uri']}; {REPAIR}")
        return photo
