"""Find the boxes of a manifest's named objects, and write a manifest with one row per box.

The work is kept in ``<target>.work``: one part per batch, with one row per item, failed ones included. The same command
continues it, and also takes up new rows of the manifest. At the end the parts become the target.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config.detector import UNHASHED, detector_with
from pipeline.config.job import Budget, Job
from pipeline.config.recipe import Recipe
from pipeline.detect.stages import FOUND, PARTS, DetectWork
from pipeline.errors import ConfigError, ErrorBudgetExceeded, FetchError, ItemsMissing, StorageError
from pipeline.log import log, waiting_for
from pipeline.manifest.id_set import IdSet, contains, hash_ids, merge_ids
from pipeline.manifest.manifest import Manifest, open_manifest, scan
from pipeline.manifest.prompts import may_have_names
from pipeline.models.resolve import resolve_finder
from pipeline.output.output import Output
from pipeline.run.context import context_of
from pipeline.run.gpus import is_small, will_use_gpus
from pipeline.run.local import blocks_to_do, local_pool, run_in_worker
from pipeline.run.preflight import Plan
from pipeline.storage.files import Files
from pipeline.storage.overwriting import refuse_inputs
from pipeline.storage.uris import check_utf8, join, redact

ADDED = ("box", "box_score", "box_label")
"""Columns of the target beside ``item_id``, ``image_uri`` and the manifest's further columns."""


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

    def check(self, budget: Budget) -> None:
        """Refuse a result in which all items failed, or more than the budget allows.

        Raises:
            ErrorBudgetExceeded: The target is written, and has the boxes of the others.
        """
        too_many = self.failed > budget.allowed_failed and self.failed / self.items > budget.max_failed_share
        if self.failed and (too_many or self.failed == self.items):
            raise ErrorBudgetExceeded(f"{self.failed} of {self.items} items failed; correct their rows and add --retry all")


def detect(job: Job, target: str) -> Summary:
    """Find the boxes of all items of a manifest and write them.

    Args:
        job: Its manifest, detector, compute, limits, storage and ``run.retry`` are used.
        target: Path or URI of the Parquet file to write.

    Raises:
        Refused: The manifest, the detector or the target cannot be used, or the work was begun with another detector.
        ItemsMissing: Rows are missing at the end.
    """
    files = Files(job.storage)
    plan = _plan(job, check_utf8(files.absolute(target)), files)
    for part in _parts(plan) if plan.todo else ():
        log.info("detected", extra={"facts": part})
    done, _ = _done(plan.output, ())
    if missing := int((~contains(done, plan.ids)).sum()):
        raise ItemsMissing(f"{missing} of {plan.rows} items have no row in {plan.output.folder}; run the same command again")
    return _write(plan, files.absolute(target))


def _plan(job: Job, target: str, files: Files) -> Plan:
    if not target.endswith(".parquet"):
        raise ConfigError(f"--output {target} must end in .parquet")
    with waiting_for("reading the manifest"):
        manifest = open_manifest(job.manifest, files)
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
    with waiting_for("fetching the detector", at_once=False):
        assert recipe.detector is not None
        names = may_have_names(recipe.detector, manifest.carried.names)
        resolved = resolve_finder(recipe, files, gpu=will_use_gpus(job.compute), names=names)
    _check_settings(output, _settings(resolved.recipe))
    done, failed = _done(output, job.run.retry)
    done = done[~contains(failed, done)]
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
    model = recipe.model_copy(update={"detector": None})
    return settings | ({"recipe": model.fingerprint()} if recipe.detector.many == "each" else {})


def _check_settings(output: Output, settings: dict[str, Any]) -> None:
    """Record the detector's settings, or compare them with those that the work was begun with."""
    uri = join(output.folder, "detector.json")
    if not output.files.exists(uri):
        output.write(uri, json.dumps(settings, indent=2, ensure_ascii=False).encode())
        return
    try:
        before = json.loads(output.files.read(uri))
        names = [name for name in settings if before.get(name) != settings[name]]
    except (FetchError, ValueError, AttributeError, RecursionError) as error:
        raise StorageError(f"{redact(uri)} can't be read; delete the folder {redact(output.folder)}") from error
    if names:
        raise ConfigError(
            f"{redact(output.folder)} was begun with another detector ({', '.join(names)}); delete that folder, or choose "
            "another --output"
        )


