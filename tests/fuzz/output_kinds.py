"""The files of an output: each is damaged in a small, complete output, and the commands that read it follow."""

from __future__ import annotations

import functools
import io
import json
import random
import shutil
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from kinds import Kind, Wrong
from mutations import damage_json, damage_table

from jobs.show import show
from jobs.top import top
from jobs.verify import verify
from pipeline.config.job import Job, load_job
from pipeline.datasets.export import Choices, Targets, export_dataset
from pipeline.errors import PipelineError, StorageError
from pipeline.imaging.png import encode_cutout, encode_mask
from pipeline.output.baseline import baseline, drift
from pipeline.output.changes import changed
from pipeline.output.gc import collect_garbage
from pipeline.output.index import done_ids, read_index, tally, write_part
from pipeline.output.layout import output_path
from pipeline.output.lease import Lease, new_run_id, run_id_after
from pipeline.output.output import Output
from pipeline.output.overwrites import note_overwrites
from pipeline.output.progress import Progress
from pipeline.output.run_record import RunRecord
from pipeline.output.settings import write_settings
from pipeline.output.summary import worst
from pipeline.output.verify import repair
from pipeline.review.accept import accept
from pipeline.review.compare import compare
from pipeline.review.pages import Options, report_page
from pipeline.review.reviews import draw_sample, import_reviews, read_reviews, review_sample
from pipeline.run.preflight import make_plan, without_done
from pipeline.run.prepare import is_settled, prepare_output
from pipeline.schema import INDEX, STATUSES
from pipeline.storage.files import Files

FILES = Files()
RUN, NEXT = "20260101T101500.123Z-3fa9c1", "20260102T101500.123Z-3fa9c1"
ITEMS = 6
GROUPS = 3
"""A damaged file is read by every third of many readers, which saves time."""

TEMPLATE, WORK = Path("template"), Path("work")


def make_job() -> Job:
    Path("fake.yaml").write_text(
        "about: for tests\nlicence: none\ncommercial: true\nsize_mb: 0\nsource: none\n"
        "recipe:\n  model: fake\n  frame_px: 64\n  refiner: guided\n  estimate: false\n"
    )
    Path("manifest.csv").write_text("item_id,image_uri\n" + "".join(f"i{at},photos/{at}.jpg\n" for at in range(ITEMS)))
    settings = ["drift.accepted=work/_matteline/reviews/accepted.json"]
    return load_job(manifest="manifest.csv", output=str(WORK), preset="fake.yaml", overrides=settings)


