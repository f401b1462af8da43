"""Run jobs with a model that costs nothing, in a process and on real Ray: each item gives one row."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.job import load_job
from pipeline.errors import ConfigError, ErrorBudgetExceeded, ItemsMissing, LeaseHeld, Stopped
from pipeline.manifest.manifest import open_manifest
from pipeline.output.gc import collect_garbage
from pipeline.output.verify import verify
from pipeline.run import driver, local
from pipeline.run.driver import run_job
from pipeline.run.preflight import check_model, make_plan
from pipeline.run.signals import SignalHandler
from pipeline.schema import INDEX, TRAVELLING, carried_name
from pipeline.storage.files import Files

MakePhotos = Callable[..., list[Path]]


@pytest.fixture(params=["process", "ray"])
def where(request: pytest.FixtureRequest) -> str:
    """The setting that decides where the run works."""
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return f"compute.local_items={100 if request.param == 'process' else 0}"


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def read_index(folder: str) -> list[dict[str, Any]]:
    return ds.dataset(f"{folder}/index", format="parquet").to_table().to_pylist()


def check_objects(rows: list[dict[str, Any]], root: Path) -> None:
    """The invariant: objects of done rows exist and match, failed rows have none."""
    for row in rows:
        for output in ("mask", "cutout"):
            if row["status"] == "failed":
                assert row[f"{output}_path"] is None
                continue
            data = (root / row[f"{output}_path"]).read_bytes()
            assert len(data) == row[f"{output}_bytes"]
            assert hashlib.sha256(data).hexdigest() == row[f"{output}_sha256"]
            image = Image.open(io.BytesIO(data))
            assert image.size == (row["width"], row["height"])
            assert image.mode == ("L" if output == "mask" else "RGBA")


def maps_of_ray_workers() -> list[str]:
    """What each of Ray's worker processes that has worked on rows has mapped into its memory."""
    maps = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, OSError):
            if "".join(process.cmdline()[:1]).startswith("ray::"):
                maps.append(Path(f"/proc/{process.pid}/maps").read_text())
    return [one for one in maps if "libarrow" in one]


def test_every_item_ends_as_one_row(tmp_path: Path, make_photos: MakePhotos, fake_preset: str, where: str) -> None:
    photos = make_photos(tmp_path / "photos", 12)
    (tmp_path / "photos" / "broken.jpg").write_bytes(photos[0].read_bytes()[:700])
    (tmp_path / "photos" / "empty.jpg").write_bytes(b"")
    rows: list[dict[str, Any]] = [{"image_uri": f"photos/{path.name}", "title": path.stem.upper()} for path in photos]
    rows[0] |= {"x0": 20, "y0": 10, "x1": 100, "y1": 80}
    rows[1] |= {"x0": 100, "y0": 10, "x1": 20, "y1": 80}
    rows[2] |= {"x0": 5000, "y0": 10, "x1": 6000, "y1": 80}
    rows[3] |= {"x0": 20, "y0": 10}
    rows[4] |= {"x0": "nan", "y0": 10, "x1": 100, "y1": 80}
    rows += [{"image_uri": f"photos/{name}.jpg"} for name in ("broken", "empty", "missing")]
    rows += [{"image_uri": "photos/photo-011.jpg", "item_id": item} for item in ("../../etc/passwd", "ünï/cøde", "x" * 500)]
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    settings = ["budget.max_failed_share=1", where]
    job = load_job(manifest=manifest, output=str(tmp_path / "out"), preset=fake_preset, overrides=settings)

    plan, record = run_job(job)

    index = read_index(plan.output.folder)
    assert len(index) == len(rows) == 18
    assert len({row["item_id"] for row in index}) == 18
    check_objects(index, tmp_path / "out")
    codes = {row["image_uri"].rsplit("/", 1)[1]: row["error_code"] for row in index if row["error_code"]}
    assert codes == {
        "photo-001.jpg": "item",
        "photo-002.jpg": "item",
        "photo-003.jpg": "item",
        "photo-004.jpg": "item",
        "broken.jpg": "decode",
        "empty.jpg": "decode",
        "missing.jpg": "fetch",
    }
    assert all(row["error_detail"] for row in index if row["error_code"])
    assert (record.failed, record.ok + record.review) == (7, 11)
    assert record.failures["item"]["count"] == 4
    pixels = sum(row["height"] * row["width"] for row in index if row["status"] != "failed")
    assert record.actors == 1
    assert record.idle_share is not None and 0 < record.idle_share < 1  # the model that costs nothing waits mostly
    assert record.items_per_gpu_hour is None  # nothing ran on a GPU
    if record.store_mib_per_item is not None:  # on Ray
        # Pixels after decoding, pixels and mask after the model; the rows themselves are small.
        assert 7 * pixels <= record.store_mib_per_item * len(rows) * 2**20 <= 7 * pixels + 100_000 * len(rows)
    assert (record.store_mib_per_item is None) == (where == "compute.local_items=100")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert all(path.resolve().is_relative_to(tmp_path / "out") for path in written)
    assert len([path for path in written if path.suffix == ".png"]) == 22
    by_uri = {row["image_uri"].rsplit("/", 1)[1]: row for row in index if row["item_id"].startswith("photos/")}
    assert by_uri["photo-005.jpg"]["title"] == "PHOTO-005"
    assert by_uri["photo-005.jpg"]["image_sha256"] == hashlib.sha256(photos[5].read_bytes()).hexdigest()
    assert by_uri["photo-000.jpg"]["box"] == [20, 10, 100, 80]
    assert 0 <= by_uri["photo-005.jpg"]["quality"] <= 1
    assert by_uri["photo-005.jpg"]["signals"]["area_share"] > 0.01
    assert json.loads(Path(plan.output.layout.run(record.run_id)).read_text())["outcome"] == "complete"
    if record.store_mib_per_item is not None and sys.platform == "linux":
        maps = maps_of_ray_workers()
        assert maps and not any("libtorch" in one for one in maps), "they read, decode, write and commit without PyTorch"
    schema = pq.read_schema(next(Path(plan.output.layout.index).glob("*.parquet")))
    assert schema.names == [*INDEX.names, "title"]
    assert schema.field("quality").metadata[b"about"]


