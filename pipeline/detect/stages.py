"""The stages of a detection: find the named objects of a batch, and write its rows as one part."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.concurrency import ahead
from pipeline.config.detector import AUTO
from pipeline.config.recipe import Recipe
from pipeline.detect.parts import COLUMNS, PARTS, REQUEST
from pipeline.errors import ItemError, PipelineError, PromptError
from pipeline.imaging.parts import parts_of
from pipeline.manifest.points import points_of
from pipeline.manifest.prompts import may_have_names, prompts_of
from pipeline.models.detectors.detector import Detection, not_found
from pipeline.models.detectors.finder import Finder
from pipeline.models.resolve import resolve_finder
from pipeline.output.changes import hash_requests
from pipeline.output.layout import part_name
from pipeline.run.context import StageContext
from pipeline.run.crash_ledger import CrashLedger
from pipeline.run.stages.columns import column, errors_of, unpack, with_errors
from pipeline.run.stages.columns import replace as with_columns
from pipeline.run.stages.decode import decode_batch
from pipeline.run.stages.process import tune_process
from pipeline.run.work import Part, Rows, in_batches
from pipeline.segmenter import Segmenter
from pipeline.storage.uris import join
from pipeline.types import Pixels

FOUND = pa.list_(pa.struct([("box", pa.list_(pa.float64())), ("score", pa.float64()), ("label", pa.string())]))
"""The boxes of an image, best first; null where nothing was looked for."""

NO_PARTS = "no salient object was found; give the item a label or a box, or set recipe.detector.missing=salient"

_Result = list[Detection] | ItemError


def model_of(recipe: Recipe) -> Recipe | None:
    """Return the recipe of the model that finds the objects of items without names; None if the detector works alone."""
    assert recipe.detector is not None, "the recipe has a detector"
    return recipe.model_copy(update={"detector": None}) if recipe.detector.many == "each" else None


class DetectBatch:
    """One actor with the detector: created once, called for every batch."""

    def __init__(self, context: StageContext) -> None:
        self.context, pool = context, context.pool
        threads = pool.threads(context.job.compute)
        tune_process(threads)
        self.refused: PipelineError | None = None
        try:
            self._load(threads)
        except PipelineError as error:
            self.refused = error  # raised here, Ray would report a dead actor instead

    def _load(self, threads: int) -> None:
        """Load the detector if an item may have a name, and the model if it finds the objects of items without one."""
        context, device, recipe = self.context, self.context.pool.device, self.context.recipe
        assert recipe.detector is not None
        self.settings, self.segmenter = recipe.detector, None
        names = may_have_names(recipe.detector, context.carried)
        resolved = resolve_finder(recipe, context.files, gpu=device == "cuda", names=names)
        self.finder = Finder(resolved, context.files, device=device, threads=threads)
        if names:
            self.settings, _ = self.finder.load()
        if (model := model_of(resolved.recipe)) is not None:
            self.segmenter = Segmenter.from_recipe(
                model, context.files, device=device, threads=threads, engine=context.job.compute.engine
            )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Add ``found`` and the errors of rows in which nothing was found. Pixels end here."""
        if self.refused is not None:
            raise self.refused
        errors, prompts = errors_of(batch), prompts_of(batch, self.settings)
        for row, one in enumerate(prompts):
            if errors[row] is None and isinstance(one, ItemError):
                errors[row] = one
        points = points_of(batch)
        placed = [box or points[row] is not None for row, box in enumerate(batch["box"].is_valid().to_pylist())]
        names = {
            row: one
            for row, one in enumerate(prompts)
            if not isinstance(one, ItemError) and errors[row] is None and (one or (self.segmenter and not placed[row]))
        }
        ids = batch["item_id"].to_pylist()
        rows, isolated = list(names), self.context.isolated("detect", [ids[row] for row in names])
        results = isolated.run_items(lambda numbers: self._find(batch, {rows[one]: names[rows[one]] for one in numbers}))
        found: list[list[Detection] | None] = [None] * batch.num_rows
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, ItemError):
                errors[row] = result
            elif result:
                found[row] = result
            elif self.settings.missing == "fail":
                errors[row] = not_found(names[row], self.settings) if names[row] else PromptError(NO_PARTS)
        isolated.finish()
        boxes = [None if one is None else [two._asdict() | {"box": list(two.box)} for two in one] for one in found]
        return with_columns(with_errors(batch, errors), found=column(boxes, FOUND)).drop_columns(["pixels"])

    def _find(self, batch: pa.Table, names: dict[int, tuple[str, ...]]) -> list[_Result]:
        heights, widths = (batch[name].to_pylist() for name in ("height", "width"))
        images = {row: unpack(batch["pixels"], row, (heights[row], widths[row], 3)) for row in names}
        found: dict[int, _Result] = {}
        for rows, find in (
            ([row for row, one in names.items() if one], self.finder.all),
            ([row for row, one in names.items() if not one], self._parts),
        ):
            pixels = [image for row in rows if (image := images[row]) is not None]
            if rows:
                found |= zip(rows, find(pixels, [names[row] for row in rows]), strict=True)
        return [found[row] for row in names]

    def _parts(self, images: Sequence[Pixels], _: Sequence[tuple[str, ...]]) -> list[_Result]:
        """Return the boxes around the connected parts of each image's salient objects, largest first."""
        assert self.segmenter is not None, "items without names are left alone"
        return [
            one
            if isinstance(one, ItemError)
            else [Detection(part.box, part.share, AUTO) for part in parts_of(one.mask, self.settings.max_boxes)]
            for one in self.segmenter.segment(images, [None] * len(images))
        ]


def write_part(rows: pa.Table, *, context: StageContext) -> pa.Table:
    """Write rows as one part, named by their ids, and return one row about it: ``items``, ``boxes`` and ``failed``."""
    requests = pa.array([one.ljust(16, b"\0") for one in hash_requests(rows, context.recipe.detector).tolist()], REQUEST)
    sink = io.BytesIO()
    pq.write_table(with_columns(rows, request=requests).select(COLUMNS), sink, compression="zstd", write_page_checksum=True)
    context.output.write(join(context.output.folder, PARTS, part_name(rows["item_id"].to_pylist())), sink.getvalue())
    boxes = sum(len(one or ()) for one in rows["found"].to_pylist())
    failed = rows.num_rows - rows["error_code"].null_count
    return pa.table({"items": [rows.num_rows], "boxes": [boxes], "failed": [failed]})


@dataclass(frozen=True)
class DetectWork:
    """The work of a worker process (``run.work.Work``): the stages of ``graph.detect_items``."""

    context: StageContext

    def __call__(self, blocks: Rows, ledger: CrashLedger, *, overlap: bool) -> Iterator[Part]:
        """See ``Work``.

        Raises:
            PipelineError: The detector or its files cannot be used.
        """
        context = replace(self.context, ledger=ledger)
        detect = DetectBatch(context)
        beside: Callable[[Iterable[pa.Table]], Rows] = ahead if overlap else iter
        for table in beside(table for block in blocks for table in decode_batch(block, context=context)):
            for batch in in_batches(table, context.batch_size):
                yield Part(batch.num_rows, write_part(detect(batch), context=context).to_pylist()[0])
