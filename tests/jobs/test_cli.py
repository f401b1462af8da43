"""The command line as a newcomer meets it. What needs its own process (exit codes, streams) runs in one."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.main import main
from jobs.options import seconds as seconds_of
from pipeline.config.job import load_job
from pipeline.errors import ConfigError
from pipeline.output.output import Output
from pipeline.run.driver import run_job
from pipeline.storage.files import Files

ROOT = Path(__file__).resolve().parents[2]
INJECT = ROOT / "tests" / "faults" / "inject"
MATTELINE = str(Path(sys.executable).with_name("matteline"))
Command = Callable[..., subprocess.CompletedProcess[str]]
MakePhotos = Callable[..., list[Path]]


def test_help_names_every_command_and_where_to_start(matteline: Command, tmp_path: Path) -> None:
    shown = matteline("--help")
    assert shown.returncode == 0
    work = ("run", "top", "cut", "plan", "manifest", "show", "verify", "dataset")
    commands = (*work, "models", "renditions", "bench", "evaluate")
    for word in (*commands, "examples/manifest.csv"):
        assert word in shown.stdout
    for command in commands:
        assert matteline(command, "--help").returncode == 0


def test_the_old_module_is_the_run_command(tmp_path: Path) -> None:
    """Scheduled jobs call ``python -m jobs.cut_out``."""
    command = [sys.executable, "-m", "jobs.cut_out", "--manifest", "nowhere.csv", "--output", "out"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "nowhere.csv" in refused.stderr


def test_arrow_takes_its_memory_from_the_system(tmp_path: Path) -> None:
    """Its own allocator keeps what ended threads had; the choice is lost if something imports Arrow before the command does."""
    ask = (
        "import sys, jobs.main; sys.argv = ['matteline', '--help']\n"
        "try: jobs.main.main()\n"
        "except SystemExit: pass\n"
        "import pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    )
    shown = subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert shown.stdout.splitlines()[-1] == "system", shown.stderr


def test_models_are_listed_with_their_licences(matteline: Command, tmp_path: Path) -> None:
    shown = matteline("models", env={"COLUMNS": "80"})
    assert shown.returncode == 0
    for name in ("ben2-base", "mvanet-dis", "finegrain-box", "u2netp", "u2net", "isnet", "rmbg-1.4", "birefnet", "ben2-onnx"):
        assert name in shown.stdout
    assert "--accept-licence" in shown.stdout
    assert " ".join(shown.stdout.split()).count("MAE") == 2, "of the bundled models"
    assert "[" not in shown.stdout and "://" not in shown.stdout
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    place = next(place for place, line in enumerate(lines) if line.startswith("ben2-base "))
    assert lines[place + 1].startswith("  BEN2 Base") and lines[place + 2].startswith("ben2-onnx ")
    assert "https://" in matteline("models", "--verbose").stdout
    names = matteline("models", "--names").stdout.splitlines()
    assert (len(names), names[-1]) == (80, "toothbrush")


def test_renditions_are_listed(matteline: Command, tmp_path: Path) -> None:
    shown = matteline("renditions", env={"COLUMNS": "200"})
    assert shown.returncode == 0
    for name in ("amazon-main", "transparent", "dataset-coco", "dataset-indexed", "pure white"):
        assert name in shown.stdout


def test_the_demo_from_start_to_show(matteline: Command, tmp_path: Path) -> None:
    """The README's first command, then the report, then the rerun that finds all done."""
    first = matteline("run", "--manifest", "examples/manifest.csv", "--output", "out/demo")
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "out" / "demo"
    assert (folder / "cutouts" / "espresso.png").exists()
    assert re.search(r"cutouts +out/demo/cutouts/[a-z-]+\.png and \d+ more\n", first.stdout)
    assert re.search(r"index +out/demo/index\n", first.stdout)
    table = ds.dataset(folder / "index", format="parquet").to_table()
    with (ROOT / "pipeline" / "examples" / "manifest.csv").open() as file:
        assert table.num_rows == len(list(csv.DictReader(file)))
    assert set(table["status"].to_pylist()) <= {"ok", "review"}
    assert len(list(folder.rglob("*.png"))) == 2 * table.num_rows
    again = matteline("run", "--manifest", "examples/manifest.csv", "--output", "out/demo")
    assert again.returncode == 0, again.stderr
    assert "0 of" in again.stderr
    shown = matteline("show", "out/demo")
    assert shown.returncode == 0
    assert f"{table.num_rows} items" in shown.stdout
    lowest = min(table.to_pylist(), key=lambda row: (row["quality"], row["item_id"]))
    assert f"lowest quality: {lowest['item_id']} {lowest['quality']:.2f}" in shown.stdout
    facts = json.loads(matteline("show", "out/demo", "--json").stdout)
    assert sum(facts[0]["counts"].values()) == table.num_rows