def _parts(plan: Plan) -> Iterator[dict[str, Any]]:
    """Do the work, in a worker process or on Ray."""
    if not is_small(plan.job.compute, plan.todo):
        from pipeline.detect.graph import detect_items  # imports Ray

        yield from detect_items(plan, "detect")
        return
    pool = local_pool(plan)
    yield from run_in_worker(
        DetectWork(context_of(plan, pool, "detect")), blocks_to_do(plan, pool), plan.job.compute.no_progress_s
    )


def _tables(output: Output, columns: list[str] | None = None) -> Iterator[pa.Table]:
    for part in output.files.list(join(output.folder, PARTS), suffixes=(".parquet",)):
        try:
            yield pq.read_table(pa.BufferReader(output.files.read(part.uri)), columns=columns, page_checksum_verification=True)
        except (FetchError, pa.ArrowException, OSError) as error:
            raise StorageError(f"{redact(part.uri)} is damaged; delete it and run the same command again") from error


def _done(output: Output, retry: Collection[str]) -> tuple[IdSet, IdSet]:
    """Return the ids of all rows, and of those that failed with one of these codes and have no other row."""
    codes = pa.array(sorted(retry), pa.string())
    good: list[IdSet] = []
    failed: list[IdSet] = []
    for rows in _tables(output, ["item_id", "error_code"]):
        again = pc.is_in(rows["error_code"], codes).to_numpy(zero_copy_only=False).astype(bool)
        ids = hash_ids(rows["item_id"])
        good.append(ids[~again])
        failed.append(ids[again])
    known, bad = merge_ids(good), merge_ids(failed)
    return merge_ids([known, bad]), bad[~contains(known, bad)]


def _write(plan: Plan, target: str) -> Summary:
    """Write the target from the parts: each item once, its good row before a failed one."""
    summary, seen, bad = Summary(), set[str](), dict[str, tuple[str, str]]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "boxes.parquet"
        schema = _schema(plan.manifest)
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for part in _tables(plan.output):
                new = np.array([item_id not in seen for item_id in part["item_id"].to_pylist()], np.bool_)
                rows = part.filter(pa.array(new & contains(plan.ids, hash_ids(part["item_id"]))))
                good = rows.filter(pc.is_null(rows["error_code"]))
                for row in rows.filter(pc.is_valid(rows["error_code"])).to_pylist():
                    bad[row["item_id"]] = (row["error_code"], row["error_detail"])
                seen |= set(good["item_id"].to_pylist())
                boxes = _rows(good, schema)
                summary.boxes += boxes.num_rows - boxes["box"].null_count
                writer.write_table(boxes)
        plan.output.files.upload(target, path)
    for code, detail in (bad[item_id] for item_id in bad if item_id not in seen):
        summary.failures[code] = summary.failures.get(code, 0) + 1
        summary.examples.setdefault(code, detail)
    summary.items = len(seen) + summary.failed
    return summary


def _schema(manifest: Manifest) -> pa.Schema:
    own = pa.schema(
        [
            *(("item_id", pa.string()), ("image_uri", pa.string()), ("box", pa.list_(pa.float64()))),
            *(("box_score", pa.float64()), ("box_label", pa.string())),
        ]
    )
    return pa.schema([*own, *(one for one in manifest.carried if one.name not in ADDED)])


def _rows(items: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return one row per box. Items in which nothing was looked for have one row, with the box that they had."""
    numbers, facts = [], []
    for number, row in enumerate(items.select(["item_id", "box", "found"]).to_pylist()):
        found = row["found"]
        boxes = found or [{"box": row["box"], "score": None, "label": None}]
        for place, one in enumerate(boxes):
            numbers.append(number)
            facts.append({"item_id": row["item_id"] + (f"#{place}" if found else ""), **one})
    table = items.take(pa.array(numbers, pa.int64()))
    made = {
        "item_id": pa.array([one["item_id"] for one in facts], pa.string()),
        "box": pa.array([one["box"] for one in facts], FOUND.value_type.field("box").type),
        "box_score": pa.array([one["score"] for one in facts], pa.float64()),
        "box_label": pa.array([one["label"] for one in facts], pa.string()),
    }
    return pa.table({name: made[name] if name in made else table[name] for name in schema.names}, schema)