def test_a_rerun_finds_everything_done_and_a_grown_manifest_runs_only_what_is_new(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "photos", 5)
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset)
    plan, record = run_job(job)
    assert (record.items, record.done_before, record.ok + record.review) == (5, 0, 5)
    first = {row["item_id"]: row["finished_at"] for row in read_index(plan.output.folder)}

    with monkeypatch.context() as patched:
        patched.setattr(local, "segment_items", lambda *_: pytest.fail("a rerun needs no worker"))
        plan, record = run_job(job)
    assert (plan.todo, record.done_before) == (0, 5)

    make_photos(tmp_path / "photos", 3, first=5)
    plan, record = run_job(job)
    assert (record.done_before, record.ok + record.review) == (5, 3)
    index = read_index(plan.output.folder)
    assert len(index) == 8
    assert {row["item_id"]: row["finished_at"] for row in index if row["item_id"] in first} == first


def test_masks_do_not_depend_on_batches(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    """Images of different sizes in one batch give what each gives alone."""
    make_photos(tmp_path / "photos", 7)
    hashes = []
    for batch in (1, 5):
        settings = [f"compute.batch_size={batch}", "compute.rows_per_block=7"]
        job = load_job(
            manifest=str(tmp_path / "photos"), output=str(tmp_path / f"out{batch}"), preset=fake_preset, overrides=settings
        )
        plan, _ = run_job(job)
        hashes.append({row["item_id"]: row["mask_sha256"] for row in read_index(plan.output.folder)})
    assert hashes[0] == hashes[1]


def test_too_many_failures_stop_the_run_with_a_valid_index(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str, where: str
) -> None:
    make_photos(tmp_path / "photos", 4)
    rows = [{"image_uri": f"photos/photo-{number:03}.jpg"} for number in range(40)]
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    settings = ["budget.judged_after=8", "budget.allowed_failed=0", "compute.rows_per_block=4", where]
    job = load_job(manifest=manifest, output=str(tmp_path / "out"), preset=fake_preset, overrides=settings)
    with pytest.raises(ErrorBudgetExceeded, match="items failed"):
        run_job(job)
    check_objects(read_index(str(tmp_path / "out")), tmp_path / "out")
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "out").rglob("runs/*.json"))
    assert record["exit_code"] == 3
    assert record["failed"] >= 1


def test_an_output_inside_the_images_is_refused(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 1)
    for output in (tmp_path / "photos", tmp_path / "photos" / "out"):
        job = load_job(manifest=str(tmp_path / "photos"), output=str(output), preset=fake_preset)
        with pytest.raises(ConfigError, match="is inside the manifest's folder"):
            make_plan(job, Files(job.storage))


