"""Cut out videos: from a row of the manifest to a row of the index, in the process that holds the model.

A video streams through: frames are decoded, segmented, drawn and encoded side by side, and none is kept. Its files appear under
their names when they are whole and were read back, and its row is committed after that.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ItemError, ItemRefused, StorageError, WriteError
from pipeline.manifest.points import COLUMN as POINT
from pipeline.manifest.points import parse_point
from pipeline.manifest.prompts import prompts_of
from pipeline.manifest.videos import VIDEO_COLUMN, part_of
from pipeline.output import kept_masks
from pipeline.output.layout import is_inside, part_name, video_path
from pipeline.output.overwrites import note_overwrites
from pipeline.run.context import StageContext
from pipeline.run.crash_ledger import IsolatedBatch
from pipeline.run.metrics import WRITTEN
from pipeline.run.stages.columns import replace
from pipeline.run.stages.commit import commit_batch, nothing_committed
from pipeline.run.stages.segment import SegmentBatch
from pipeline.run.stages.write import Row, index_table
from pipeline.schema import INDEX, ITEM, MAX_DETAIL, SEGMENTS, TRAVELLING, index_schema
from pipeline.segmenter import Segmenter
from pipeline.storage.uris import join, strip_signature
from pipeline.types import Box

if TYPE_CHECKING:
    from pipeline.video.process import Request

LIFE_S = 20.0
"""Seconds between two signs of life of a video, so that a run does not count as stuck while it works on a long one."""

PROGRESS = "video_progress"
"""Column between the stages, which says how far a video is: as ``commit.NO_FRAMES``."""

PROGRESS_TYPE = pa.struct(
    [("frames", pa.int64()), ("video", pa.string()), ("video_frames", pa.int64()), ("video_left", pa.int64())]
)

UNKNOWN: dict[str, Any] = {
    **dict.fromkeys(name for name in (*INDEX.names, *TRAVELLING) if name not in ITEM.names),
    "quality_calibrated": False,
}
"""Columns whose values are not known before a video was cut out."""


class CutVideos:
    """One actor with the model: created once, called for every video."""

    def __init__(self, context: StageContext) -> None:
        self.stage = SegmentBatch(context)

    def __call__(self, items: pa.Table) -> Iterator[pa.Table]:
        """Yield what ``cut_videos`` yields."""
        if self.stage.refused is not None:
            raise self.stage.refused
        yield from cut_videos(items, self.stage.segmenter, self.stage.context)


def cut_videos(items: pa.Table, segmenter: Segmenter, context: StageContext) -> Iterator[pa.Table]:
    """Cut out videos, one after the other. Yields one table per video with its index row, and signs of life before.

    After ``context.deadline`` no video is begun, and has no row.
    """
    prompts = prompts_of(items, context.recipe.detector)
    for number, row in enumerate(items.to_pylist()):
        if context.is_late():
            return
        frames = _Frames(row["item_id"])
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(_cut, row, prompts[number], segmenter, context, frames)
            while not is_over(work):
                yield _with_progress(_nothing(context), frames)
        result = work.result()
        frames.end()
        yield _with_progress(index_table(_without_signature(items.slice(number, 1)), [result], context), frames)


def request_of(row: Mapping[str, Any], names: tuple[str, ...], context: StageContext) -> Request:
    """Return what a row of the manifest wants of a video.

    Raises:
        ItemError: Its part is none, it has a point, its link leads out of the allowed roots, or its name out of the output.
    """
    from pipeline.video.process import Request

    if isinstance(row.get(POINT), str | list) and parse_point(row[POINT]) is not None:
        raise ItemRefused("a point is for a picture; give the box of the object in the first frame, or remove the point")
    box = None if row["box"] is None else Box(*row["box"])
    paths: dict[str, str] = {name: video_path(name, row["output_name"]) for name in context.recipe.videos}
    if not all(map(is_inside, paths.values())):
        raise WriteError(f"{row['output_name']!r} leads out of the output; correct the item's name")
    uris = {name: context.output.layout.uri(path) for name, path in paths.items()}
    kept = context.output.layout.kept_masks(row["item_id"])
    return Request(context.allowlist.real_path(row["image_uri"]), part_of(row), box, names, uris, kept)


def commit_videos(rows: pa.Table, *, context: StageContext) -> pa.Table:
    """Write one index part and return one row about it, as ``commit_batch``. With a sign of life, nothing is written."""
    (progress,) = rows[PROGRESS].to_pylist()
    if is_sign_of_life(rows):
        return nothing_committed(progress=progress)
    rows = rows.drop_columns(PROGRESS)
    facts = replace(commit_batch(rows, context=context), **{name: pa.array([value]) for name, value in progress.items()})
    for row in rows.select(["item_id", "status"]).to_pylist():
        if row["status"] != "failed":  # a video that failed may be tried again
            kept_masks.forget(context.output, row["item_id"])
    return facts


def _write_segments(item_id: str, segments: Sequence[Any], context: StageContext) -> None:
    """Write the rows of a video's segments, before its own row. A repeated task overwrites them.

    Without segments, the rows of the item's former content are deleted.

    Raises:
        WriteError: They cannot be written or deleted.
    """
    uri = join(context.output.layout.segments, part_name([item_id]))
    if not segments:
        try:
            context.files.delete(uri)
        except StorageError as error:
            raise WriteError(str(error)) from error
        return
    rows = [one._asdict() | {"item_id": item_id, "run_id": context.run_id} for one in segments]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, SEGMENTS), sink, compression="zstd", write_page_checksum=True)
    context.files.write(uri, sink.getvalue())


def is_sign_of_life(rows: pa.Table) -> bool:
    """Return whether a table says only that work goes on."""
    return bool(rows["item_id"].null_count)


class _Frames:
    """Counts the frames of a video that are written."""

    def __init__(self, item_id: str) -> None:
        self._item_id = item_id
        self._expected = self._written = self._told = 0

    def expect(self, frames: int) -> None:
        """Note how many there will be, about; 0: unknown."""
        self._expected = frames

    def add(self) -> None:
        """Count one."""
        self._written += 1

    def end(self) -> None:
        """Note that no more will come."""
        self._expected = self._written

    def progress(self) -> dict[str, Any]:
        """Return a value of the column ``PROGRESS``."""
        written = self._written
        new, self._told = written - self._told, written
        left = max(0, self._expected - written)
        return {"frames": new, "video": self._item_id, "video_frames": self._expected, "video_left": left}


def _with_progress(rows: pa.Table, frames: _Frames) -> pa.Table:
    return rows.append_column(PROGRESS, pa.array([frames.progress()], PROGRESS_TYPE))


def _nothing(context: StageContext) -> pa.Table:
    """Return a row of nulls: a sign of life."""
    schema = index_schema(context.carried)
    return pa.table([pa.nulls(1, field.type) for field in schema], pa.schema([field.with_nullable(True) for field in schema]))


def _without_signature(item: pa.Table) -> pa.Table:
    """Remove what is secret and expires from the carried column of the video's URI."""
    if VIDEO_COLUMN not in item.column_names:
        return item
    at, field = item.schema.get_field_index(VIDEO_COLUMN), item.schema.field(VIDEO_COLUMN)
    uris = [uri and strip_signature(uri) for uri in item[VIDEO_COLUMN].to_pylist()]
    return item.set_column(at, field, pa.array(uris, field.type))


