"""Videos in runs: what is written and recorded, what fails, and what a crash leaves."""

from __future__ import annotations

import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.job import load_job
from pipeline.errors import ConfigError
from pipeline.models.failures import BrokenDevice
from pipeline.output.counters import RunCounters
from pipeline.output.output import Output
from pipeline.output.run_record import RunRecord
from pipeline.output.verify import verify
from pipeline.run.crash_ledger import InMemoryLedger
from pipeline.run.driver import run_job
from pipeline.run.preflight import make_plan, without_done
from pipeline.run.prepare import tidy_index
from pipeline.run.stages import videos
from pipeline.run.stages.segment import SegmentBatch
from pipeline.run.stages.stretches import STRETCH, FindMasks, divide_videos
from pipeline.run.stages.videos import commit_videos, cut_videos, is_sign_of_life
from pipeline.schema import ITEM, SEGMENTS, index_schema
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files
from pipeline.video.segments import SEGMENT_FRAMES
from pipeline.video.stretches import SEGMENTS as SEGMENTS_PER_STRETCH
from pipeline.video.valid import video_error

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "video"))
from clips import frames, variable_times, write_clip

Go = Callable[..., RunRecord]
SIZE = (48, 64)


@pytest.fixture
def go(tmp_path: Path, fake_preset: str) -> Go:
    """``go(*settings, manifest="clips", output="out")`` runs videos."""

    def run(*settings: str, manifest: str = "clips", output: str = "out", **options: Any) -> RunRecord:
        where = {"manifest": str(tmp_path / manifest), "output": str(tmp_path / output), "preset": fake_preset}
        job = load_job(**where, overrides=["budget.max_failed_share=1", *settings])
        return run_job(job.with_run(**options))[1]

    return run


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder for videos."""
    folder = tmp_path / "clips"
    folder.mkdir()
    return folder


def rows_of(output: Path) -> dict[str, dict[str, Any]]:
    """The rows of an index by item. Every item has one."""
    rows = ds.dataset(output / "index", format="parquet").to_table().to_pylist()
    assert len(rows) == len({row["item_id"] for row in rows})
    return {row["item_id"]: row for row in rows}


def is_sound(output: Path) -> bool:
    """Whether ``verify`` finds nothing, with all videos read back."""
    report = verify(Output.at(str(output), Files()), read_video=video_error)
    assert report.sound, report.examples
    return report.sound


def files_of(output: Path) -> list[str]:
    """The files with results. A killed process leaves hidden ones."""
    found = (path for name in ("cutouts", "masks") for path in (output / name).rglob("*") if not path.name.startswith("."))
    return sorted(str(path.relative_to(output)) for path in found)


def counted(path: Path) -> tuple[int, int]:
    """Frames and sound tracks of a video."""
    with av.open(str(path)) as made:
        return sum(1 for _ in made.decode(video=0)), len(made.streams.audio)


def test_videos_and_pictures_of_a_folder_are_items(
    go: Go, clips: Path, tmp_path: Path, make_photos: Callable[..., Any]
) -> None:
    make_photos(clips, 2)
    write_clip(clips / "shelf.mp4", frames(12, *SIZE), times_ms=variable_times(12), rotation=90, sound=["aac"])
    (clips / "more").mkdir()
    write_clip(clips / "more" / "b.MKV", frames(5, *SIZE), container="matroska")
    record = go()
    assert (record.items, record.ok + record.review, record.failed, record.frames) == (4, 4, 0, 17)
    out = tmp_path / "out"
    rows = rows_of(out)
    assert set(rows) == {"photo-000.jpg", "photo-001.jpg", "shelf.mp4", "more/b.MKV"}
    assert rows["photo-000.jpg"]["video_facts"] is None and rows["photo-000.jpg"]["cutout_path"]
    row = rows["shelf.mp4"]
    facts = row["video_facts"]
    assert (facts["frames"], facts["codec"], facts["sound"], facts["notes"]) == (12, "h264", ["aac"], [])
    assert facts["seconds"] == pytest.approx((variable_times(12)[-1] + 40) / 1000, abs=0.05)
    assert (row["height"], row["width"]) == (64, 48), "upright"
    assert 0 <= facts["flicker"] < 0.1 and facts["worst"][0]["quality"] <= row["quality"] <= 1
    assert row["image_bytes"] == (clips / "shelf.mp4").stat().st_size and row["image_version"] and row["seconds"]["segment"] > 0
    (file,) = facts["files"]
    assert (file["name"], file["path"], file["codec"]) == ("webm", "cutouts/shelf.webm", "libvpx-vp9")
    assert counted(out / "cutouts" / "shelf.webm") == (12, 1)
    assert counted(out / "cutouts" / "more" / "b.webm") == (5, 0)
    assert is_sound(out)
    assert go().done_before == 4, "and then nothing is left to do"


def test_a_table_says_which_videos_and_which_part_and_object(go: Go, clips: Path, tmp_path: Path) -> None:
    clip = write_clip(clips / "clip.mp4", frames(20, *SIZE), sound=["aac"])
    shutil.copy(clip, clips / "no suffix")
    rows = [
        {"item_id": "all", "video_uri": "clips/clip.mp4", "start_s": None, "end_s": None, "box": None},
        {"item_id": "part", "video_uri": "clips/no suffix", "start_s": 0.2, "end_s": 0.6, "box": [5.0, 5.0, 60.0, 45.0]},
        {"item_id": "none", "video_uri": "clips/clip.mp4", "start_s": 9.0, "end_s": None, "box": None},
        {"item_id": "inverted", "video_uri": "clips/clip.mp4", "start_s": 0.4, "end_s": 0.4, "box": None},
        {"item_id": "outside", "video_uri": "clips/clip.mp4", "start_s": None, "end_s": None, "box": [70.0, 5.0, 90.0, 9.0]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    go(manifest="m.parquet")
    found = rows_of(tmp_path / "out")
    assert {name: row["error_code"] for name, row in found.items() if row["error_code"]} == {
        **{"none": "decode", "inverted": "item", "outside": "item"}
    }
    assert "no frame is between start_s=9 and end_s=inf; the last one before is at 0.76 s" in found["none"]["error_detail"]
    assert "end_s is 0.4 and start_s is 0.4; end_s must be above start_s" in found["inverted"]["error_detail"]
    assert found["all"]["video_facts"]["frames"] == 20
    part = found["part"]
    assert (part["video_facts"]["frames"], part["video_facts"]["seconds"]) == (10, pytest.approx(0.4))
    assert part["box"] == [5.0, 5.0, 60.0, 45.0] and part["start_s"] == 0.2
    with av.open(str(tmp_path / "out/cutouts/part.webm")) as made:
        assert [round(float(one.pts * one.time_base), 3) for one in made.decode(video=0)] == [n * 0.04 for n in range(10)]
    assert is_sound(tmp_path / "out")


def test_a_video_has_the_files_that_are_asked_for(go: Go, clips: Path, tmp_path: Path) -> None:
    write_clip(clips / "odd.mp4", frames(4, 49, 65), sound=["aac"])
    go("recipe.videos=webm,mov,mp4,png,mask", "recipe.video_background=#00ff00")
    out = tmp_path / "out"
    assert files_of(out) == [*(f"cutouts/odd.{suffix}" for suffix in ("mov", "mp4", "webm", "zip")), "masks/odd.mp4"]
    facts = rows_of(out)["odd.mp4"]["video_facts"]
    sizes = {one["path"]: (one["height"], one["width"]) for one in facts["files"]}
    assert sizes["cutouts/odd.mov"] == sizes["cutouts/odd.webm"] == (49, 65) and sizes["masks/odd.mp4"] == (50, 66)
    assert sorted(facts["notes"]) == [
        "66 x 50: a pixel is added, because H.264 needs even sides",
        "an archive of pictures has no sound",
    ]
    with zipfile.ZipFile(out / "cutouts" / "odd.zip") as archive:
        assert archive.namelist() == [*(f"00000{number}.png" for number in range(4)), "timestamps.txt"]
        assert archive.read("timestamps.txt").split()[4:] == [b"0.000", b"40.000", b"80.000", b"120.000"]
        assert Image.open(archive.open("000000.png")).size == (65, 49)
    assert is_sound(out)
    with av.open(str(out / "cutouts" / "odd.mp4")) as made:
        first = next(made.decode(video=0)).to_ndarray(format="rgb24")
    assert first[2, 60, 1] > 200 and first[2, 60, 0] < 60, "green behind the object"
    with pytest.raises(ConfigError, match=r"recipe.videos \[\"mask\", .*, now null"):
        go()


def test_a_picture_behind_videos_is_read_before_the_run_and_pinned(go: Go, clips: Path, tmp_path: Path) -> None:
    write_clip(clips / "clip.mp4", frames(3, *SIZE))
    sea = tmp_path / "sea.png"
    setting = f"recipe.video_background={sea}"
    with pytest.raises(ConfigError, match=r"recipe.video_background cannot be used: .*sea.png: it does not exist"):
        go("recipe.videos=mp4", setting)
    Image.new("RGB", (30, 50), (20, 60, 220)).save(sea)
    assert go("recipe.videos=mp4", setting).failed == 0
    with av.open(str(tmp_path / "out/cutouts/clip.mp4")) as made:
        first = next(made.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(first[:8].astype(int) - (20, 60, 220)).mean() < 8
    moved = sea.rename(tmp_path / "moved.png")
    assert go("recipe.videos=mp4", f"recipe.video_background={moved}").done_before == 1, "the hash counts"
    Image.new("RGB", (30, 50), (220, 60, 20)).save(sea)
    with pytest.raises(ConfigError, match=r"recipe.video_background_sha256 \"[0-9a-f]+…\", now \"[0-9a-f]+…\""):
        go("recipe.videos=mp4", setting)


def test_bad_videos_are_one_failed_row_each(go: Go, clips: Path, tmp_path: Path) -> None:
    good = write_clip(clips / "good.mp4", frames(4, *SIZE))
    (clips / "cut off.mp4").write_bytes(good.read_bytes()[:700])
    (clips / "text.webm").write_text("no video")
    (clips / "picture.mov").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    (clips / "empty.mkv").touch()
    write_clip(clips / "long.mp4", frames(12, *SIZE))
    record = go("limits.max_frames=8")
    assert (record.ok + record.review, record.failed) == (1, 5)
    details = {name: (row["error_code"], row["error_detail"]) for name, row in rows_of(tmp_path / "out").items()}
    assert details.pop("good.mp4") == (None, None)
    assert {code for code, _ in details.values()} == {"decode"}
    for name, said in {
        "cut off.mp4": "this file is damaged or cut off: its index is missing",
        "text.webm": "not a video",
        "picture.mov": "this is a picture (JPEG), not a video",
        "empty.mkv": "give an MP4",
        "long.mp4": "more than 8 frames (limits.max_frames)",
    }.items():
        assert said in details[name][1]
    assert files_of(tmp_path / "out") == ["cutouts/good.webm"]
    assert is_sound(tmp_path / "out")


def test_a_name_that_is_not_in_a_video_fails_it(go: Go, clips: Path, tmp_path: Path) -> None:
    write_clip(clips / "clip.mp4", frames(20, *SIZE))
    rows = [{"item_id": name, "video_uri": "clips/clip.mp4", "label": name} for name in ("giraffe", "auto")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    go("recipe.detector=nanodet", "recipe.detector.threshold=0.99", manifest="m.parquet")
    found = rows_of(tmp_path / "out")
    assert (found["auto"]["error_code"], found["giraffe"]["error_code"]) == (None, "prompt")
    assert found["giraffe"]["error_detail"].startswith("in the first 5 s of the video: no 'giraffe' was found")


def test_a_killed_worker_loses_nothing(go: Go, clips: Path, tmp_path: Path) -> None:
    for name in "abc":
        write_clip(clips / f"{name}.mp4", frames(30, *SIZE), sound=["aac"])
    me, killed = psutil.Process(), list[int]()

    def kill() -> None:
        until = time.monotonic() + 60
        while not killed and time.monotonic() < until:
            begun = [path for path in (tmp_path / "out" / "cutouts").glob(".b.webm*.tmp") if path.exists()]
            for child in me.children() if begun else ():
                if "pipeline.run.worker" in child.cmdline():
                    child.kill()
                    killed.append(child.pid)
            time.sleep(0.005)

    killer = threading.Thread(target=kill)
    killer.start()
    record = go()
    killer.join()
    assert killed, "the worker was killed while it wrote the second video"
    assert record.ok + record.review == 3
    assert {row["video_facts"]["frames"] for row in rows_of(tmp_path / "out").values()} == {30}
    assert [counted(tmp_path / "out" / "cutouts" / f"{name}.webm") for name in "abc"] == [(30, 1)] * 3
    assert is_sound(tmp_path / "out")


def test_a_crash_in_a_long_video_costs_a_segment(go: Go, clips: Path, tmp_path: Path, faults: Callable[..., Path]) -> None:
    trace = faults()
    write_clip(clips / "long.mp4", frames(3 * SEGMENT_FRAMES - 20, 24, 32), sound=["aac"])
    kept, out = tmp_path / "out" / "_matteline" / "masks", tmp_path / "out"
    me, killed = psutil.Process(), list[int]()

    def kill() -> None:
        until = time.monotonic() + 120
        while not killed and time.monotonic() < until:
            for child in me.children() if list(kept.glob("*/*-000001.parquet")) else ():
                if "pipeline.run.worker" in child.cmdline():
                    child.kill()
                    killed.append(len(trace.read_text().splitlines()))
            time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    record = go()
    killer.join()
    assert killed and record.ok + record.review == 1
    frames_seen = len(trace.read_text().splitlines())
    assert frames_seen <= killed[0] + SEGMENT_FRAMES + 20, "two segments were not segmented again"
    (row,) = rows_of(out).values()
    assert row["video_facts"]["frames"] == 3 * SEGMENT_FRAMES - 20
    assert counted(out / "cutouts" / "long.webm") == (3 * SEGMENT_FRAMES - 20, 1)
    assert not list(kept.glob("*/*")), "what was kept is deleted"
    table = ds.dataset(out / "segments", format="parquet").to_table()
    assert table.schema.equals(SEGMENTS)
    found = table.to_pylist()
    assert [(one["number"], one["frames"], one["start_s"]) for one in found] == [(0, 250, 0.0), (1, 250, 10.0), (2, 230, 20.0)]
    assert all(one["start_s"] <= one["worst_at_s"] < one["start_s"] + 10 for one in found)
    assert min(one["quality"] for one in found) <= row["quality"] <= max(one["quality"] for one in found)
    assert is_sound(out)


def test_masks_that_an_interruption_left_are_deleted(go: Go, clips: Path, tmp_path: Path) -> None:
    write_clip(clips / "a.mp4", frames(4, *SIZE))
    go()
    layout = Output.at(str(tmp_path / "out"), Files()).layout
    for item_id in ("a.mp4", "b.mp4"):
        Path(layout.kept_masks(item_id)).mkdir(parents=True)
        Path(layout.kept_masks(item_id), "x-000000.parquet").touch()
    write_clip(clips / "c.mp4", frames(4, *SIZE))
    go()
    assert [path.parent for path in Path(layout.all_kept_masks).glob("*/*")] == [Path(layout.kept_masks("b.mp4"))], "not done"


def test_masks_of_a_video_that_is_being_replaced_stay(tmp_path: Path, fake_preset: str, clips: Path) -> None:
    write_clip(clips / "a.mp4", frames(4, *SIZE))
    output = Output.at(str(tmp_path / "out"), Files())
    job = load_job(manifest=str(clips), output=output.folder, preset=fake_preset)
    run_job(job)
    kept = Path(output.layout.kept_masks("a.mp4"))
    kept.mkdir(parents=True)
    other = load_job(manifest=str(clips), output=output.folder, preset=fake_preset, overrides=["recipe.steady=false"])
    for asked, left in ((other.with_run(replace=True), True), (job, False)):
        (kept / "x-000000.parquet").touch()
        plan = without_done(make_plan(asked, Files()))
        assert plan.todo == left
        tidy_index(output, plan.done)
        assert list(kept.glob("*")) == [kept / "x-000000.parquet"] * left, (
            "the row of an interrupted replacement is the old one"
        )


def test_a_video_that_kills_its_process_fails_alone(go: Go, clips: Path, tmp_path: Path, faults: Callable[..., Path]) -> None:
    faults(marked="exit", where="segment")
    for name in "ac":
        write_clip(clips / f"{name}.mp4", frames(6, *SIZE))
    marked = [np.full((*SIZE, 3), (255, 0, 255), np.uint8)]
    options = {"encoder": "ffv1", "container": "matroska", "pixel_format": "bgr0"}
    write_clip(clips / "b.mkv", frames(4, *SIZE) + marked, **options)
    record = go()
    assert (record.ok + record.review, record.failed) == (2, 1)
    row = rows_of(tmp_path / "out")["b.mkv"]
    assert row["error_code"] == "crash" and "3 processes crashed on it" in row["error_detail"]
    assert files_of(tmp_path / "out") == ["cutouts/a.webm", "cutouts/c.webm"] and is_sound(tmp_path / "out")


def test_a_file_that_an_interrupted_run_left_is_replaced(go: Go, clips: Path, tmp_path: Path) -> None:
    write_clip(clips / "a.mp4", frames(4, *SIZE))
    write_clip(clips / "b.mp4", frames(4, *SIZE))
    go()
    out = tmp_path / "out"
    for part in (out / "index").iterdir():  # the rows of both are lost, and one file is another version
        part.unlink()
    (out / "cutouts" / "a.webm").write_bytes(b"another version")
    assert go().done_before == 0
    assert counted(out / "cutouts" / "a.webm") == (4, 0)
    assert is_sound(out) and not list((out / "_matteline" / "overwrites").glob("*"))


def test_videos_without_pyav_are_left_out_of_folders_and_refused_in_tables(
    go: Go, clips: Path, tmp_path: Path, make_photos: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(clips, 1)
    write_clip(clips / "a.mp4", frames(4, *SIZE))
    monkeypatch.setattr("pipeline.manifest.videos.find_spec", lambda _: None)
    monkeypatch.setattr("pipeline.video.extra.find_spec", lambda _: None)
    assert go().items == 1
    (tmp_path / "m.csv").write_text("image_uri\nclips/a.mp4\nclips/photo-000.jpg\n")
    with pytest.raises(ConfigError, match="videos need PyAV, which is not installed"):
        go(manifest="m.csv", output="second")


def test_a_second_model_is_refused(go: Go, clips: Path, fake_preset: str) -> None:
    write_clip(clips / "a.mp4", frames(4, *SIZE))
    with pytest.raises(ConfigError, match=r"recipe\.second is for pictures"):
        go(f"recipe.second={fake_preset}")


def test_verify_reads_videos_back(go: Go, clips: Path, tmp_path: Path) -> None:
    write_clip(clips / "a.mp4", frames(6, *SIZE))
    write_clip(clips / "b.mp4", frames(5, *SIZE))
    go()
    out = tmp_path / "out"
    shutil.copy(out / "cutouts" / "b.webm", out / "cutouts" / "a.webm")
    shutil.copy(out / "cutouts" / "b.webm", out / "cutouts" / "c.webm")
    report = verify(Output.at(str(out), Files()), read_video=video_error)
    assert report.counts == {"orphan": 1, "changed": 1, "undecodable": 1}
    assert report.examples["undecodable"] == ["a.mp4: cutouts/a.webm: it has 5 frames, but its index row says 6"]
    (out / "cutouts" / "a.webm").write_bytes(b"\x1aE\xdf\xa3")
    assert "can't be read" in verify(Output.at(str(out), Files()), read_video=video_error).examples["undecodable"][0]


def test_a_long_video_gives_signs_of_life(
    stage_context: Any, tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = stage_context(ledger=InMemoryLedger(), allowlist=AllowList((str(clips),)))
    path = write_clip(clips / "a.mp4", frames(6, *SIZE))
    segmenter = SegmentBatch(context).segmenter
    segment = segmenter.segment

    def slow(*arguments: Any) -> Any:
        time.sleep(0.3)
        return segment(*arguments)

    monkeypatch.setattr(segmenter, "segment", slow)
    monkeypatch.setattr(videos, "LIFE_S", 0.01)
    items = pa.Table.from_pylist([{"item_id": "a", "output_name": "a", "image_uri": str(path)}], ITEM)
    *signs, rows = list(cut_videos(items, segmenter, context))
    assert len(signs) >= 2 and all(map(is_sign_of_life, signs)) and not is_sign_of_life(rows)
    assert rows["error_detail"].to_pylist() == [None]
    alive = [commit_videos(sign, context=context).to_pylist()[0] for sign in signs]
    assert {one["ok"] + one["review"] + one["failed"] for one in alive} == {0} and not (tmp_path / "index").exists()
    facts = commit_videos(rows, context=context).to_pylist()[0]
    assert facts["failed"] == 0 and sum(one["frames"] for one in (*alive, facts)) == 6
    assert {one["video"] for one in (*alive, facts)} == {"a"}
    assert (alive[-1]["video_frames"], alive[-1]["video_left"]) == (6, 6 - sum(one["frames"] for one in alive))
    assert (facts["video_frames"], facts["video_left"]) == (6, 0)
    assert pq.read_schema(facts["part"]).equals(index_schema(context.carried))


def test_the_time_left_in_a_run_is_that_of_the_frames(
    go: Go, clips: Path, tmp_path: Path, make_photos: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one of three videos, a third of the items is done, but not a third of the frames."""
    make_photos(clips, 1)
    write_clip(clips / "a.mp4", frames(4, *SIZE))
    write_clip(clips / "b.mkv", frames(40, *SIZE), container="matroska")
    write_clip(clips / "c.mp4", frames(6, *SIZE))
    told: list[tuple[int, int, int | None, float | None]] = []

    def note(counters: RunCounters, part: dict[str, Any]) -> None:
        add_part(counters, part)
        told.append((counters.frames, counters.left.videos, counters.left.frames, counters.eta_s))

    add_part = RunCounters.add_part
    monkeypatch.setattr(RunCounters, "add_part", note)
    record = go("compute.rows_per_part=1")
    ends = {videos: (written, left, eta_s) for written, videos, left, eta_s in told}
    assert ends[3] == (0, None, None), "after the picture, no length is known"
    assert ends[2][:2] == (4, 8) and ends[1][:2] == (44, 22) and ends[0] == (50, 0, 0.0)
    assert all(eta_s is not None and eta_s > 0 for _, _, eta_s in (ends[2], ends[1]))
    assert (record.videos_left, record.frames_left) == (0, 0)


