"""A watch does what comes, once, and only when it is whole; nothing but its user ends it.

Each test says what happens between two looks, so that no test depends on time.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.config.job import Job, load_job
from pipeline.errors import ConfigError, Stopped, StorageError
from pipeline.output.output import Output
from pipeline.run import watch as module
from pipeline.run import worker_process
from pipeline.run.watch import watch
from pipeline.storage.files import Files

Step = Callable[[], object]
MakePhotos = Callable[..., list[Path]]


def nothing() -> None:
    """Nothing happens between two looks."""


class Script(Event):
    """Ends a watch after some steps. Each step happens in the pause between two looks."""

    def __init__(self, *steps: Step) -> None:
        super().__init__()
        self.steps = list(steps)
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout or 0.0)
        if self.steps:
            self.steps.pop(0)()
        else:
            self.set()
        return self.is_set()


@pytest.fixture
def photos(tmp_path: Path, make_photos: MakePhotos) -> list[Path]:
    """Photos that wait elsewhere."""
    (tmp_path / "in").mkdir()
    return make_photos(tmp_path / "camera", 8)


@pytest.fixture
def job(tmp_path: Path, fake_preset: str) -> Callable[..., Job]:
    """``job(*settings, manifest="in")``."""

    def make(*settings: str, manifest: str = "in", output: str = "out") -> Job:
        where = {"manifest": str(tmp_path / manifest), "output": str(tmp_path / output)}
        return load_job(**where, preset=fake_preset, overrides=settings)

    return make


@pytest.fixture
def go(job: Callable[..., Job], photos: list[Path]) -> Callable[..., Output]:
    """``go(step, …, settings=(), manifest="in")`` watches until all steps are done."""

    def run(*steps: Step, settings: tuple[str, ...] = (), manifest: str = "in") -> Output:
        return watch(job(*settings, manifest=manifest), stop=Script(*steps))

    return run


def rows(output: Path) -> dict[str, str | None]:
    """The error code of each item. Every item has one row."""
    found = ds.dataset(output / "index", format="parquet").to_table(["item_id", "error_code"]).to_pylist()
    assert len(found) == len({row["item_id"] for row in found})
    return {row["item_id"]: row["error_code"] for row in found}


def records(output: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((output / "_matteline" / "runs").glob("*.json"))]


def test_a_file_is_left_until_it_is_whole(go: Callable[..., Output], photos: list[Path], tmp_path: Path) -> None:
    data, target = photos[0].read_bytes(), tmp_path / "in" / "photo.jpg"
    sizes = [100, 400, 900, len(data)]

    def grow(size: int) -> Step:
        return lambda: target.write_bytes(data[:size])

    def not_yet() -> None:
        assert not records(tmp_path / "out")

    go(*(grow(size) for size in sizes), not_yet, nothing)
    assert rows(tmp_path / "out") == {"photo.jpg": None}
    (record,) = records(tmp_path / "out")
    assert (record["ok"] + record["review"], record["failed"], record["exit_code"]) == (1, 0, 0)


def test_what_was_cut_short_is_tried_again_when_it_has_changed(
    go: Callable[..., Output], photos: list[Path], tmp_path: Path
) -> None:
    data, target = photos[0].read_bytes(), tmp_path / "in" / "photo.jpg"

    def cut() -> None:
        target.write_bytes(data[: len(data) // 2])

    def failed() -> None:
        assert rows(tmp_path / "out") == {"photo.jpg": "decode"}

    go(cut, nothing, failed, failed, lambda: target.write_bytes(data), nothing)
    assert rows(tmp_path / "out") == {"photo.jpg": None}
    assert [record["failed"] for record in records(tmp_path / "out")] == [1, 0], "it is not tried in between"


def test_temporary_names_are_not_images(go: Callable[..., Output], photos: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    names = [".photo.jpg.Xy12Zw", "photo.jpg.part", ".~tmp~/photo.jpg"]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos[0], folder / name)

    def none() -> None:
        assert not records(tmp_path / "out")

    go(nothing, none, lambda: (folder / names[1]).rename(folder / "photo.jpg"), nothing)
    assert rows(tmp_path / "out") == {"photo.jpg": None}


def test_rounds_share_a_worker_and_leave_a_record_each(
    go: Callable[..., Output], photos: list[Path], tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    workers: list[int] = []

    def add(number: int) -> Step:
        return lambda: shutil.copy(photos[number], tmp_path / "in")

    def note() -> None:
        workers.append(worker_process._idle[0].process.pid)

    shutil.copy(photos[0], tmp_path / "in")
    go(note, nothing, note, add(1), nothing, note, nothing, nothing, add(2), nothing, note)
    assert len(workers) == 4 and len(set(workers)) == 1
    assert not worker_process._idle, "the worker ends with the watch"
    assert set(rows(tmp_path / "out").values()) == {None} and len(rows(tmp_path / "out")) == 3
    assert [(record["ok"], record["done_before"]) for record in records(tmp_path / "out")] == [(1, 0), (1, 1), (1, 2)]
    told = [line.getMessage() for line in logged if line.levelno >= logging.INFO]
    assert len([line for line in told if "items done in" in line]) == 3
    assert len(told) == 5, "one line per round, and two about the watch"


def test_what_needs_no_work_leaves_no_trace(
    go: Callable[..., Output], photos: list[Path], tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    folder = tmp_path / "in"

    def add_other_files() -> None:
        (folder / "photo.cr2").write_bytes(b"raw")

    def touch() -> None:
        (folder / "photo.raw").write_bytes(b"raw")
        (folder / "photo-000.jpg").touch()

    shutil.copy(photos[0], folder)
    go(nothing, add_other_files, nothing, nothing, touch, nothing, nothing, (folder / "photo-000.jpg").unlink, nothing)
    assert len(records(tmp_path / "out")) == 1
    warnings = [line.getMessage() for line in logged if line.levelno == logging.WARNING]
    assert [line.partition(": ")[2] for line in warnings] == [
        "1 file is left out, by suffix .cr2: 1",
        "2 files are left out, by suffix .cr2: 1, .raw: 1",
    ]


@pytest.mark.parametrize("changed", [False, True])
def test_a_changed_photo_is_done_again_if_asked(
    go: Callable[..., Output], photos: list[Path], tmp_path: Path, changed: bool
) -> None:
    target, cutout = tmp_path / "in" / "photo.jpg", tmp_path / "out" / "cutouts" / "photo.png"
    seen: list[bytes] = []
    shutil.copy(photos[0], target)
    go(
        nothing,
        lambda: seen.append(cutout.read_bytes()),
        lambda: shutil.copy(photos[1], target),
        nothing,
        settings=(f"run.changed={changed}",),
    )
    assert (cutout.read_bytes() != seen[0]) == changed
    assert rows(tmp_path / "out") == {"photo.jpg": None}


def test_rows_of_a_table_are_done_as_they_come(
    go: Callable[..., Output], photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image of a row may come later than the row: such items are repeated."""
    monkeypatch.setattr(module, "REPEAT_S", 0.0)
    table = tmp_path / "in" / "table.csv"
    table.write_text("image_uri,item_id\n")

    def add(*lines: str) -> Step:
        return lambda: table.write_text("\n".join(["image_uri,item_id", *lines, ""]))

    def failed() -> None:
        assert rows(tmp_path / "out") == {"a": None, "b": "fetch"}

    shutil.copy(photos[0], tmp_path / "in")
    go(
        nothing,
        nothing,
        add("photo-000.jpg,a"),
        nothing,
        add("photo-000.jpg,a", "photo-001.jpg,b"),
        nothing,
        failed,
        lambda: shutil.copy(photos[1], tmp_path / "in"),
        nothing,
        manifest="in/table.csv",
    )
    assert rows(tmp_path / "out") == {"a": None, "b": None}


