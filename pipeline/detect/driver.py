"""Find the boxes of a manifest's named objects, and write a manifest with one row per box.

The work is kept in ``<target>.work``: one part per batch, with one row per item, failed ones included. The same command
continues it, and also takes up rows of the manifest that are new, or whose image, box or names have changed. At the end, the
target is made from the manifest's rows and the parts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.detector import UNHASHED, detector_with, eases
from pipeline.config.job import Budget, Job
from pipeline.config.recipe import Recipe
from pipeline.detect.parts import REQUEST, done_ids, read_all, results
from pipeline.detect.stages import FOUND, DetectWork, model_of
from pipeline.errors import ConfigError, ErrorBudgetExceeded, FetchError, ItemsMissing, StorageError
from pipeline.log import log, waiting_for
from pipeline.manifest.id_set import IdSet, contains, duplicate_ids, hash_ids, merge_ids
from pipeline.manifest.manifest import Manifest, open_manifest, scan
from pipeline.manifest.prompts import may_have_names, unused_names
from pipeline.manifest.videos import are_videos
from pipeline.models.resolve import check_licence, resolve_finder
from pipeline.output.changes import hash_requests
from pipeline.output.output import Output
from pipeline.run.budget import deadline_of, deadline_passed, exceeds, has_passed
from pipeline.run.context import context_of
from pipeline.run.gpus import is_small, runs_on_gpus
from pipeline.run.local import blocks_to_do, local_pool, run_in_worker
from pipeline.run.preflight import Plan
from pipeline.storage.files import Files
from pipeline.storage.overwriting import refuse_inputs
from pipeline.storage.uris import check_utf8, join, redact

ADDED = ("box", "box_score", "box_label")
"""Columns of the target beside ``item_id``, ``image_uri`` and the manifest's further columns."""

RESULT = pa.schema([("request", REQUEST), ("found", FOUND), ("error_code", pa.string()), ("error_detail", pa.string())])
"""What the target needs of the parts."""


@dataclass
class Summary:
    """Counts of a finished detection."""

    items: int = 0
    boxes: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    """Failed items by error code."""
    examples: dict[str, str] = field(default_factory=dict)
    """One message by error code."""

    @property
    def failed(self) -> int:
        """Number of failed items."""
        return sum(self.failures.values())

    def add_failure(self, code: str, detail: str) -> None:
        """Count a failed item."""
        self.failures[code] = self.failures.get(code, 0) + 1
        self.examples.setdefault(code, detail)

    def check(self, budget: Budget) -> None:
        """Refuse a result in which all items failed, or more than the budget allows.

        Raises:
            ErrorBudgetExceeded: The target is written, and has the boxes of the others.
        """
        if self.failed and (self.failed == self.items or exceeds(self.failed, self.items, budget)):
            raise ErrorBudgetExceeded(f"{self.failed} of {self.items} items failed; correct their rows and add --retry all")


def detect(job: Job, target: str) -> Summary:
    """Find the boxes of all items of a manifest and write them.

    Args:
        job: Its manifest, detector, compute, limits, storage, ``budget.deadline_s``, ``run.retry`` and ``run.accept_licence``
            are used, and with ``many: each`` its preset.
        target: Path or URI of the Parquet file to write.

    Raises:
        Refused: The manifest, the detector or the target cannot be used, or the work was begun with another detector.
        Stopped: The deadline passed before the last item.
        ItemsMissing: Rows are missing at the end.
    """
    files, deadline = Files(job.storage), deadline_of(job.budget)
    plan = replace(_plan(job, check_utf8(files.absolute(target)), files), deadline=deadline)
    if (said := unused_names(plan.job.recipe.detector, plan.manifest.carried, job.columns)) is not None:
        log.warning(said)
    left = plan.todo
    for part in _parts(plan) if plan.todo else ():
        log.info("detected", extra={"facts": part})
        left -= part["items"]
    if left > 0 and has_passed(deadline):
        raise deadline_passed(left)
    assert plan.job.recipe.detector is not None
    done = merge_ids([done_ids(plan.output, plan.manifest, plan.job.recipe.detector), plan.videos])
    if missing := int((~contains(done, plan.ids)).sum()):
        raise ItemsMissing(f"{missing} of {plan.rows} items have no row in {plan.output.folder}; run the same command again")
    return _write(plan, files.absolute(target))