def make_output() -> Job:
    """Write an output of six items with all the files that runs and reviews leave behind, and return its job."""
    job = make_job()
    output = Output.at(str(WORK.absolute()), FILES)
    plan = make_plan(job, FILES)
    rows = []
    for at in range(ITEMS):
        mask = np.zeros((30, 40), np.uint8)
        mask[5:25, 5 : 20 + at] = 255
        row: dict[str, Any] = {"item_id": f"i{at}", "output_name": f"i{at}", "status": STATUSES[at % 3], "run_id": RUN}
        row |= {"image_uri": str(Path(f"photos/{at}.jpg").absolute()), "recipe": plan.settings["fingerprint"], "finished_at": 1}
        if row["status"] == "failed":
            rows.append(row | {"error_code": "fetch", "error_detail": "it does not exist"})
            continue
        row |= {"quality": at / 9, "quality_calibrated": at % 2 == 0, "reasons": ["stray"], "height": 30, "width": 40}
        row |= {"image_sha256": "0" * 64, "image_version": "1", "image_bytes": 9}
        for kind, data in (("mask", encode_mask(mask)), ("cutout", encode_cutout(np.full((30, 40, 3), 90, np.uint8), mask))):
            path = output_path(kind, f"i{at}")
            output.write(output.layout.uri(path), data)
            row |= {f"{kind}_path": path, f"{kind}_bytes": len(data), f"{kind}_sha256": sha256(data)}
        rows.append(row)
    carried = pa.array(["a;b"] * (ITEMS // 2))
    for part in (rows[: ITEMS // 2], rows[ITEMS // 2 :]):
        write_part(output, pa.Table.from_pylist(part, INDEX).append_column("tags", carried))
    write_settings(output, plan.settings)
    record = RunRecord(RUN, plan.manifest.uri, plan.settings["fingerprint"], "fake", ITEMS, 0)
    record.ok, record.review, record.failed = 2, 2, 2
    record.failures = {"fetch": {"count": 2, "item_id": "i2", "detail": "it does not exist"}}
    record.drift = {"drifted": True, "said": "the share of failed", "against": "accepted.json", "shifts": {}}
    with Lease(output, RUN) as lease:
        progress = Progress(record, output, owner=lease.owner, every_s=10)
        progress._write()
        note_overwrites(output, RUN, ["i0", "i1"], complete=True)
    record.close(0)
    record.write(output)
    draw_sample(output, {"at_most": 0.5, "confidence": 0.9, "allowed": 1}, 1, 4)
    import_reviews(REVIEWS, output)
    accept(output)
    shutil.move(WORK, TEMPLATE)
    return job


def sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


REVIEWS = (
    'item_id,verdict,note,recipe,time\ni0,accept,,,2026-01-31T12:00:00Z\ni1,reject,"a, b",,2026-01-31T13:00:00+01:00\n'
    "i3,accept,,,\ni4,accept,,,\n"
)


def fresh() -> Output:
    """Return a copy of the output that may be changed."""
    shutil.rmtree(WORK, ignore_errors=True)
    shutil.copytree(TEMPLATE, WORK)
    return Output.at(str(WORK.absolute()), FILES)


Step = Callable[[Output], object]


def follow(steps: Sequence[Step], output: Output) -> None:
    """Take every step, whether or not the others are refused.

    Raises:
        PipelineError: One was refused.
    """
    refused: PipelineError | None = None
    for step in steps:
        try:
            step(output)
        except PipelineError as error:
            refused = error
        except SystemExit:  # of a command that has findings
            pass
    if refused is not None:
        raise refused


def kind_of(
    place: str, steps: Sequence[Step], damages: Callable[[bytes], dict[str, Any]], tokens: tuple[bytes, ...] = ()
) -> Kind:
    """Return the kind of the files that match a pattern below the output: the first one is damaged."""
    make_output()
    path = sorted(TEMPLATE.glob(place))[0]
    original = path.read_bytes()
    target = WORK / path.relative_to(TEMPLATE)

    def read(name: str, data: bytes) -> None:
        output = fresh()
        target.write_bytes(data)
        groups = GROUPS if len(steps) > GROUPS and not name.startswith("valid") else 1
        follow(steps[zlib.crc32(data) % groups :: groups], output)

    return Kind({path.suffix: original}, read, damages(original), tokens)


def json_kind(place: str, *steps: Step) -> Callable[[], Kind]:
    def damages(original: bytes) -> dict[str, Any]:
        value = json.loads(original)
        return {"values": lambda rng, _: damage_json(rng, value)}

    return lambda: kind_of(place, steps, damages, (b"{", b"}", b"[", b'"', b"null", b"1e999", b"NaN", b"\\ud800", b":", b"-"))


def parquet_kind(place: str, *steps: Step) -> Callable[[], Kind]:
    def damages(original: bytes) -> dict[str, Any]:
        table = pq.read_table(io.BytesIO(original))

        def damaged(rng: random.Random, _: str) -> bytes:
            while True:
                sink = io.BytesIO()
                try:
                    pq.write_table(damage_table(rng, table), sink, write_page_checksum=True, store_schema=rng.random() < 0.5)
                except (pa.ArrowException, UnicodeError):  # Arrow cannot write every table
                    continue
                return sink.getvalue()

        return {"table": damaged}

    return lambda: kind_of(place, steps, damages)


@functools.cache
def the_job() -> Job:
    return make_job()


def shown(output: Output) -> None:
    show(output.folder)
    show(output.folder, as_json=True)


def topped(output: Output) -> None:
    top(output.folder, once=True)
    top(output.folder, as_json=True)


def verified(output: Output) -> None:
    verify(output.folder, sample=1.0)


def verified_json(output: Output) -> None:
    verify(output.folder, sample=0.5, as_json=True)


def ran(output: Output) -> None:
    """Do what a run does before and after its items."""
    plan = make_plan(the_job(), FILES)
    accepted = baseline(the_job().drift, output.folder, FILES)
    plan = without_done(plan, ["fetch"])
    is_settled(plan)
    with Lease(output, run_id_after(new_run_id(), output)):
        prepare_output(plan)
    if accepted is not None:
        json.dumps(drift(accepted, output, the_job().drift), allow_nan=False)
    tally(output, plan.ids)


def ran_with_changes(output: Output) -> None:
    """Look for changed images. There are none, so only a refusal of the output counts."""
    plan = make_plan(the_job().with_run(replace=True, changed=True), FILES)
    try:
        changed(plan.manifest, output, the_job())
    except StorageError as error:
        if "cannot be checked for changes" not in str(error):
            raise


def repaired(output: Output) -> None:
    repair(output, run_id_after(new_run_id(), output))
    if not repair(output, run_id_after("9", output)).sound:
        pass


def garbage(output: Output) -> None:
    collect_garbage(output, new_run_id(), delete=False)


def reviewed(output: Output) -> None:
    read_reviews(output)
    result = review_sample(output)
    if result is not None and not (result.message and 0 <= result.upper_bound <= 1):
        raise Wrong(f"the sample's result {result}")


def accepted_again(output: Output) -> None:
    accept(output)


def exported(output: Output) -> None:
    shutil.rmtree("forms", ignore_errors=True)
    forms = {name: str(Path("forms", name).absolute()) for name in ("indexed", "yolo", "imagefolder", "parquet")}
    export_dataset(output, Targets(coco=str(Path("coco.json").absolute()), **forms), Choices(class_ids=True))


def reported(output: Output) -> None:
    report_page(output, 50, Options(page=f"{output.folder}/report.html"))
    json.dumps(worst(output, 5))


def compared(output: Output) -> None:
    whole = Output.at(str(TEMPLATE.absolute()), FILES)
    compare(whole, output)
    compare(output, whole)


def done(output: Output) -> None:
    done_ids(output, "0" * 64, ["fetch"])
    for part in read_index(output):
        part.validate(full=True)


def review_csv_kind() -> Kind:
    """Return the kind of the CSV that the page of ``matteline report`` exports."""
    make_output()

    def read(name: str, data: bytes) -> None:
        from jobs.review import import_

        output = fresh()
        Path("reviews.csv").write_bytes(data)
        import_("reviews.csv", output.folder)
        for review in read_reviews(output).latest.values():
            if review["verdict"] not in ("accept", "reject") or review["time"] > datetime.max.replace(tzinfo=UTC):
                raise Wrong(f"the review {review}")

    times = (b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59-23:59", b"2026-02-30", b"1", b"T", b"2026-W01-1")
    tokens = (b",", b'"', b"\n", b"\r", b"\xef\xbb\xbf", b"\x00", b"i1", b"accept", b"'=", *times)
    return Kind({"csv": REVIEWS.encode()}, read, {}, tokens)


READERS = (done, shown, verified, verified_json, reported, compared, exported, accepted_again, reviewed, ran, ran_with_changes)

KINDS = {
    "index parts": parquet_kind("index/*.parquet", *READERS, garbage, repaired),
    "leases": json_kind("_matteline/lease/*.json", topped, ran, garbage),
    "run records": json_kind("_matteline/runs/*.json", shown, topped, ran, verified),
    "progress": json_kind("_matteline/progress/*.json", topped, ran),
    "settings": json_kind("_matteline/recipe.json", shown, ran, verified, garbage, ran_with_changes),
    "overwrite notes": json_kind("_matteline/overwrites/*.json", ran, repaired),
    "baselines": json_kind("_matteline/reviews/accepted.json", ran),
    "samples": json_kind("_matteline/reviews/sample.json", reviewed, accepted_again),
    "review parts": parquet_kind("_matteline/reviews/*.parquet", reviewed, accepted_again),
    "review CSVs": review_csv_kind,
}