def is_over(work: Future[Any]) -> bool:
    """Return whether work is over, after at most ``LIFE_S``."""
    return not wait([work], LIFE_S).not_done


def _cut(
    row: dict[str, Any],
    prompt: tuple[str, ...] | ItemError,
    segmenter: Segmenter,
    context: StageContext,
    frames: _Frames,
) -> Row:
    """Cut out one video. Returns its row as ``index_table`` takes it."""
    began = time.monotonic()
    fact, result = row | UNKNOWN, {"renditions": None}
    error: dict[str, str | None] = {"error_code": row["error_code"], "error_detail": row["error_detail"]}
    if error["error_code"] is None:
        isolated = context.isolated("video", [row["item_id"]])
        try:
            isolated.run_one(0, lambda: _process(fact, result, prompt, segmenter, context, isolated, frames))
        except ItemError as failure:
            error = {"error_code": failure.code, "error_detail": str(failure)[:MAX_DETAIL]}
        isolated.finish()
    if error["error_code"] is not None:
        with suppress(WriteError):  # the item's error is the first one
            _write_segments(row["item_id"], (), context)
    fact["segment_s"] = time.monotonic() - began
    return fact, result, error


def _process(
    fact: dict[str, Any],
    result: dict[str, Any],
    prompt: tuple[str, ...] | ItemError,
    segmenter: Segmenter,
    context: StageContext,
    isolated: IsolatedBatch,
    frames: _Frames,
) -> None:
    """Process one video, and add what is known then to ``fact`` and ``result``.

    Raises:
        ItemError: It failed.
    """
    from pipeline.video.process import fetch, process  # imports PyAV, which runs without videos do not need

    if isinstance(prompt, ItemError):
        raise prompt
    fact["prompt"] = list(prompt) or None
    request = request_of(fact, prompt, context)

    def note() -> None:
        note_overwrites(context.output, context.run_id, [fact["item_id"]], complete=True)

    with ExitStack() as stack:
        source, original = fetch(request, context.files, context.job.limits, stack, isolated)
        fact |= {"image_sha256": original.sha256, "image_bytes": original.bytes, "image_version": original.version}
        fact["fetch_s"] = original.fetch_s
        where = context.files, context.job.limits, isolated
        made = process(source, original, request, context.recipe, context.backgrounds, segmenter, *where, note, frames)
    fact["height"], fact["width"] = made.size
    fact["quality"], fact["reasons"] = made.quality, list(made.reasons)
    if (found := made.detection) is not None:
        fact |= {"detected_box": list(found.box), "detected_label": found.label, "detector_score": found.score}
    for one in made.facts["files"]:
        one["path"] = video_path(one["name"], fact["output_name"])
    _write_segments(fact["item_id"], made.segments, context)
    result["video_facts"] = made.facts
    WRITTEN.add(sum(one["bytes"] for one in made.facts["files"]))
