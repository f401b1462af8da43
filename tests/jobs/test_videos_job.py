"""A folder of a video and a picture through the commands: run, show, plan, verify, report, compare, data set; and on S3."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "video"))
from clips import frames, write_clip

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def clips(tmp_path: Path, make_photos: Callable[..., Any]) -> Path:
    folder = tmp_path / "clips"
    make_photos(folder, 1)
    write_clip(folder / "turn.mp4", frames(10, 48, 64), sound=["aac"])
    return folder


def test_commands_know_videos(matteline: Command, clips: Path, tmp_path: Path, fake_preset: str) -> None:
    job = ("-m", "clips", "-o", "out", "-p", fake_preset)
    planned = re.sub(r"\s+", " ", matteline("plan", *job, env={"COLUMNS": "200"}).stdout)
    assert "videos 1 of the items, about 10 frames, 0 s, by the headers of 1 of them" in planned
    done = matteline("run", *job, "--set", "recipe.video_background=#102030", "--set", "recipe.videos=webm,mp4")
    assert done.returncode == 0, done.stderr
    shown = matteline("show", "out", env={"COLUMNS": "200"}).stdout
    assert "2 items" in shown and re.search(r"videos +out/cutouts/turn\.\w+: 10 frames, 0 s", shown) and "frames/s" in shown
    assert "cutouts  out/cutouts/photo-000.png\n" in shown, "of the pictures"
    facts = json.loads(matteline("show", "out", "--json").stdout)[0]
    assert facts["videos"] == {"count": 1, "frames": 10, "seconds": pytest.approx(0.4)} and facts["last_run"]["frames"] == 10
    checked = matteline("verify", "out")
    assert checked.returncode == 0 and "2 rows; 4 objects read" in checked.stdout and "sound" in checked.stdout
    assert matteline("report", "out").returncode == 0
    assert "data:video/webm;base64" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert matteline("gc", "out", "--min-age", "0", "--delete").returncode == 0
    assert sorted(path.name for path in (tmp_path / "out" / "cutouts").iterdir()) == ["photo-000.png", "turn.mp4", "turn.webm"]
    assert matteline("top", "out").returncode == 0
    assert matteline("compare", "out", "out").returncode == 0
    assert matteline("dataset", "out", "--coco", "set").returncode == 0
    changed = matteline("run", *job, "--changed", "--set", "recipe.video_background=#102030", "--set", "recipe.videos=webm,mp4")
    assert changed.returncode == 0 and '"0 of 2 items to do"' in changed.stderr
    write_clip(clips / "turn.mp4", frames(7, 48, 64))
    matteline("run", *job, "--changed", "--set", "recipe.video_background=#102030", "--set", "recipe.videos=webm,mp4")
    assert json.loads(matteline("show", "out", "--json").stdout)[0]["videos"]["frames"] == 7
    (clips / "turn.mp4").write_bytes((clips / "turn.mp4").read_bytes()[:600])
    cut = matteline("run", "-m", "clips", "-o", "second", "-p", fake_preset)
    assert cut.returncode == 0
    assert "this file is damaged or cut off" in re.sub(r"\s+", " ", matteline("show", "second", env={"COLUMNS": "200"}).stdout)


def test_videos_on_s3(matteline: Command, s3: Any, clips: Path, fake_preset: str) -> None:
    bucket = s3.make_bucket()
    s3.put(bucket, "shop/clips/turn.mp4", (clips / "turn.mp4").read_bytes())
    s3.put(bucket, "shop/clips/bad.mp4", b"no video")
    s3.put(
        bucket, "shop/m.csv", b"item_id,video_uri,start_s\na/1,clips/turn.mp4,\na/2,clips/turn.mp4,0.2\nbad,clips/bad.mp4,\n"
    )
    job = ("-m", f"s3://{bucket}/shop/m.csv", "-o", f"s3://{bucket}/out", "-p", fake_preset, "--set", "recipe.videos=webm,mask")
    done = matteline("run", *job, env=s3.environment)
    assert done.returncode == 0, done.stderr
    keys = s3.keys(bucket, "out/")
    rows = [row for key in keys if "/index/" in key for row in pq.read_table(io.BytesIO(s3.get(bucket, key))).to_pylist()]
    made = {row["item_id"]: row["video_facts"] and row["video_facts"]["frames"] for row in rows}
    assert made == {"a/1": 10, "a/2": 5, "bad": None}
    with av.open(io.BytesIO(s3.get(bucket, "out/cutouts/a/1.webm"))) as video:
        assert sum(1 for _ in video.decode(video=0)) == 10 and len(video.streams.audio) == 1
    assert "out/masks/a/2.mp4" in keys and not [key for key in keys if "overwrites" in key]
    assert matteline("verify", f"s3://{bucket}/out", env=s3.environment).returncode == 0
