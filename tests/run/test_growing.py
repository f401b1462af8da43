"""One output, one recipe, growing: other settings, added and removed renditions, replaced photos, repairs, a moved output."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image

from pipeline.config.job import load_job
from pipeline.errors import ConfigError, ErrorBudgetExceeded, ItemsMissing, Stopped
from pipeline.manifest.manifest import open_manifest
from pipeline.output.gc import collect_garbage
from pipeline.output.output import Output, open_output
from pipeline.output.run_record import RunRecord, last_run
from pipeline.output.verify import repair, verify
from pipeline.run import local, passes
from pipeline.run.driver import run_job
from pipeline.storage.files import Files

MakePhotos = Callable[..., list[Path]]
FILES = Files()


@pytest.fixture
def go(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> Callable[..., RunRecord]:
    """``go(*settings, renditions=[], changed=False, replace=False)`` runs four photos, two of them in a folder."""
    make_photos(tmp_path / "photos", 2)
    make_photos(tmp_path / "photos" / "Müller & Söhne", 2, first=2)

    def run(*settings: str, renditions: tuple[str, ...] = (), **options: Any) -> RunRecord:
        where = {"manifest": str(tmp_path / "photos"), "output": str(tmp_path / "out"), "preset": fake_preset}
        return run_job(load_job(**where, overrides=settings, renditions=renditions).with_run(**options))[1]

    return run


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output.at(str(tmp_path / "out"), FILES)


def files_of(root: Path) -> list[str]:
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] not in ("_matteline", "index"))


def rows(root: Path) -> dict[str, dict[str, Any]]:
    return {row["item_id"]: row for row in ds.dataset(root / "index", format="parquet").to_table().to_pylist()}


def check(output: Output, tmp_path: Path) -> None:
    report = verify(output, open_manifest(str(tmp_path / "photos"), FILES))
    assert report.sound, report
    assert not list((tmp_path / "out" / "_matteline" / "overwrites").glob("*"))


def no_model(*_: Any, **__: Any) -> None:
    pytest.fail("no model is needed")


def test_names_are_those_of_the_photos(go: Callable[..., RunRecord], tmp_path: Path) -> None:
    go()
    names = ["Müller & Söhne/photo-002", "Müller & Söhne/photo-003", "photo-000", "photo-001"]
    assert files_of(tmp_path / "out") == [f"{folder}/{name}.png" for folder in ("cutouts", "masks") for name in names]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"_matteline", "cutouts", "index", "masks"}


def test_other_settings_are_refused_by_name_or_replace_the_items(
    go: Callable[..., RunRecord], tmp_path: Path, output: Output
) -> None:
    go()
    before = rows(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"recipe.frame_px 64, now 96; .*recipe.sharpen 1.0, now 3.0.*add --replace"):
        go("recipe.frame_px=96", "recipe.sharpen=3")
    with pytest.raises(ConfigError, match=r'output.name null, now "{item_id}"'):
        go("output.name={item_id}")
    record = go("recipe.frame_px=96", "recipe.sharpen=3", replace=True)
    assert (record.done_before, record.ok + record.review) == (0, 4)
    after = rows(tmp_path / "out")
    for item_id, row in after.items():
        assert row["mask_path"] == before[item_id]["mask_path"]
        assert row["recipe"] != before[item_id]["recipe"]
    check(output, tmp_path)
    assert go("recipe.frame_px=96", "recipe.sharpen=3").done_before == 4


def test_a_replacement_that_was_interrupted_goes_on_without_the_option(
    go: Callable[..., RunRecord], tmp_path: Path, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    go()
    with monkeypatch.context() as patch:
        patch.setattr(local, "segment_items", lambda *_: iter(()))
        with pytest.raises(ItemsMissing, match="4 of 4 items have no row"):
            go("recipe.frame_px=96", replace=True)
    assert go("recipe.frame_px=96").ok + 0 >= 0
    assert len({row["recipe"] for row in rows(tmp_path / "out").values()}) == 1
    check(output, tmp_path)


def test_a_replacement_in_which_all_items_failed_and_that_was_killed_is_tidied(
    go: Callable[..., RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go()
    for photo in (tmp_path / "photos").rglob("*.jpg"):
        photo.write_bytes(b"no picture")
    asked = ("recipe.frame_px=96", "budget.max_failed_share=1")
    with monkeypatch.context() as patch:
        patch.setattr(passes, "tidy_index", raise_interrupt)  # after the last commit
        with pytest.raises(KeyboardInterrupt):
            go(*asked, replace=True)
    for _ in range(2):
        with pytest.raises(ErrorBudgetExceeded, match="all 4 items failed"):
            go(*asked)
    assert len(rows(tmp_path / "out")) == len(ds.dataset(tmp_path / "out" / "index").to_table()) == 4


def raise_interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_rendition_is_added_without_the_model_and_equals_one_made_at_once(
    go: Callable[..., RunRecord], tmp_path: Path, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(renditions=("amazon-main", "dataset-coco"))
    at_once = {path: (tmp_path / "out" / path).read_bytes() for path in files_of(tmp_path / "out")}
    shutil.rmtree(tmp_path / "out")
    go()
    monkeypatch.setattr(local, "segment_items", no_model)
    record = go(renditions=("amazon-main",))
    assert (record.derived, record.done_before) == (4, 4)
    assert go(renditions=("amazon-main", "dataset-coco")).derived == 4
    assert {path: (tmp_path / "out" / path).read_bytes() for path in files_of(tmp_path / "out")} == at_once
    check(output, tmp_path)
    assert go(renditions=("amazon-main", "dataset-coco")).derived == 0


def test_after_the_deadline_no_rendition_is_begun(go: Callable[..., RunRecord], tmp_path: Path, output: Output) -> None:
    go()
    with pytest.raises(Stopped, match="the deadline passed with 4 items left; run the same command again") as stopped:
        go("budget.deadline_s=0.01", renditions=("amazon-main",))
    assert (stopped.value.record.outcome, stopped.value.record.derived) == ("stopped", 0)
    assert not (tmp_path / "out" / "amazon-main").exists()
    assert go("budget.deadline_s=600", renditions=("amazon-main",)).derived == 4
    check(output, tmp_path)


def test_the_photo_s_shadow_is_added_from_the_photo(
    go: Callable[..., RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once from the decoded pixels, later from the photo, which must not have changed."""
    for name, shadow in (("photo-000.jpg", 218), ("photo-001.jpg", 223)):
        photo = np.full((90, 120, 3), 230, np.uint8)
        photo[55:75, 25:95], photo[20:62, 35:85] = shadow, (40, 20, 20)
        Image.fromarray(photo).save(tmp_path / "photos" / name, quality=95)
    go(renditions=("natural-shadow",))
    first, folder = rows(tmp_path / "out"), tmp_path / "out" / "natural-shadow"
    at_once = {path.name: path.read_bytes() for path in folder.glob("*.jpg")}
    assert {one["note"] for one in first["photo-000.jpg"]["renditions"]} == {None}
    levels = [np.asarray(Image.open(folder / name))[66:72, 40:80].mean() for name in ("photo-000.jpg", "photo-001.jpg")]
    assert levels == pytest.approx([255 * 218 / 230, 255 * 223 / 230], abs=2)
    shutil.rmtree(tmp_path / "out")
    go()
    monkeypatch.setattr(local, "segment_items", no_model)
    assert go(renditions=("natural-shadow",)).derived == 4
    assert {path.name: path.read_bytes() for path in folder.glob("*.jpg")} == at_once
    Image.new("RGB", (120, 90)).save(tmp_path / "photos" / "photo-000.jpg")
    (tmp_path / "own.yaml").write_text("shadow: natural\nbackground: '#ffffff'\n")
    with pytest.raises(ItemsMissing, match="has changed since its mask was made"):
        go(renditions=("natural-shadow", str(tmp_path / "own.yaml")))