@pytest.mark.parametrize(("manifest", "output"), [("photos", "link/out"), ("link", "photos/out"), ("link", "link/deeper/out")])
def test_an_output_inside_the_images_is_found_through_links(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str, manifest: str, output: str
) -> None:
    make_photos(tmp_path / "photos", 1)
    (tmp_path / "link").symlink_to("photos")
    job = load_job(manifest=str(tmp_path / manifest), output=str(tmp_path / output), preset=fake_preset)
    with pytest.raises(ConfigError, match="is inside the manifest's folder"):
        make_plan(job, Files(job.storage))


def test_an_engine_for_another_kind_of_weights_is_refused_before_the_run(tmp_path: Path, make_photos: MakePhotos) -> None:
    make_photos(tmp_path / "photos", 1)
    settings = ["compute.engine=torch"]
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset="u2netp", overrides=settings)
    with pytest.raises(ConfigError, match="compute.engine=torch can't run weights of this kind; use auto, onnxruntime or"):
        check_model(make_plan(job, Files(job.storage)))


def test_signatures_of_web_addresses_stay_out_of_the_index(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 1)
    rows = [{"image_uri": "photos/photo-000.jpg"}, {"image_uri": "http://127.0.0.1:9/a.jpg?X-Amz-Signature=s3cr3t"}]
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    job = load_job(manifest=manifest, output=str(tmp_path / "out"), preset=fake_preset, overrides=["budget.max_failed_share=1"])
    plan, record = run_job(job)
    assert record.failures["item"]["count"] == 1, "web addresses are off unless asked for"
    index = read_index(plan.output.folder)
    assert len(index) == 2
    assert "s3cr3t" not in str(index) + Path(plan.output.layout.run(record.run_id)).read_text()


@pytest.mark.parametrize("name", [*TRAVELLING, "status", "quality"])
def test_a_manifest_may_use_our_column_names(tmp_path: Path, make_photos: MakePhotos, fake_preset: str, name: str) -> None:
    assert carried_name(name) == f"manifest_{name}"
    if name not in {"mask", "fetch_s"}:  # two of them on the whole way
        return
    make_photos(tmp_path / "photos", 2)
    rows = [{"image_uri": f"photos/photo-00{number}.jpg", name: f"{number}.5"} for number in range(2)]
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    plan, _ = run_job(load_job(manifest=manifest, output=str(tmp_path / "out"), preset=fake_preset))
    assert {row[f"manifest_{name}"] for row in read_index(plan.output.folder)} == {"0.5", "1.5"}


def test_items_without_a_row_are_no_success(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "photos", 3)
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset)
    with monkeypatch.context() as patched:
        patched.setattr(local, "segment_items", lambda *_: iter(()))
        with pytest.raises(ItemsMissing, match="3 of 3 items have no row"):
            run_job(job)
    plan, record = run_job(job)
    assert record.outcome == "complete"

    (part, *_) = sorted(Path(plan.output.layout.index).glob("*.parquet"))
    rows = pq.read_table(part)
    copy = part.with_name("part-0000000000000000.parquet")
    pq.write_table(pa.concat_tables([rows]), copy)
    assert len(read_index(plan.output.folder)) == 3 + rows.num_rows
    run_job(job)
    assert len(read_index(plan.output.folder)) == 3, "a rerun gives every item one row again"


def test_a_handful_of_failures_ends_no_run_and_more_do(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 3)
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset)
    run_job(job)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    assert run_job(job)[1].exit_code == 0, "1 of 1 new items failed"
    assert run_job(job)[1].exit_code == 0, "nothing is new"
    for number in range(11):
        (tmp_path / "photos" / f"broken-{number}.jpg").write_bytes(b"no picture")
    with pytest.raises(ErrorBudgetExceeded, match="11 of 11 items failed"):
        run_job(job)


def test_a_run_without_any_result_is_no_success(tmp_path: Path, fake_preset: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset)
    for _ in range(2):
        with pytest.raises(ErrorBudgetExceeded, match="all 1 items failed"):
            run_job(job)


def test_a_part_that_is_committed_after_a_signal_does_not_change_the_record(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal's thread has released the lease and writes the record; the main thread waits until the process ends."""
    make_photos(tmp_path / "photos", 2)
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset)
    signals, committed, over = SignalHandler(lambda _: None), threading.Event(), threading.Event()

    def interrupted(plan: Any, record: Any, lease: Any, reporter: Any) -> None:
        assert signals._cleanup is not None
        signals._leaving.set()
        signals._cleanup("stopped by SIGTERM")
        committed.set()
        lease.check()

    def go() -> None:
        with suppress(LeaseHeld):
            run_job(job, signals=signals)

    monkeypatch.setattr(driver, "run_passes", interrupted)
    monkeypatch.setattr(signals, "wait_if_leaving", lambda: over.wait(100) if signals._leaving.is_set() else None)
    main = threading.Thread(target=go)
    main.start()
    assert committed.wait(100)
    main.join(0.5)
    (path,) = (tmp_path / "out" / "_matteline" / "runs").iterdir()
    record, is_waiting = json.loads(path.read_text()), main.is_alive()
    over.set()
    main.join()
    assert is_waiting and (record["exit_code"], record["error"]) == (4, "stopped by SIGTERM")


