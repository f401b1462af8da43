"""Videos on the report page: the worst moments as pictures, the numbers, and the video itself."""

from __future__ import annotations

import base64
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.job import load_job
from pipeline.output.output import Output
from pipeline.review import videos
from pipeline.review.content import pictures_of
from pipeline.review.entry import Entry
from pipeline.review.pages import Options, report_page
from pipeline.review.pictures import load_entries
from pipeline.run.driver import run_job
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "video"))
from clips import frames, write_clip

Load = Callable[..., Entry]


@pytest.fixture
def load(tmp_path: Path, fake_preset: str) -> Load:
    """``load("webm,mov")`` cuts out a part of a clip of four seconds with these files, and loads its pictures."""
    clips = tmp_path / "clips"
    clips.mkdir()
    write_clip(clips / "a.mp4", frames(100, 48, 64), sound=["aac"])
    (tmp_path / "m.csv").write_text("item_id,video_uri,start_s\na,clips/a.mp4,1\n")

    def run(files: str, roots: tuple[str, ...] = (str(clips),)) -> Entry:
        where = {"manifest": str(tmp_path / "m.csv"), "output": str(tmp_path / "out"), "preset": fake_preset}
        run_job(load_job(**where, overrides=[f"recipe.videos={files}", "recipe.review_below=0.99"]))
        (entry,) = load_entries(Output.at(str(tmp_path / "out"), Files()), AllowList(roots), ["a"])
        return entry

    return run


def shown(webp: bytes | None) -> np.ndarray:
    assert webp is not None
    return np.asarray(Image.open(io.BytesIO(webp)).convert("RGBA"))


def test_the_worst_moments_are_pictures(load: Load) -> None:
    entry = load("webm,mov")
    assert entry.missing == [] and entry.views is not None and entry.played is not None
    worst = entry.row["video_facts"]["worst"]
    assert [one.name for one in entry.renditions] == [
        f"at {one['at_s']:.1f} s, quality {one['quality']:.2f}" for one in worst[1:]
    ]
    at = round((1 + worst[0]["at_s"]) * 25)
    photo, cutout, wanted = shown(entry.views.photo), shown(entry.views.cutout), frames(100, 48, 64)[at]
    assert np.abs(photo[..., :3].astype(int) - wanted).mean() < 6, "the frame of that moment"
    assert cutout.shape[:2] == (48, 64) and cutout[0, 0, 3] < 30
    content: Any = pictures_of(entry)
    assert content["about"].startswith("75 frames, 3.0 s, worst moment at ")
    assert content["linked"] == {
        "path": "cutouts/a.webm",
        "width": 64,
        "height": 48,
    }
    kind, data = content["play"]["src"].split(",")
    assert kind == "data:video/webm;base64" and base64.b64decode(data)[:4] == b"\x1aE\xdf\xa3"


@pytest.mark.parametrize(("files", "kind"), [("mask", "video/mp4"), ("mp4", "video/mp4"), ("mov", None)])
def test_any_file_will_do(load: Load, files: str, kind: str | None) -> None:
    entry = load(files)
    assert entry.missing == [] and entry.views is not None and (entry.views.cutout is None) == (files == "mp4")
    assert (entry.played and entry.played.kind) == kind


def test_what_cannot_be_shown_is_said(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "PLAYED_BYTES", 10)
    entry = load("webm", ())
    assert {one.kind for one in entry.missing} == {"photo"} and "outside the allowed roots" in entry.missing[0].reason
    assert entry.played is None and entry.views is not None and entry.views.photo is None
    (tmp_path / "out" / "cutouts" / "a.webm").unlink()
    output = Output.at(str(tmp_path / "out"), Files())
    (entry,) = load_entries(output, AllowList((str(tmp_path),)), ["a"])
    assert {one.kind for one in entry.missing} == {"cutout"} and entry.views is not None and entry.views.photo is not None
    page = report_page(output, 5, Options(str(tmp_path / "out" / "report.html"), (str(tmp_path),)))
    assert b"75 frames, 3.0 s" in page.html and page.pictured == 1
    monkeypatch.setattr("pipeline.video.extra.find_spec", lambda _: None)
    (entry,) = load_entries(output, AllowList((str(tmp_path),)), ["a"])
    assert "pip install 'matteline[video]'" in entry.missing[0].reason


@pytest.mark.browser
def test_a_large_video_is_played_from_its_file(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser: ModuleType
) -> None:
    monkeypatch.setattr(videos, "PLAYED_BYTES", 10)
    load("webm")
    path = tmp_path / "out" / "report.html"
    path.write_bytes(report_page(Output.at(str(tmp_path / "out"), Files()), 5, Options(str(path), (str(tmp_path),))).html)
    if (found := browser.find()) is None:
        pytest.skip("no browser is installed")
    with browser.Browser(found) as tab:
        tab.open(path)
        played = "document.querySelector('video.player')"
        assert tab.run(f"{played}.preload") == "none" and tab.run(f"{played}.readyState") == 0
        tab.run(f"{played}.play(); 0")
        until = time.monotonic() + 20
        while tab.run(f"{played}.readyState") < 2 and time.monotonic() < until:
            time.sleep(0.05)
        assert tab.run(f"{played}.videoWidth") == 64 and tab.run(f"{played}.error") is None
        assert tab.run("document.querySelector('video.player + a').textContent") == "Open the video"


def test_paths_of_the_index_stay_inside(tmp_path: Path) -> None:
    file = {"name": "webm", "path": "../a.webm", "bytes": 1, "width": 1, "height": 1}
    facts = {
        "frames": 1,
        "seconds": 1.0,
        "flicker": None,
        "worst": [{"at_s": 0.0, "quality": 0.5}],
        "notes": [],
        "files": [file],
    }
    entry = Entry({"item_id": "a", "image_uri": "/x/a.mp4", "video_facts": facts})
    videos.load_video(Output.at(str(tmp_path), Files()), AllowList(()), entry)
    assert [one.kind for one in entry.missing] == ["cutout", "photo", "video"]
    assert "not a path inside the output" in entry.missing[0].reason