def test_items_that_keep_failing_are_left_in_the_end(
    go: Callable[..., Output], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REPEAT_S", 0.0)
    monkeypatch.setattr(module, "REPEATS", 2)
    (tmp_path / "in" / "table.csv").write_text("image_uri,item_id\nnowhere.jpg,a\n")
    go(*[nothing] * 8, manifest="in/table.csv")
    assert rows(tmp_path / "out") == {"a": "fetch"}
    assert len(records(tmp_path / "out")) == 1 + 2
    go(*[nothing] * 3, manifest="in/table.csv")
    assert len(records(tmp_path / "out")) == 1 + 2, "a watch that is started again has nothing new to do"


def test_a_prefix_on_s3(s3: Any, photos: list[Path], fake_preset: str) -> None:
    """It is empty at first; a broken object is mended; one is changed."""
    bucket = s3.make_bucket()
    where = {"manifest": f"s3://{bucket}/in", "output": f"s3://{bucket}/out", "preset": fake_preset}
    settings = [f"storage.{name}={value}" for name, value in s3.settings.items()]

    def put(name: str, data: bytes) -> Step:
        return lambda: s3.put(bucket, f"in/{name}", data)

    first, second = photos[0].read_bytes(), photos[1].read_bytes()
    script = (nothing, put("a.jpg", first), put("b.jpg", second[:900]), *[nothing] * 2, put("b.jpg", second), *[nothing] * 2)
    job = load_job(**where, overrides=[*settings, "run.changed=true"])
    watch(job, stop=Script(*script, put("a.jpg", second), nothing))
    parts = s3.keys(bucket, "out/index/")
    index = [row for key in parts for row in pq.read_table(io.BytesIO(s3.get(bucket, key))).to_pylist()]
    assert sorted((row["item_id"], row["error_code"]) for row in index) == [("a.jpg", None), ("b.jpg", None)]
    assert len({row["image_sha256"] for row in index}) == 1, "both are the second photo now"
    assert len(s3.keys(bucket, "out/_matteline/runs/")) == 4


def test_a_store_that_is_away_is_waited_for(
    job: Callable[..., Job],
    photos: list[Path],
    tmp_path: Path,
    logged: list[logging.LogRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its folder disappears, as an unmounted disk does. The pauses grow, and the first failure alone is notified."""
    folder, away, told_file = tmp_path / "in", tmp_path / "away", tmp_path / "told.json"
    clock = [0.0]
    monkeypatch.setattr(module, "clock_s", lambda: clock[0])

    def later(seconds: float, *deeds: Step) -> Step:
        def pass_time() -> None:
            clock[0] += seconds
            for deed in deeds:
                deed()

        return pass_time

    def is_told() -> None:
        assert "does not exist" in json.loads(told_file.read_text())["error"]
        told_file.unlink()

    shutil.copy(photos[0], folder)
    back = (lambda: away.rename(folder), lambda: shutil.copy(photos[1], folder))
    script = Script(later(5), later(5, lambda: folder.rename(away)), later(4, is_told), later(6), later(20, *back), later(5))
    watch(job(f"notify.to={told_file}"), stop=script)
    # Look, look and round; the third fails; no look after 4 s; after 10 s another one fails; after 20 s the photos are back.
    assert script.pauses == [5.0, 5.0, 10.0, 6.0, 20.0, 5.0, 5.0]
    told = [line.getMessage().rpartition(". ")[2] for line in logged if line.levelno == logging.ERROR]
    assert told == ["The watch tries again in 10 s", "The watch tries again in 20 s"]
    assert len(rows(tmp_path / "out")) == 2
    assert not told_file.exists(), "the first failure alone is notified"


def test_a_round_that_fails_is_tried_again(
    go: Callable[..., Output], photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.0)
    index, hidden = tmp_path / "out" / "index", tmp_path / "out" / "was-index"

    def block() -> None:
        index.rename(hidden)
        index.write_text("no folder")
        shutil.copy(photos[1], tmp_path / "in")

    def mend() -> None:
        index.unlink()
        hidden.rename(index)

    shutil.copy(photos[0], tmp_path / "in")
    with pytest.raises(Stopped, match="the watch ended before a failed round was tried again: .*index"):
        go(nothing, block, nothing, nothing)
    mend()
    go(nothing, block, nothing, mend, nothing)
    assert rows(tmp_path / "out") == {"photo-000.jpg": None, "photo-001.jpg": None}


def test_the_error_budget_ends_a_round_and_not_the_watch(
    go: Callable[..., Output], photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.0)

    def add_bad_pictures() -> None:
        for number in range(12):
            (tmp_path / "in" / f"bad-{number:02}.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")

    go(add_bad_pictures, nothing, nothing, lambda: shutil.copy(photos[0], tmp_path / "in"), nothing)
    assert sorted(rows(tmp_path / "out").values(), key=str) == [None, *["decode"] * 12]
    assert [record["exit_code"] for record in records(tmp_path / "out")] == [3, 0]


def test_many_rounds_leave_little_behind(
    go: Callable[..., Output], photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_ROUNDS", 3)
    target, own = tmp_path / "in" / "photo.jpg", tmp_path / "out" / "_matteline"
    superseded = [own / "superseded" / f"part-{name}.parquet" for name in ("old", "young")]
    (own / "superseded").mkdir(parents=True)
    for path in superseded:
        path.touch()
    os.utime(superseded[0], (1e9, 1e9))
    go(
        *[step for number in range(6) for step in (lambda n=number: shutil.copy(photos[n], target), nothing)],
        settings=("run.changed=true",),
    )
    assert len(list((own / "runs").iterdir())) == len(list((own / "progress").iterdir())) == 3
    assert len(list((tmp_path / "out" / "index").iterdir())) == 1
    assert [path.exists() for path in superseded] == [False, True]


def test_other_runs_keep_their_records(go: Callable[..., Output], photos: list[Path], tmp_path: Path) -> None:
    from pipeline.output.run_record import delete_old_rounds

    runs = tmp_path / "out" / "_matteline" / "runs"
    runs.mkdir(parents=True)
    names = ["20260101T000000.000Z-aaaaaa", *(f"20260101T00000{n}.000Z-watch-bbbbbb" for n in range(1, 4))]
    for name in names:
        (runs / f"{name}.json").write_text("{}")
    delete_old_rounds(Output.at(str(tmp_path / "out"), Files()), 2)
    assert sorted(path.stem for path in runs.iterdir()) == [names[0], *names[2:]]


def test_what_is_wrong_from_the_start_ends_the_watch(
    go: Callable[..., Output], job: Callable[..., Job], photos: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        go(nothing, manifest="nowhere")
    with pytest.raises(ConfigError, match="inside the manifest's folder"):
        watch(job(output="in/out"), stop=Script(nothing))
    shutil.copy(photos[0], tmp_path / "in" / "a.jpg")
    shutil.copy(photos[0], tmp_path / "in" / "a.jpeg")
    with pytest.raises(ConfigError, match="would share the file name"):
        go(nothing, nothing)


def test_what_becomes_wrong_later_is_told_until_it_is_mended(
    go: Callable[..., Output], photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.0)
    folder = tmp_path / "in"
    shutil.copy(photos[0], folder / "a.jpg")
    go(
        nothing,
        lambda: shutil.copy(photos[0], folder / "a.jpeg"),
        nothing,
        nothing,
        lambda: (folder / "a.jpeg").rename(folder / "b.jpeg"),
        nothing,
    )
    assert rows(tmp_path / "out") == {"a.jpg": None, "b.jpeg": None}


def test_a_deadline_ends_the_watch(job: Callable[..., Job], photos: list[Path], tmp_path: Path) -> None:
    watch(job("budget.deadline_s=0.2"), interval_s=0.05)
    shutil.copy(photos[0], tmp_path / "in")
    watch(job("budget.deadline_s=3600"), stop=Script(nothing))
    assert rows(tmp_path / "out") == {"photo-000.jpg": None}


def test_failed_items_are_retried_by_the_first_round_only(
    go: Callable[..., Output], photos: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "in" / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    shutil.copy(photos[0], tmp_path / "in")
    go(nothing)
    go(nothing, lambda: shutil.copy(photos[1], tmp_path / "in"), nothing, settings=("run.retry=decode",))
    assert [record["failed"] for record in records(tmp_path / "out")] == [1, 1, 0]
