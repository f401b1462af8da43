"""Runs over videos that are killed: in a segment, between the segments and the file, in the file, between the file and its row.

Every video ends as one row and whole files, and the model sees no finished segment again.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest

from pipeline.video.segments import SEGMENT_FRAMES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "video"))
from clips import frames, write_clip

pytestmark = [pytest.mark.study, pytest.mark.timeout(900)]

FRAMES = 5 * SEGMENT_FRAMES + 100
"""Five complete segments, which are two stretches."""

ITEMS = {"long": FRAMES, "short": 30}


def numbered(count: int, first: int) -> list[np.ndarray]:
    """Frames of which no two are the same for the model: twelve squares in the corner are their number."""
    made = frames(count, 24, 32)
    for number, picture in enumerate(made, first):
        bits = np.array([number >> bit & 1 for bit in range(12)], np.uint8).reshape(3, 4)
        picture[:12, :16] = (255 * bits.repeat(4, 0).repeat(4, 1))[..., None]
    return made


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A manifest of a long and a short video."""
    folder = tmp_path_factory.mktemp("videos")
    for name, first in (("long", 0), ("short", FRAMES)):
        write_clip(folder / f"{name}.mp4", numbered(ITEMS[name], first), sound=["aac"])
    with (folder / "videos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("item_id", "video_uri"), *((name, f"{name}.mp4") for name in ITEMS)])
    return str(folder / "videos.csv")


@pytest.fixture
def trial(
    request: pytest.FixtureRequest,
    trial_module: ModuleType,
    videos: str,
    fake_preset: str,
    bars: Any,
    tmp_path: Path,
    engine: str,
) -> Callable[[str], Any]:
    """``trial(fault)``: a trial with the videos."""
    rows = request.config.stash.setdefault(trial_module.ROWS, [])

    def make(fault: str) -> Any:
        place = trial_module.Disk(str(tmp_path / "out"))
        name = f"{fault}, without Ray" if engine == "process" else fault
        settings = ["compute.actors=2", "compute.cpus_per_actor=1"] if engine == "ray" else []
        options = {"engine": engine, "settings": settings, "faults": {"sleep_s": 0.002}}
        return trial_module.Trial(name, place, videos, fake_preset, tmp_path, list(ITEMS), bars, rows, **options)

    return make


def kept(out: Path) -> int:
    """Segments whose masks are kept."""
    return len(list((out / "_matteline" / "masks").glob("*/*.parquet")))


def is_written(out: Path) -> bool:
    """Whether the long video's file is being written, with all of its segments known."""
    return kept(out) == FRAMES // SEGMENT_FRAMES and bool(list((out / "cutouts").glob(".long.webm.*")))


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "video: killed in a segment": lambda out: kept(out) >= 2,
    "video: killed after the last segment": lambda out: kept(out) == FRAMES // SEGMENT_FRAMES,
    "video: killed in the file": is_written,
    "video: killed between the file and its row": lambda out: (out / "cutouts" / "long.webm").exists(),
}


@pytest.mark.parametrize("fault", MOMENTS)
def test_a_killed_run_goes_on(trial: Callable[[str], Any], trial_module: ModuleType, fault: str, bars: Any) -> None:
    with trial(fault) as suffering:
        out, run = Path(suffering.place.output), suffering.start()
        trial_module.wait_until(lambda: MOMENTS[fault](out) or run.poll() is not None, fault, trial_module.RUN_S)
        if "segment" in fault:
            time.sleep(0.1)
        assert run.poll() is None, f"the run was over before it could be killed: {suffering.said()[-1500:]}"
        run.kill()
        run.wait()
        time.sleep(2)  # workers notice that their run is gone
        before = len(suffering.segmented())
        suffering.finish()
        again = len(suffering.segmented()) - before
        found = {row["item_id"]: row for row in suffering.index()}
    assert {name: row["video_facts"]["frames"] for name, row in found.items()} == ITEMS
    for name, count in ITEMS.items():
        with av.open(str(out / "cutouts" / f"{name}.webm")) as made:
            assert sum(1 for _ in made.decode(video=0)) == count and len(made.streams.audio) == 1
    assert not kept(out), "what was kept is deleted"
    if "in a segment" not in fault:
        bars.at_most(f"{suffering.fault}: frames segmented again", again, SEGMENT_FRAMES + sum(ITEMS.values()) - FRAMES)