def test_outputs_are_added_from_what_is_there(
    go: Callable[..., RunRecord], tmp_path: Path, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cutout from photo and mask; a mask and a trimap from a cutout."""
    go()
    both = {path: (tmp_path / "out" / path).read_bytes() for path in files_of(tmp_path / "out")}
    shutil.rmtree(tmp_path / "out")
    go("recipe.outputs=[mask]")
    monkeypatch.setattr(local, "segment_items", no_model)
    assert go().derived == 4
    assert {path: (tmp_path / "out" / path).read_bytes() for path in files_of(tmp_path / "out")} == both
    go("recipe.outputs=[cutout]")
    collect_garbage(output, "gc", delete=True, min_age_s=0)
    assert {path.split("/")[0] for path in files_of(tmp_path / "out")} == {"cutouts"}
    assert go("recipe.outputs=[cutout, mask, trimap]").derived == 4
    assert all((tmp_path / "out" / path).read_bytes() == data for path, data in both.items())
    trimap = np.asarray(Image.open(tmp_path / "out" / "trimaps" / "photo-000.png"))
    assert set(np.unique(trimap)) <= {0, 128, 255}
    check(output, tmp_path)


def test_a_photo_that_changed_meanwhile_is_not_mixed_with_its_old_mask(
    go: Callable[..., RunRecord], tmp_path: Path, make_photos: MakePhotos
) -> None:
    go("recipe.outputs=[mask]")
    Image.new("RGB", (50, 40)).save(tmp_path / "photos" / "photo-000.jpg")
    with pytest.raises(ItemsMissing, match=r"1 items still lack .*photo-000.jpg.*has changed since its mask was made"):
        go()
    assert last_run(open_output(str(tmp_path / "out"), FILES))["derived"] == 3  # type: ignore[index]
    assert go(changed=True).exit_code == 0
    assert len(list((tmp_path / "out" / "cutouts").rglob("*.png"))) == 4


def test_a_removed_rendition_is_swept(go: Callable[..., RunRecord], tmp_path: Path, output: Output) -> None:
    go(renditions=("amazon-main", "transparent"))
    go(renditions=("transparent",))
    assert {one["name"] for row in rows(tmp_path / "out").values() for one in row["renditions"]} == {"transparent"}
    assert collect_garbage(output, "gc", delete=True, min_age_s=0).files["object"] == 4
    assert {path.split("/")[0] for path in files_of(tmp_path / "out")} == {"cutouts", "masks", "transparent"}
    check(output, tmp_path)


def test_the_threshold_of_review_needs_no_model(
    go: Callable[..., RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go("recipe.review_below=0")
    assert {row["status"] for row in rows(tmp_path / "out").values()} == {"ok"}
    monkeypatch.setattr(local, "segment_items", no_model)
    go("recipe.review_below=1")
    assert {row["status"] for row in rows(tmp_path / "out").values()} == {"review"}


def test_a_changed_photo_keeps_its_name(
    go: Callable[..., RunRecord], tmp_path: Path, output: Output, make_photos: MakePhotos
) -> None:
    go()
    before = rows(tmp_path / "out")["photo-000.jpg"]
    photo = tmp_path / "photos" / "photo-000.jpg"
    photo.unlink()
    (other,) = make_photos(tmp_path / "other", 1, first=7)
    other.rename(photo)
    assert go(changed=True).done_before == 3
    after = rows(tmp_path / "out")["photo-000.jpg"]
    assert after["mask_path"] == before["mask_path"] and after["mask_sha256"] != before["mask_sha256"]
    check(output, tmp_path)


def test_ids_that_mean_other_photos_are_noticed(
    go: Callable[..., RunRecord],
    tmp_path: Path,
    output: Output,
    make_photos: MakePhotos,
    fake_preset: str,
    logged: list[logging.LogRecord],
) -> None:
    """Two folders have photos of the same names."""
    go()
    others = tmp_path / "others"
    shutil.copytree(tmp_path / "photos", others)

    def run(**options: Any) -> RunRecord:
        job = load_job(manifest=str(others), output=str(tmp_path / "out"), preset=fake_preset)
        return run_job(job.with_run(**options))[1]

    assert run().done_before == 4, "the photos have only moved"
    assert not [one for one in logged if one.levelno >= logging.WARNING]
    make_photos(tmp_path / "new", 4, first=20)
    new = sorted((tmp_path / "new").iterdir())
    for old, photo in zip(sorted(others.rglob("*.jpg")), new, strict=True):
        photo.rename(old)
    with pytest.raises(
        ConfigError, match=r"have the ids of finished items in .* but other images, boxes or points: .*photo-00.*others"
    ):
        run()
    report = verify(output, open_manifest(str(others), FILES))
    assert report.counts == {"other": 4}
    assert run(changed=True).done_before == 0
    assert run().done_before == 4
    assert verify(output, open_manifest(str(others), FILES)).sound


def test_some_other_boxes_are_told(
    go: Callable[..., RunRecord], tmp_path: Path, fake_preset: str, logged: list[logging.LogRecord]
) -> None:
    def manifest(box: str) -> str:
        rows = ["image_uri,item_id,box", f'photos/photo-000.jpg,a,"{box}"', "photos/photo-001.jpg,b,"]
        (tmp_path / "m.csv").write_text("\n".join(rows))
        return str(tmp_path / "m.csv")

    def run(box: str) -> RunRecord:
        return run_job(load_job(manifest=manifest(box), output=str(tmp_path / "skus"), preset=fake_preset))[1]

    go()
    run("[1, 1, 90, 80]")
    assert run("[1, 1, 90, 70]").done_before == 2
    (told,) = [one.getMessage() for one in logged if "another image, box or point" in one.getMessage()]
    assert told.startswith("about 50.0% of the finished items") and "with the box 1,1,90,80 and is" in told


def test_a_manifest_without_a_usable_row_is_refused_before_the_output_changes(tmp_path: Path, fake_preset: str) -> None:
    rows = ["image_uri,x0,y0,x1,y1", *(f"photos/{row}.jpg,90,5,{row},50" for row in range(30)), "photos/x.jpg,1,,,"]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    with pytest.raises(
        ConfigError, match=r"none of the manifest's 31 rows can be used. The most frequent reason \(30 rows\): box "
    ):
        run_job(load_job(manifest=str(tmp_path / "m.csv"), output=str(tmp_path / "out"), preset=fake_preset))
    assert not list((tmp_path / "out").rglob("*.json"))


def test_every_run_leaves_a_record(go: Callable[..., RunRecord], output: Output) -> None:
    runs = [go().run_id, go().run_id, go().run_id]
    latest = last_run(output)
    assert latest is not None and latest["run_id"] == runs[-1] and latest["outcome"] == "complete"
    assert len(list(Path(output.layout.runs).iterdir())) == 3


@pytest.mark.parametrize("damage", ["missing", "flipped", "part"])
def test_what_verify_repairs_is_made_again(go: Callable[..., RunRecord], tmp_path: Path, output: Output, damage: str) -> None:
    go()
    path = Path(output.layout.uri("masks/photo-000.png"))
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.write_bytes(bytes(data))
    else:
        (part,) = Path(output.layout.index).iterdir()
        part.write_bytes(part.read_bytes()[:100])
        with pytest.raises(Exception, match="verify --repair"):
            go()
    report = repair(output, "repair")
    assert not report.sound and report.repaired == (0 if damage == "part" else 1)
    record = go()
    assert record.ok + record.review == (4 if damage == "part" else 1)
    check(output, tmp_path)


def test_an_output_can_be_moved(go: Callable[..., RunRecord], tmp_path: Path, fake_preset: str) -> None:
    go(renditions=("transparent",))
    shutil.move(tmp_path / "out", tmp_path / "far" / "away")
    moved = open_output(str(tmp_path / "far" / "away"), FILES)
    assert verify(moved).sound
    where = {"manifest": str(tmp_path / "photos"), "output": str(tmp_path / "far" / "away"), "preset": fake_preset}
    plan, record = run_job(load_job(**where, renditions=("transparent",)))
    assert (plan.todo, record.exit_code) == (0, 0)


def test_folders_that_no_run_wrote_are_left_alone(go: Callable[..., RunRecord], tmp_path: Path) -> None:
    (tmp_path / "out" / "masks").mkdir(parents=True)
    (tmp_path / "out" / "masks" / "mine.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="has a folder masks that no run wrote"):
        go()


def test_outputs_of_the_old_layout_are_refused_in_one_sentence(go: Callable[..., RunRecord], tmp_path: Path) -> None:
    (tmp_path / "out" / "fake-0123456789ab").mkdir(parents=True)
    (tmp_path / "out" / "fake-0123456789ab" / "recipe.json").write_text("{}")
    with pytest.raises(ConfigError, match="was written by matteline before 0.2.*into another output"):
        go()


def test_two_items_cannot_share_a_name(go: Callable[..., RunRecord], tmp_path: Path, make_photos: MakePhotos) -> None:
    go()
    (tmp_path / "photos" / "photo-001.jpg").rename(tmp_path / "photos" / "PHOTO-000.jpg")
    with pytest.raises(ConfigError, match=r"'photo-000.jpg'.*'PHOTO-000.jpg'|'PHOTO-000.jpg'.*'photo-000.jpg'"):
        go()
    (tmp_path / "photos" / "PHOTO-000.jpg").rename(tmp_path / "photos" / "Photo-001.jpg")
    with pytest.raises(ConfigError, match=r"'photo-001.jpg' and 'Photo-001.jpg' would share the file name"):
        go()


def test_a_template_names_files_by_columns(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 2)
    table = ["image_uri,item_id,sku", "photos/photo-000.jpg,a/1,S-1", "photos/photo-001.jpg,b?2,S-2"]
    (tmp_path / "m.csv").write_text("\n".join(table))
    where = {"manifest": str(tmp_path / "m.csv"), "preset": fake_preset}
    run_job(load_job(**where, output=str(tmp_path / "ids"), overrides=["recipe.outputs=[mask]"]))
    assert files_of(tmp_path / "ids") == ["masks/a/1.png", "masks/b%3F2.png"]
    run_job(load_job(**where, output=str(tmp_path / "skus"), overrides=["recipe.outputs=[mask]", "output.name={sku}/{image}"]))
    assert files_of(tmp_path / "skus") == ["masks/S-1/photos/photo-000.png", "masks/S-2/photos/photo-001.png"]
    with pytest.raises(ConfigError, match="output.name '{ean}' needs a column 'ean'; .* has item_id, image, suffix, sku"):
        run_job(load_job(**where, output=str(tmp_path / "eans"), overrides=["output.name={ean}"]))
    assert json.loads((tmp_path / "skus" / "_matteline" / "recipe.json").read_text())["output_name"] == "{sku}/{image}"


def test_a_run_without_work_needs_neither_ray_nor_pytorch(
    go: Callable[..., RunRecord], tmp_path: Path, fake_preset: str
) -> None:
    """Importing them takes seconds."""
    go()
    code = (
        "import sys; from pipeline.config.job import load_job; from pipeline.run.driver import run_job\n"
        f"plan, record = run_job(load_job(manifest='photos', output='out', preset={fake_preset!r}))\n"
        "print(record.exit_code, plan.todo, sorted({'ray', 'torch', 'cv2', 'onnxruntime'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "0 0 []\n", done