def test_columns_of_a_manifest_may_have_the_names_that_the_stages_use(go: Go, clips: Path, tmp_path: Path) -> None:
    write_clip(clips / "a.mp4", frames(4, *SIZE))
    (tmp_path / "m.csv").write_text("image_uri,video_progress,new_frames,version,pts\nclips/a.mp4,x,y,z,w\n")
    go(manifest="m.csv")
    (row,) = rows_of(tmp_path / "out").values()
    names = ("manifest_video_progress", "new_frames", "version", "pts")
    assert row["error_code"] is None and [row[name] for name in names] == ["x", "y", "z", "w"]


def test_segments_of_former_content_are_deleted(
    stage_context: Any, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.video.segments.SEGMENT_FRAMES", 5)
    context = stage_context(ledger=InMemoryLedger(), allowlist=AllowList((str(clips),)))
    segmenter, path = SegmentBatch(context).segmenter, clips / "a.mp4"
    items = pa.Table.from_pylist([{"item_id": "a", "output_name": "a", "image_uri": str(path)}], ITEM)
    for frames_now, segments_now in ((12, 3), (4, 0), (12, 3), (0, 0)):
        write_clip(path, frames(frames_now, *SIZE)) if frames_now else path.write_text("no video")
        *_, rows = cut_videos(items, segmenter, context)
        assert rows["error_code"].to_pylist() == [None if frames_now else "decode"]
        found = [pq.read_table(part).num_rows for part in (tmp_path / "segments").glob("*")]
        assert sum(found) == segments_now


def test_a_process_that_lost_its_gpu_ends_in_a_stretch(
    stage_context: Any, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.video.segments.SEGMENT_FRAMES", 5)
    context = stage_context(ledger=InMemoryLedger(), allowlist=AllowList((str(clips),)))
    path = write_clip(clips / "long.mp4", frames(24, *SIZE))
    items = pa.Table.from_pylist([{"item_id": "a", "output_name": "a", "image_uri": str(path)}], ITEM)
    stretch, *_ = divide_videos(items, context=context)
    finder = FindMasks(context)

    def broken(*_: Any) -> Any:
        raise BrokenDevice("the GPU is lost")

    def ended() -> Any:
        raise InterruptedError("the process ends")

    monkeypatch.setattr(finder.stage.segmenter, "segment", broken)
    monkeypatch.setattr("pipeline.run.crash_ledger.end_process", ended)
    with pytest.raises(InterruptedError):
        list(finder(stretch))


@pytest.mark.parametrize("error", [MemoryError(), av.error.ArgumentError(22, "Invalid argument")], ids=["memory", "ffmpeg"])
def test_what_libraries_refuse_fails_one_video(
    stage_context: Any, clips: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("pipeline.video.segments.SEGMENT_FRAMES", 5)
    context = stage_context(ledger=InMemoryLedger(), allowlist=AllowList((str(clips),)))
    path = write_clip(clips / "a.mp4", frames(24, *SIZE))
    items = pa.Table.from_pylist([{"item_id": "a", "output_name": "a", "image_uri": str(path)}], ITEM)
    stretch, *_ = divide_videos(items, context=context)

    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr("pipeline.video.reader.VideoReader._checked", fail)
    finder = FindMasks(context)
    assert list(finder(stretch)) and not list(divide_videos(items, context=context)), "the video itself fails"
    *_, rows = cut_videos(items, finder.stage.segmenter, context)
    assert rows["error_code"].to_pylist() == ["decode"] and not context.ledger.started


def test_a_video_that_killed_three_processes_fails(stage_context: Any, clips: Path) -> None:
    path = write_clip(clips / "a.mp4", frames(6, *SIZE))
    ledger = InMemoryLedger({"video/a": 3})
    context = stage_context(ledger=ledger, allowlist=AllowList((str(clips),)))
    items = pa.Table.from_pylist([{"item_id": "a", "output_name": "a", "image_uri": str(path)}], ITEM)
    (rows,) = cut_videos(items, SegmentBatch(context).segmenter, context)
    assert rows["error_code"].to_pylist() == ["crash"] and not ledger.started


@pytest.mark.usefixtures("ray_session")
def test_videos_on_ray(go: Go, clips: Path, tmp_path: Path, make_photos: Callable[..., Any]) -> None:
    make_photos(clips, 3)
    for name in "abc":
        write_clip(clips / f"{name}.mp4", frames(8, *SIZE), sound=["aac"])
    record = go("compute.local_items=0", "compute.actors=2", "compute.cpus_per_actor=1")
    assert (record.ok + record.review, record.failed) == (6, 0)
    rows = rows_of(tmp_path / "out")
    assert sum(row["video_facts"] is not None for row in rows.values()) == 3
    assert is_sound(tmp_path / "out")


def test_masks_that_were_found_ahead_are_used(
    stage_context: Any, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.video.segments.SEGMENT_FRAMES", 5)
    context = stage_context(ledger=InMemoryLedger(), allowlist=AllowList((str(clips),)))
    rows = [
        {"item_id": name, "output_name": name, "image_uri": str(clips / f"{name}.mp4")} for name in ("long", "short", "bad")
    ]
    rows.append(rows[0] | {"item_id": "boxed", "box": [5.0, 5.0, 60.0, 45.0]})
    write_clip(clips / "long.mp4", frames(48, *SIZE))
    write_clip(clips / "short.mp4", frames(8, *SIZE))
    (clips / "bad.mp4").write_bytes(b"no video")
    items = pa.Table.from_pylist(rows, ITEM)
    tables = list(divide_videos(items, context=context))
    stretches = pa.concat_tables(tables).to_pylist()
    assert [(one["item_id"], one[STRETCH]["first"], one[STRETCH]["warm_up"]) for one in stretches] == [
        ("long", 0, 0),
        ("long", 4, 8),
        ("long", 8, 8),
    ]
    finder = FindMasks(context)
    monkeypatch.setattr(videos, "LIFE_S", 0.01)
    *signs, facts = (table.to_pylist()[0] for table in finder(tables[1]))
    assert signs and {one["model_s"] for one in signs} == {0.0}, "signs of life"
    assert facts["ok"] == facts["failed"] == 0 and facts["model_s"] > 0
    for table in (tables[0], tables[2]):
        assert list(finder(table))
    layout, asked = context.output.layout, list[int]()
    assert len(list(Path(layout.kept_masks("long")).iterdir())) == 9
    segment = finder.stage.segmenter.segment

    def counting(images: Any, *arguments: Any) -> Any:
        asked.append(len(images))
        return segment(images, *arguments)

    monkeypatch.setattr(finder.stage.segmenter, "segment", counting)
    *_, row = cut_videos(items.slice(0, 1), finder.stage.segmenter, context)
    assert row["video_facts"].to_pylist()[0]["frames"] == 48 and row["error_detail"].to_pylist() == [None]
    assert sum(asked) <= 6, "only the last segment, which has three frames"
    commit_videos(row, context=context)
    assert not list(Path(layout.kept_masks("long")).glob("*")) and not context.ledger.started


@pytest.mark.study  # by "make faults": it takes a minute
@pytest.mark.usefixtures("ray_session")
def test_actors_share_a_long_video(go: Go, clips: Path, tmp_path: Path) -> None:
    count = 2 * SEGMENTS_PER_STRETCH * SEGMENT_FRAMES + 30
    write_clip(clips / "long.mp4", frames(count, 24, 32), sound=["aac"])
    write_clip(clips / "short.mp4", frames(8, 24, 32))
    record = go("compute.local_items=0", "compute.actors=2", "compute.cpus_per_actor=1")
    assert (record.items, record.ok + record.review, record.failed) == (2, 2, 0)
    row = rows_of(tmp_path / "out")["long.mp4"]
    assert row["video_facts"]["frames"] == count and counted(tmp_path / "out" / "cutouts" / "long.webm") == (count, 1)
    assert is_sound(tmp_path / "out") and not list((tmp_path / "out" / "_matteline" / "masks").glob("*/*"))
