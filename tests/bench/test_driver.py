"""``matteline bench``, from photos to JSON, and its parts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jobs.main import app
from pipeline.bench.driver import run_bench
from pipeline.bench.machine import describe
from pipeline.bench.peers import compare_with_rembg, mask_difference
from pipeline.bench.photos import find_photos, write_manifest
from pipeline.errors import ConfigError
from pipeline.log import log
from pipeline.output.output import Output
from pipeline.storage.files import Files

MakePhotos = Callable[..., list[Path]]


@pytest.mark.usefixtures("ray_session")
def test_everything_is_measured_printed_and_written(
    tmp_path: Path,
    make_photos: MakePhotos,
    fake_preset: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log, "handlers", [])  # the command replaces them
    monkeypatch.setenv("PATH", "")  # without rembg
    make_photos(tmp_path / "photos", 5)
    what = ["--preset", fake_preset, "--images", str(tmp_path / "photos"), "--items", "100", "--json", str(tmp_path / "json")]
    settings = ["--set", "compute.rows_per_block=5", "--set", "compute.batch_size=5"]
    app(["bench", "--quick", *what, *settings], standalone_mode=False)
    result = json.loads((tmp_path / "json").read_text())
    assert result["schema"] == 2 and result["photos"] == 5 and result["machine"]["versions"]["torch"]
    assert result["rates"]["fp32"] > 0
    assert [(one["mode"], one["batch"], one["gflops"]) for one in result["models"]] == [("eager", 1, None), ("eager", 5, None)]
    (stages,), (job,) = result["stages"], result["jobs"]
    assert all(ms > 0 for ms in stages["ms"].values()) and stages["ms"]["around the model"] > stages["ms"]["frame"]
    assert job["items"] == 100 and 0 < job["counted"] < 100
    assert job["efficiency"] == pytest.approx(job["items_per_s"] / job["model_items_per_s"])
    printed = capsys.readouterr().out
    for number in (f"{result['rates']['fp32']:.0f}", f"{stages['ms']['decode']:.1f}", f"{job['efficiency']:.2f}"):
        assert number in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_mode_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match="no CUDA GPU on this machine"):
        run_bench(["u2netp"], [], "", gpu=True)


def test_a_manifest_cycles_through_the_photos(tmp_path: Path, make_photos: MakePhotos) -> None:
    make_photos(tmp_path / "photos", 3)
    photos = find_photos(str(tmp_path / "photos"), Files())
    rows = pq.read_table(write_manifest(photos, 7, tmp_path / "manifest.parquet")).to_pylist()
    assert len({row["item_id"] for row in rows}) == 7
    assert [row["image_uri"] for row in rows] == [*photos.uris, *photos.uris, photos.uris[0]]
    assert photos.allowlist == (str(tmp_path / "photos"),)


def test_masks_are_compared_with_rembg_s(make_output: Callable[..., None], tmp_path: Path) -> None:
    """Our masks are 255 in 400 of 1200 pixels; every pixel of rembg's is 100."""
    output = Output.at(str(tmp_path / "out"), Files())
    make_output(output, count=3, photos=tmp_path, failed=0)
    for number in range(3):
        Image.new("RGBA", (40, 30), (0, 0, 0, 100)).save(tmp_path / f"{number}.png")
    assert mask_difference(tmp_path, output) == pytest.approx((155 * 400 + 100 * 800) / 1200)


def test_a_failure_of_rembg_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="false p -m u2netp … failed with exit code 1"):
        compare_with_rembg("false", tmp_path, tmp_path / "work")


def test_the_commit_is_this_checkout_s() -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    commit = describe().commit
    assert commit and head.stdout.startswith(commit.rstrip("+"))