def test_cut_writes_one_cutout_and_its_mask(matteline: Command, tmp_path: Path) -> None:
    done = matteline("cut", "examples/espresso.jpg", "-o", "cup.png", "--mask", "mask.png", "--box", "70,20,520,395")
    assert done.returncode == 0, done.stderr
    cutout, mask = Image.open(tmp_path / "cup.png"), Image.open(tmp_path / "mask.png")
    assert cutout.mode == "RGBA"
    assert mask.mode == "L"
    assert np.array_equal(np.asarray(cutout)[..., 3], np.asarray(mask))
    assert "quality" in done.stdout


def test_cut_writes_renditions_beside_the_cutout(matteline: Command, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("size_px: [32, 64]\nfill: 0.8\n")
    done = matteline(
        *("cut", "examples/espresso.jpg", "-o", "cup.png", "--box", "70,20,520,395"),
        *("--rendition", "amazon-main", "-r", "small.yaml", "--set", "recipe.renditions=[dataset-coco]"),
    )
    assert done.returncode == 0, done.stderr
    made = {path.name for path in tmp_path.iterdir()} - {"small.yaml"}
    assert made == {"cup.png", "cup-amazon-main.jpg", "cup-small-32.png", "cup-small-64.png", "cup-dataset-coco.json"}
    main_image = np.asarray(Image.open(tmp_path / "cup-amazon-main.jpg"))
    assert main_image.shape == (2000, 2000, 3) and (main_image[0] == 255).all()
    assert "cup-amazon-main.jpg: 2000 x 2000, enlarged" in done.stdout
    cutout = np.asarray(Image.open(tmp_path / "cup.png"))
    assert json.loads((tmp_path / "cup-dataset-coco.json").read_text())["area"] == int((cutout[..., 3] > 127).sum())


def test_an_output_becomes_a_data_set(
    matteline: Command,
    tmp_path: Path,
    make_photos: MakePhotos,
    fake_preset: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two boxes of each image in the manifest: two items, and then one image again."""
    make_photos(tmp_path / "photos", 2)
    (tmp_path / "m.jsonl").write_text(
        "\n".join(
            json.dumps({"image_uri": f"photos/photo-00{number}.jpg", "boxes": [[10, 10, 60, 80], [40, 10, 110, 80]]})
            for number in range(2)
        )
    )
    monkeypatch.chdir(tmp_path)
    run_job(load_job(manifest="m.jsonl", output="out", preset=fake_preset))
    done = matteline("dataset", "out", "--coco", "coco.json", "--indexed", "labels")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["photos/photo-000.jpg", "photos/photo-001.jpg"]
    assert [one["image_id"] for one in content["annotations"]] == [1, 1, 2, 2]
    assert content["annotations"][0]["item_id"] == "photos/photo-000.jpg#0"
    for image in content["images"]:
        labels = Image.open(tmp_path / "labels" / image["file_name"].replace(".jpg", ".png"))
        assert labels.mode == "P" and labels.size == (image["width"], image["height"])
        assert set(np.unique(np.asarray(labels))) <= {0, 1, 2}
    assert "2 images, 4 objects" in done.stdout
    (tmp_path / "photos/photo-001.jpg").unlink()
    done = matteline("dataset", "out", "--yolo", "yolo", "--imagefolder", "set", "--images", "link")
    assert done.returncode == 1, "a data set without some photos does not look like success"
    assert "1 images left out of forms with photos: " in done.stdout and "photo-001.jpg: it does not exist" in done.stdout
    assert [path.name for path in (tmp_path / "yolo/labels").rglob("*.txt")] == ["photo-000.txt"]
    refused = matteline("dataset", "out", "--yolo", "yolo")
    assert refused.returncode == 2 and "is not empty; give --yolo a new folder" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--manifest", "photos", "--output", "out", "--rendition", "amazn"), "no rendition 'amazn'; choose from"),
        (("run", "-m", "photos", "-o", "out", "--set", "recipe.renditions=[{name: a, background: b.jpg}]"), "b.jpg"),
        (("cut", "photos/photo-000.jpg", "--rendition", "amazn"), "there is no rendition"),
        (("dataset", "nowhere", "--coco", "c.json"), "no results under"),
        (("dataset", "nowhere"), "--coco FILE.json"),
        (("dataset", "nowhere", "--coco", "c.json", "--classes"), "--classes needs --indexed FOLDER"),
        (("dataset", "nowhere", "--coco", "c.json", "--images", "link"), "--images link needs --yolo FOLDER"),
        (("run", "--manifest", "nowhere.csv", "--output", "out"), "nowhere.csv"),
        (("run", "--manifest", "photos", "--output", "out", "--preset", "u3net"), "there is no preset 'u3net'; choose from"),
        (("run", "--manifest", "photos", "--output", "out", "--set", "recipe.strech=true"), "strech"),
        (("run", "--manifest", "photos", "--output", "out", "--set", "stretch=true"), "section.key=value"),
        (("run", "--output", "out"), "no manifest"),
        (("run", "--manifest", "photos", "--output", "out", "--preset", "rmbg-1.4"), "--accept-licence"),
        (("run", "--manifest", "photos", "--output", "file.txt/out"), "file.txt"),
        (("run", "--manifest", "photos", "--output", "out", "--set", "recipe.weights=gone.onnx"), "gone.onnx"),
        (("run", "--manifest", "photos", "--output", "out", "--set", f"recipe.weights_sha256={'0' * 64}"), "0" * 64),
        (("cut", "photos/photo-000.jpg", "--box", "1,2,3"), "box"),
        (("cut", "photos/photo-000.jpg", "-o", "cutout.gif"), ".png"),
        (("show", "nowhere"), "nowhere"),
        (("manifest", "nowhere", "-o", "m.csv"), "nowhere"),
        (("plan", "--manifest", "empty.csv", "--output", "out"), "empty.csv"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(
    tmp_path: Path,
    make_photos: MakePhotos,
    arguments: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_photos(tmp_path / "photos", 1)
    (tmp_path / "file.txt").write_text("in the way")
    (tmp_path / "empty.csv").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["matteline", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 or (ended.value.code == 1 and arguments[0] == "cut")
    assert words in said
    assert "Traceback" not in said
    assert said.count("error:") == 1
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.p*"))


def test_failures_decide_the_exit_code(matteline: Command, tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"not a picture at all")
    command = ("run", "-m", "photos", "-p", fake_preset, "-o")
    within = matteline(*command, "out")
    assert within.returncode == 0, within.stderr
    assert "1 of 4 items have failed" in within.stderr
    assert "decode" in within.stdout
    over = matteline(*command, "other", "--set", "budget.allowed_failed=0")
    assert over.returncode == 3, over.stderr
    assert "1 of 4 items failed" in over.stderr
    assert "decode" in over.stdout


def test_images_elsewhere_need_a_root(matteline: Command, tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    """The refusal says what to add; an option adds to what a job file names."""
    for folder in ("one", "two"):
        make_photos(tmp_path / folder, 1)
    (tmp_path / "here").mkdir()
    rows = ["image_uri,item_id", f"{tmp_path}/one/photo-000.jpg,1", "../two/photo-000.jpg,2"]
    (tmp_path / "here" / "m.csv").write_text("\n".join(rows))
    (tmp_path / "job.yaml").write_text(
        f"manifest: here/m.csv\noutput: out\npreset: {fake_preset}\n"
        "storage: {allow_roots: [one]}\nbudget: {allowed_failed: 0}\n"
    )
    command = ("run", "--job", "job.yaml")
    refused = matteline(*command)
    assert refused.returncode == 2, refused.stderr
    assert "1 of 2 rows" in refused.stderr
    assert f"add --allow-root {tmp_path}/two if" in refused.stderr
    done = matteline(*command, "--allow-root", "two")
    assert done.returncode == 0, done.stderr
    assert "2 items: " in done.stdout


def test_a_job_file_says_everything(matteline: Command, tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 2)
    (tmp_path / "nightly.yaml").write_text(
        f"manifest: photos\noutput: out\npreset: {fake_preset}\ncompute: {{batch_size: 2}}\n"
    )
    done = matteline("run", "--job", "nightly.yaml")
    assert done.returncode == 0, done.stderr
    assert "2 items: " in done.stdout


def test_plan_says_what_would_run(matteline: Command, tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 3)
    shown = matteline("plan", "-m", "photos", "-o", "out", "-p", fake_preset)
    assert shown.returncode == 0, shown.stderr
    assert "3, of which 0 are done and 3 to do" in shown.stdout
    said = " ".join(shown.stdout.split())
    assert "s per item on this machine" in said
    assert "images about" in said and "from the sizes of 3 of them" in said
    assert "cluster none: up to" in said and "items are processed without Ray" in said
    assert "starting Ray" not in shown.stderr


def test_show_prints_nothing_beside_what_was_asked_for(
    matteline: Command, tmp_path: Path, make_photos: MakePhotos, fake_preset: str
) -> None:
    make_photos(tmp_path / "photos", 2)
    assert matteline("run", "-m", "photos", "-o", "out", "-p", fake_preset).returncode == 0
    shown = matteline("show", "out", "--json", "--sheet", "s.jpg")
    assert len(json.loads(shown.stdout)) == 1 and "sheet    s.jpg" in shown.stderr
    assert matteline("show", "out", "--quiet", "--sheet", "s.jpg").stdout == "s.jpg\n"
    assert "  sheet    s.jpg\n" in matteline("show", "out", "--sheet", "s.jpg").stdout
    (tmp_path / "photos" / "photo-001.jpg").unlink()
    (tmp_path / "s.jpg").unlink()
    shown = matteline("show", "out", "--sheet", "s.jpg")
    assert shown.returncode == 1 and "left out of the sheet: photo-001.jpg: " in shown.stderr
    assert Image.open(tmp_path / "s.jpg").height > 0


def test_a_measurement_that_cannot_be_kept_is_not_begun(matteline: Command, tmp_path: Path, monkeypatch: Any) -> None:
    def begin(*_: Any, **__: Any) -> Any:
        raise AssertionError("it measures")

    monkeypatch.setattr("pipeline.bench.driver.run_bench", begin)
    (tmp_path / "file").touch()
    done = matteline("bench", "--json", "file/bench.json")
    assert done.returncode == 2 and "--json file/bench.json: " in done.stderr


def test_plan_counts_what_has_changed(matteline: Command, tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 3)
    job = ("-m", "photos", "-o", "out", "-p", fake_preset)
    assert matteline("run", *job).returncode == 0
    make_photos(tmp_path / "other", 1, first=9)[0].rename(tmp_path / "photos" / "photo-001.jpg")
    assert "3, of which 3 are done and 0 to do" in matteline("plan", *job).stdout
    assert "3, of which 2 are done and 1 to do" in matteline("plan", *job, "--set", "run.changed=true").stdout


def test_a_manifest_of_an_unknown_format_is_refused_before_work(
    matteline: Command, tmp_path: Path, make_photos: MakePhotos
) -> None:
    (photo,) = make_photos(tmp_path / "photos", 1)
    pq.write_table(pa.table({"image": [photo.read_bytes()]}), tmp_path / "a.parquet")
    made = matteline("manifest", "a.parquet", "--unpack", "pictures", "-o", "m.txt")
    assert made.returncode == 2 and "must end in .csv, .parquet or .jsonl, not '.txt'" in made.stderr
    assert not (tmp_path / "pictures").exists()


def test_manifest_from_a_folder_and_from_coco(matteline: Command, tmp_path: Path, make_photos: MakePhotos) -> None:
    make_photos(tmp_path / "photos", 3)
    assert matteline("manifest", "photos", "-o", "all.csv").returncode == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "all.csv").read_text())))
    assert sorted(row["image_uri"] for row in rows) == [f"photos/photo-{number:03}.jpg" for number in range(3)]
    annotations = {
        "images": [{"id": 7, "file_name": "photo-000.jpg"}, {"id": 8, "file_name": "photo-001.jpg"}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [
            {"id": 70, "image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40], "iscrowd": 0},
            {"id": 71, "image_id": 7, "category_id": 1, "bbox": [50, 20, 30, 40], "iscrowd": 0},
            {"id": 72, "image_id": 8, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(annotations))
    made = matteline("manifest", "photos", "--coco", "coco.json", "-o", "objects.parquet")
    assert made.returncode == 0, made.stderr
    objects = pq.read_table(tmp_path / "objects.parquet").to_pylist()
    assert [(row["x0"], row["y0"], row["x1"], row["y1"]) for row in objects] == [(10, 20, 40, 60), (50, 20, 80, 60)]
    assert {row["category"] for row in objects} == {"cup"}
    assert len({row["item_id"] for row in objects}) == 2


@contextmanager
def at_work(
    folder: Path, photo: Path, preset: str, rows: int, frame_s: float = 0.0
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A run that has committed its first part, and its command."""
    faults = {
        "PYTHONPATH": f"{INJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "FAULTS": json.dumps({"sleep_s": frame_s}),
    }
    (folder / "many.csv").write_text("\n".join(["image_uri,item_id", *(f"{photo.name},item-{row}" for row in range(rows))]))
    command = ["run", "-m", "many.csv", "-o", "out", "-p", preset, "--set", "compute.rows_per_part=5"]
    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([MATTELINE, *command], cwd=folder, env=os.environ | faults, **pipes) as run:
        while run.poll() is None and not list((folder / "out").rglob("part-*.parquet")):
            time.sleep(0.05)
        yield run, command


def stop(run: subprocess.Popen[str], number: signal.Signals, folder: Path) -> None:
    """Ask it to end, and look how it does."""
    run.send_signal(number)
    _, said = run.communicate(timeout=120)
    for line in said.splitlines():
        assert line.startswith("error: ") or json.loads(line), "no terminal: JSON lines and nothing else"
    assert run.returncode == 4, said
    assert f"stopped by {number.name}; run the same command again to continue" in said
    (record,) = (json.loads(path.read_text()) for path in (folder / "out").rglob("runs/*.json"))
    assert record["outcome"] == "stopped"


def test_a_run_on_ray_that_a_person_stops_says_so(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    (photo,) = make_photos(tmp_path, 1)
    with at_work(tmp_path, photo, fake_preset, 150) as (run, _):
        stop(run, signal.SIGINT, tmp_path)


def test_a_run_keeps_others_away_and_goes_on_when_it_was_stopped(
    matteline: Command, tmp_path: Path, make_photos: MakePhotos, fake_preset: str
) -> None:
    (photo,) = make_photos(tmp_path, 1)
    with at_work(tmp_path, photo, fake_preset, 90, frame_s=0.1) as (run, command):
        other = matteline(*command)
        assert other.returncode == 5, other.stderr
        assert "another run is active in this output" in other.stderr
        stop(run, signal.SIGTERM, tmp_path)
    again = matteline(*command)
    assert again.returncode == 0, again.stderr
    checked = matteline("verify", "out")
    assert checked.returncode == 0, checked.stdout
    assert "90 rows" in checked.stdout


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("45m", 2700), ("6h", 21600), ("1.5d", 129600)])
def test_a_deadline_is_a_time_with_its_unit(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["6", "h", "-1h", "0h", "6 hours", "1.2.3h", "inf", "1e3s"])
def test_other_deadlines_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="give a time above 0 with a unit"):
        seconds_of(text)


def test_gc_and_verify_take_storage_and_compute_settings(matteline: Command, make_output: Any, tmp_path: Path) -> None:
    make_output(Output.at(str(tmp_path / "out"), Files()), 3, failed=0)
    for command in ("gc", "verify"):
        done = matteline(command, "out", "--json", "--set", "compute.local_items=5", "--set", "storage.region=eu-west-1")
        assert str(tmp_path / "out") in json.loads(done.stdout)
        refused = matteline(command, "out", "--set", "recipe.stretch=true")
        assert refused.returncode == 2
        assert "storage and compute settings only, not recipe" in refused.stderr