def _plan(job: Job, target: str, files: Files) -> Plan:
    if not target.endswith(".parquet"):
        raise ConfigError(f"--output {target} must end in .parquet")
    with waiting_for("reading the manifest"):
        manifest = open_manifest(job.manifest, files, chosen=job.columns)
        scanned = scan(manifest, files)
    refuse_inputs("--output", [target], [fragment.uri for fragment in manifest.fragments])
    output = Output.at(f"{target}.work", files)
    if not files.exists(join(output.folder, "detector.json")) and files.exists(target):
        raise ConfigError(
            f"--output {redact(target)} exists, and no unfinished or finished matteline detect belongs to it; choose another "
            "name, or delete it"
        )
    files.check_writable(output.folder)
    recipe = job.recipe if job.recipe.detector is not None else job.recipe.model_copy(update={"detector": detector_with({})})
    assert recipe.detector is not None
    names = may_have_names(recipe.detector, manifest.carried)
    if not names and recipe.detector.many != "each":
        raise ConfigError(
            f"nothing says what to find in {redact(manifest.uri)}, which has no column label or labels with names; add --label "
            "NAME, or --set recipe.detector.many=each for all salient objects"
        )
    if model_of(recipe) is not None:
        check_licence(job.preset, job.run.accept_licence)
    with waiting_for("fetching the detector", at_once=False):
        resolved = resolve_finder(recipe, files, gpu=runs_on_gpus(job.compute, model_of(recipe)), names=names)
    _check_settings(output, _settings(resolved.recipe), job.run.retry)
    assert resolved.recipe.detector is not None
    done = merge_ids([done_ids(output, manifest, resolved.recipe.detector, job.run.retry), scanned.videos])
    todo = scanned.rows - int(contains(done, scanned.ids).sum())
    return Plan(
        job.with_recipe(resolved.recipe),
        manifest,
        output,
        scanned.rows,
        scanned.refused,
        scanned.ids,
        scanned.videos,
        done,
        todo,
        resolved,
        {},
    )


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Return what decides which boxes are found; with ``many: each``, the model, too."""
    assert recipe.detector is not None
    settings = recipe.detector.model_dump(mode="json", exclude=UNHASHED)
    model = model_of(recipe)
    return settings if model is None else settings | {"recipe": model.fingerprint()}


def _check_settings(output: Output, settings: dict[str, Any], retry: Collection[str]) -> None:
    """Record the detector's settings, or compare them with those that the work was begun with.

    With ``--retry prompt``, the threshold may be lower and ``missing`` may become ``salient``: items in which something was
    found keep their boxes.
    """
    uri = join(output.folder, "detector.json")
    if output.files.exists(uri):
        try:
            before = json.loads(output.files.read(uri))
            names = [name for name in settings if before.get(name) != settings[name]]
            eased = eases(before, settings, names)
        except (FetchError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise StorageError(f"{redact(uri)} can't be read; delete the folder {redact(output.folder)}") from error
        if not names:
            return
        if not eased or "prompt" not in retry:
            hint = "add --retry prompt, " if eased else ""
            raise ConfigError(
                f"{redact(output.folder)} was begun with another detector ({', '.join(names)}); {hint}delete that folder, or "
                "choose another --output"
            )
    output.write(uri, json.dumps(settings, indent=2, ensure_ascii=False).encode())


def _parts(plan: Plan) -> Iterator[dict[str, Any]]:
    """Do the work, in a worker process or on Ray."""
    if not is_small(plan.job.compute, plan.todo):
        from pipeline.detect.graph import detect_items  # imports Ray

        yield from detect_items(plan, "detect")
        return
    pool = local_pool(plan.job.compute, model_of(plan.job.recipe))
    yield from run_in_worker(
        DetectWork(context_of(plan, pool, "detect")), blocks_to_do(plan, pool), plan.job.compute.no_progress_s
    )


def _write(plan: Plan, target: str) -> Summary:
    """Write the target: the manifest's rows in their order, each with what was found. Videos stay as they are.

    Raises:
        ConfigError: Two rows would have the same id.
    """
    detector, summary = plan.job.recipe.detector, Summary()
    found, schema = results(plan.output, RESULT), _schema(plan.manifest)
    written: list[IdSet] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "boxes.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for items in read_all(plan.manifest, plan.output.files):
                requests = hash_requests(items, detector)
                videos = are_videos(items)
                good, places = found.of(requests)
                places += np.flatnonzero(videos).tolist()
                summary.items += len(places)
                for row in found.failures_of(requests[~videos]).to_pylist():
                    summary.add_failure(row["error_code"], row["error_detail"])
                order = pa.array(np.argsort(places, kind="stable"), pa.int64())
                boxed = pa.chunked_array([*good["found"].chunks, pa.nulls(int(videos.sum()), FOUND)])
                boxes = _rows(items.take(pa.array(places, pa.int64()).take(order)), boxed.take(order), schema)
                summary.boxes += boxes.num_rows - boxes["box"].null_count
                written.append(hash_ids(boxes["item_id"]))
                writer.write_table(boxes)
        _check_ids(plan, merge_ids(written))
        plan.output.files.upload(target, path)
    summary.items += summary.failed
    return summary


def _check_ids(plan: Plan, ids: IdSet) -> None:
    """Refuse a target in which a box would have the id of another item.

    Raises:
        ConfigError: It names both items.
    """
    shared = duplicate_ids(ids)
    if not len(shared):
        return
    for items in read_all(plan.manifest, plan.output.files):
        for item_id in items["item_id"].to_pylist():
            owner = item_id.rpartition("#")[0]
            both = pa.array([item_id, owner])
            if contains(shared, hash_ids(both[:1])).all() and contains(plan.ids, hash_ids(both[1:])).all():
                raise ConfigError(
                    f"a box of the item {owner!r} would have the id {item_id!r}, which another item of the manifest has; "
                    f"give the item {item_id!r} another id, and run the same command again"
                )
    raise ConfigError("boxes of two items would have the same id; give the items ids that do not end in # and a number")


def _schema(manifest: Manifest) -> pa.Schema:
    own = pa.schema(
        [
            *(("item_id", pa.string()), ("image_uri", pa.string()), ("box", pa.list_(pa.float64()))),
            *(("box_score", pa.float64()), ("box_label", pa.string())),
        ]
    )
    return pa.schema([*own, *(one for one in manifest.carried if one.name not in ADDED)])


def _rows(items: pa.Table, results: pa.ChunkedArray, schema: pa.Schema) -> pa.Table:
    """Return one row per box. Items in which nothing was looked for have one row, with the box, score and label that they had.

    Args:
        items: Rows of the manifest.
        results: What was found in each of them, of the type ``FOUND``.
        schema: That of the target.
    """
    numbers, facts = [], []
    had = [items["box"].to_pylist(), _had(items, "box_score", schema), _had(items, "box_label", schema)]
    for number, (item_id, found, *own) in enumerate(zip(items["item_id"].to_pylist(), results.to_pylist(), *had, strict=True)):
        boxes = found or [dict(zip(("box", "score", "label"), own, strict=True))]
        for place, one in enumerate(boxes):
            numbers.append(number)
            facts.append({"item_id": item_id + (f"#{place}" if found else ""), **one})
    table = items.take(pa.array(numbers, pa.int64()))
    made = {
        "item_id": pa.array([one["item_id"] for one in facts], pa.string()),
        "box": pa.array([one["box"] for one in facts], FOUND.value_type.field("box").type),
        "box_score": pa.array([one["score"] for one in facts], pa.float64()),
        "box_label": pa.array([one["label"] for one in facts], pa.string()),
    }
    return pa.table({name: made[name] if name in made else table[name] for name in schema.names}, schema)


def _had(items: pa.Table, name: str, schema: pa.Schema) -> list[Any]:
    """Return a column of a manifest that an earlier detection wrote; nulls if there is none of this type."""
    try:
        return list(items[name].cast(schema.field(name).type).to_pylist())
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return [None] * items.num_rows