def test_after_the_deadline_nothing_is_taken_up_and_the_next_run_goes_on(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str
) -> None:
    make_photos(tmp_path / "photos", 6)
    where = {"manifest": str(tmp_path / "photos"), "output": str(tmp_path / "out"), "preset": fake_preset}
    with pytest.raises(Stopped, match="the deadline passed with 6 items left; run the same command again"):
        run_job(load_job(**where, overrides=["budget.deadline_s=0.01"]))
    (path,) = (tmp_path / "out").rglob("runs/*.json")
    record = json.loads(path.read_text())
    assert (record["outcome"], record["exit_code"], record["ok"]) == ("stopped", 4, 0)
    plan, record = run_job(load_job(**where, overrides=["budget.deadline_s=600"]))
    assert (record.outcome, record.ok + record.review) == ("complete", 6)
    assert len(read_index(plan.output.folder)) == 6


def test_rows_that_got_lost_are_done_in_the_same_run(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "photos", 8)
    settings = ["compute.rows_per_part=2", "compute.rows_per_block=2"]
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset, overrides=settings)
    passes, segment_items = [], local.segment_items

    def lossy(plan: Any, *rest: Any) -> Iterator[dict[str, Any]]:
        yield from segment_items(plan, *rest)
        passes.append(plan.todo)
        if len(passes) == 1:
            next(Path(plan.output.layout.index).glob("*.parquet")).unlink()

    monkeypatch.setattr(local, "segment_items", lossy)
    plan, record = run_job(job)
    assert passes == [8, 2]
    assert len(read_index(plan.output.folder)) == 8
    assert record.outcome == "complete"


@pytest.mark.parametrize("losses", [1, 9])
@pytest.mark.parametrize("option", ["changed", "retry"])
def test_rows_of_redone_items_that_got_lost_are_missed(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str, monkeypatch: pytest.MonkeyPatch, option: str, losses: int
) -> None:
    """Each item still has its former row, which must not pass for the new one."""
    photos, other = make_photos(tmp_path / "photos", 6), make_photos(tmp_path / "other", 6, first=6)
    for photo in photos[:4]:
        photo.write_bytes(b"no picture" if option == "retry" else photo.read_bytes())
    settings = ["compute.rows_per_part=2", "compute.rows_per_block=2"]
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset, overrides=settings)
    first = run_job(job)[1]
    for photo, content in zip(photos[:4], other, strict=False):
        photo.write_bytes(content.read_bytes())
    passes, segment_items = [], local.segment_items

    def lossy(plan: Any, *rest: Any) -> Iterator[dict[str, Any]]:
        before = set(Path(plan.output.layout.index).glob("*.parquet"))
        yield from segment_items(plan, *rest)
        passes.append(plan.todo)
        if len(passes) <= losses:
            min(set(Path(plan.output.layout.index).glob("*.parquet")) - before).unlink()

    monkeypatch.setattr(local, "segment_items", lossy)
    again = job.with_run(changed=True) if option == "changed" else job.with_run(retry=("decode",))
    if losses > 1:
        with pytest.raises(ItemsMissing, match="2 of 6 items have no row"):
            run_job(again)
        return
    assert run_job(again)[1].outcome == "complete"
    assert passes == [4, 2]
    rows = {row["item_id"]: row for row in read_index(str(tmp_path / "out"))}
    for photo in photos:
        assert rows[photo.name]["image_sha256"] == hashlib.sha256(photo.read_bytes()).hexdigest()
        assert (rows[photo.name]["run_id"] != first.run_id) == (photo in photos[:4])


