"""``matteline bench`` from photos to JSON. That the command itself runs, the README's test sees."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.main import app
from pipeline.bench.machine import describe
from pipeline.bench.peers import Peer, compare, find_rembg, side_by_side
from pipeline.bench.photos import find_photos, write_manifest
from pipeline.config.job import Storage, load_job
from pipeline.errors import ConfigError
from pipeline.log import log
from pipeline.run.driver import run_job
from pipeline.storage.files import Files

ROOT = Path(__file__).resolve().parents[3]
MakePhotos = Callable[..., list[Path]]


@pytest.mark.usefixtures("ray_session")
def test_the_command(
    tmp_path: Path,
    make_photos: MakePhotos,
    fake_preset: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything is measured, printed and written."""
    monkeypatch.setattr(log, "handlers", [])  # to have them back afterwards
    make_photos(tmp_path / "photos", 5)
    what = ["--preset", fake_preset, "--images", str(tmp_path / "photos"), "--items", "100", "--json", str(tmp_path / "json")]
    settings = ["--set", "compute.rows_per_block=5", "--set", "compute.batch_size=5"]
    app(["bench", "--quick", *what, *settings], standalone_mode=False)
    told = json.loads((tmp_path / "json").read_text())
    assert told["schema"] == 1 and told["photos"] == 5 and told["machine"]["versions"]["torch"]
    assert told["rates"]["fp32"]["gflops"] == max(told["rates"]["fp32"]["candidates"].values()) > 0
    assert [(one["batch"], one["gflops"]) for one in told["models"]] == [(1, None), (5, None)]
    (stages,), (job,) = told["stages"], told["jobs"]
    assert all(ms > 0 for ms in stages["ms"].values()) and stages["ms"]["around the model"] > stages["ms"]["frame"]
    assert job["whole"]["items"] == 100 and 0 < job["whole"]["counted"] < 100
    assert job["efficiency"] == pytest.approx(job["whole"]["items_per_s"] / job["model_items_per_s"])
    printed = capsys.readouterr().out
    for number in (f"{told['rates']['fp32']['gflops']:.0f}", f"{stages['ms']['decode']:.1f}", f"{job['efficiency']:.2f}"):
        assert number in printed


def test_items_go_round_the_photos(tmp_path: Path, make_photos: MakePhotos) -> None:
    import pyarrow.parquet as pq

    make_photos(tmp_path / "photos", 3)
    photos = find_photos(str(tmp_path / "photos"), Files(Storage()))
    rows = pq.read_table(write_manifest(photos, 7, tmp_path / "manifest.parquet")).to_pylist()
    assert len({row["item_id"] for row in rows}) == 7
    assert [rows.index(row) % 3 for row in rows] == [photos.uris.index(row["image_uri"]) for row in rows]
    assert photos.allowlist == (str(tmp_path / "photos"),)


@pytest.mark.usefixtures("ray_session")
def test_a_peer_beside_ours(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    """It has written a file every half second, and everything is 100 of 255 opaque."""
    photos = make_photos(tmp_path / "photos", 60)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for number, path in enumerate(photos):
        photo = Image.open(path)
        photo.putalpha(100)
        photo.save(theirs / f"{path.stem}.png")
        os.utime(theirs / f"{path.stem}.png", (0, 1000 + number / 2))
    out = tmp_path / "out"
    settings = ["compute.rows_per_block=3", "compute.batch_size=3"]
    plan, _ = run_job(load_job(manifest=str(tmp_path / "photos"), output=str(out), preset=fake_preset, overrides=settings))
    found = compare("rembg 0.0", theirs, 40.0, plan.layout, 10.0, plan.layout, Files(Storage()))
    assert found.rembg == Peer("rembg 0.0", 40.0, 1.5, pytest.approx(2.0))
    assert (found.images, found.ours.whole_s, found.ours.images_per_s_whole, found.times_as_fast_whole) == (60, 10, 6, 4)
    assert found.times_as_fast == pytest.approx(found.ours.images_per_s / 2)
    masks = {path: np.asarray(Image.open(path), int) for path in out.rglob("masks/*/*.png")}
    assert len(masks) == 60
    assert found.mask_difference == pytest.approx(np.mean([np.abs(mask - 100).mean() for mask in masks.values()]))


def test_a_peer_that_fails_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no rembg at"):
        find_rembg(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="false p -m u2netp … ended with 1"):
        side_by_side("false", tmp_path, tmp_path / "work")


def test_the_commit_is_this_checkout_s() -> None:
    found = describe().commit
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (found or "").rstrip("+") == head.stdout.strip()