def test_renditions_are_made_found_whole_and_swept(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    """Two renditions, one of two sizes and on a picture, from the command line's form to verify and gc."""
    make_photos(tmp_path / "photos", 5)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    Image.new("RGB", (50, 40), (10, 120, 240)).save(tmp_path / "beach.png")
    own = f"{{name: shop, size_px: [40, 80], fill: 0.8, aspect: '1:1', background: {tmp_path}/beach.png, format: jpeg}}"
    job = load_job(
        manifest=str(tmp_path / "photos"),
        output=str(tmp_path / "out"),
        preset=fake_preset,
        overrides=["budget.max_failed_share=1", f"recipe.renditions=[{own}]"],
        renditions=["transparent"],
    )
    plan, record = run_job(job)
    assert (record.failed, record.ok + record.review) == (1, 5)
    output, files = plan.output, Files()
    layout = output.layout
    for row in read_index(layout.folder):
        names = None if row["renditions"] is None else [one["name"] for one in row["renditions"]]
        assert names == (None if row["status"] == "failed" else ["shop-40", "shop-80", "transparent"])
        for one in row["renditions"] or ():
            picture = Image.open(tmp_path / "out" / one["path"])
            assert picture.size == (one["width"], one["height"])
            assert one["name"] == "transparent" or (picture.format == "JPEG" and picture.width == int(one["name"][5:]))
    assert list(json.loads(Path(layout.recipe).read_text())["renditions"]) == ["shop", "transparent"]
    manifest = open_manifest(job.manifest, files)
    report = verify(output, manifest)
    assert report.sound and report.objects == 5 * (2 + 3), report
    assert run_job(job)[0].todo == 0

    (first, second, third) = sorted(Path(layout.folder).rglob("*.jpg"))[:3]
    kept = {path: path.read_bytes() for path in (first, second)}
    first.unlink()
    second.write_bytes(kept[second][:-200])
    third.with_name("stray.jpg").write_bytes(b"of a task that died")
    assert verify(output, manifest).counts == {"absent": 1, "changed": 1, "undecodable": 1, "orphan": 1}
    assert verify(output, manifest, sample=0).counts == {"absent": 1, "orphan": 1}
    assert collect_garbage(output, "gc", delete=True, min_age_s=0).files["object"] == 1
    for path, data in kept.items():
        path.write_bytes(data)
    assert verify(output, manifest).sound

    old = {row["item_id"]: row["renditions"] for row in read_index(layout.folder)}
    Image.new("RGB", (50, 40), (10, 121, 240)).save(tmp_path / "beach.png")
    assert run_job(job)[1].derived == 5, "another picture is another rendition"
    for row in read_index(layout.folder):
        for before, after in zip(old[row["item_id"]] or (), row["renditions"] or (), strict=True):
            assert (before == after) == (before["name"] == "transparent")
    assert verify(output, manifest).sound


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "gone.png"), (b"no picture", "not a supported image"), (b"\x89PNG\r\n\x1a\n", "cut off")],
    ids=["missing", "no picture", "cut off"],
)
def test_a_background_that_cannot_be_used_is_refused_before_the_run(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str, content: bytes | None, message: str
) -> None:
    make_photos(tmp_path / "photos", 1)
    if content is not None:
        (tmp_path / "gone.png").write_bytes(content)
    overrides = [f"recipe.renditions=[{{name: shop, background: {tmp_path}/gone.png}}]"]
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset, overrides=overrides)
    with pytest.raises(ConfigError, match=f"the background of rendition shop cannot be used: .*{message}"):
        make_plan(job, Files())
    pinned = [f"recipe.renditions=[{{name: shop, background: {tmp_path}/b.png, background_sha256: {'f' * 64}}}]"]
    Image.new("RGB", (5, 4)).save(tmp_path / "b.png")
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset, overrides=pinned)
    with pytest.raises(ConfigError, match="correct the hash or the file"):
        make_plan(job, Files())


def test_an_output_made_before_there_were_renditions_is_read_beside_new_parts(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str
) -> None:
    make_photos(tmp_path / "photos", 4)
    where = {"manifest": str(tmp_path / "photos"), "output": str(tmp_path / "out"), "preset": fake_preset}
    job = load_job(**where, overrides=["compute.rows_per_part=1"])
    plan, _ = run_job(job)
    assert len(list(Path(plan.output.layout.index).glob("*.parquet"))) == 1, "small runs leave one part"
    for part in Path(plan.output.layout.index).glob("*.parquet"):
        pq.write_table(pq.read_table(part).drop_columns(["renditions"]), part)
    make_photos(tmp_path / "photos", 3, first=4)
    again, record = run_job(job)
    assert (again.output.layout, record.done_before, record.ok + record.review) == (plan.output.layout, 4, 3)
    files = Files()
    assert verify(plan.output, open_manifest(job.manifest, files)).sound
    assert sum(collect_garbage(plan.output, "gc", delete=False, min_age_s=0).files.values()) == 0
    assert len(read_index(plan.output.folder)) == 7
    (united,) = Path(plan.output.layout.index).glob("*.parquet")
    assert "renditions" in pq.read_schema(united).names
