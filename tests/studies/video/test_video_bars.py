"""Does a long video stay within its memory, and do decoding, the model and encoding overlap?

``LENGTH`` are the seconds of the long video (default: 600, of five frames each), ``FRAMES`` the frames that the overlap is
measured on (default: 120). ``-k memory`` and ``-k overlap`` run one of the two.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from clips import write_clip

from pipeline import Segmenter
from pipeline.config.job import Limits, Storage
from pipeline.storage.files import Files
from pipeline.video.cut import cut_video
from pipeline.video.draw import Draw
from pipeline.video.forms import WEBM

LENGTH_S = int(os.environ.get("LENGTH", "600"))
FRAMES = int(os.environ.get("FRAMES", "120"))
RATE = 5
"""Frames per second of the long video: memory may grow with its frames and its seconds, and time does with its frames."""
FULL_HD, HD = (1080, 1920), (720, 1280)


def moving(height: int, width: int, count: int) -> list[np.ndarray]:
    """Return frames with a dark disc on a light ground, (height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    made = []
    for number in range(count):
        alpha = np.clip((height / 5 - np.hypot(y - height / 2, x - width * (0.4 + 0.01 * number))) / 6 + 0.5, 0, 1)[..., None]
        made.append(np.rint(np.array([210, 190, 170]) * (1 - alpha) + np.array([60, 20, 20]) * alpha).astype(np.uint8))
    return made


def to_and_fro(pictures: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Return so many frames of a few pictures, which are not copied."""
    return list(islice(cycle([*pictures, *pictures[-2:0:-1]]), count))


@dataclass
class Peak:
    """The highest resident memory in MiB: of all processes together, and of each by its command and id."""

    all: float = 0.0
    each: dict[str, float] = field(default_factory=dict)


@contextmanager
def peak_mib(process: psutil.Process) -> Iterator[Peak]:
    """Sample the resident memory of a process and its children."""
    peak, over = Peak(), threading.Event()

    def sample() -> None:
        while not over.wait(0.2):
            found: dict[str, float] = {}
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    found[f"{' '.join(one.cmdline()[1:4])[-60:]} ({one.pid})"] = one.memory_info().rss / 2**20
            peak.all = max(peak.all, sum(found.values()))
            peak.each |= {name: max(mib, peak.each.get(name, 0.0)) for name, mib in found.items()}

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


@pytest.mark.study
@pytest.mark.timeout(4 * 3600)
def test_a_long_video_stays_within_its_memory(tmp_path: Path, matteline: str, fake_preset: str, bars: Any) -> None:
    (tmp_path / "clips").mkdir()
    began = time.monotonic()
    write_clip(
        tmp_path / "clips" / "long.mp4",
        to_and_fro(moving(*FULL_HD, 12), RATE * LENGTH_S),
        times_ms=[1000 * number // RATE for number in range(RATE * LENGTH_S)],
        pixel_format="yuv420p",
        options={"preset": "ultrafast", "crf": "30"},
        sound=["aac"],
    )
    made_s, began = time.monotonic() - began, time.monotonic()
    command = [matteline, "run", "-m", "clips", "-o", "out", "-p", fake_preset, "--set", "recipe.videos=mp4"]
    with psutil.Popen(command, cwd=tmp_path) as run, peak_mib(run) as peak:
        assert run.wait() == 0
        took_s = time.monotonic() - began
    print(
        f"\n{LENGTH_S} s in Full HD, written in {made_s:.0f} s, cut out in {took_s:.0f} s: {peak.all:.0f} MiB of all processes"
    )
    for name, mib in sorted(peak.each.items(), key=lambda one: -one[1]):
        print(f"  {mib:5.0f} MiB  {name}")
    bars.at_most(f"MiB of the largest process, {LENGTH_S} s in Full HD", max(peak.each.values()), 1536)


@pytest.mark.study
@pytest.mark.timeout(3600)
def test_decoding_and_encoding_overlap_with_the_model(tmp_path: Path, bars: Any) -> None:
    pictures = to_and_fro(moving(*HD, 12), FRAMES)
    clip = write_clip(tmp_path / "clip.mp4", pictures, pixel_format="yuv420p", sound=["aac"])
    segmenter = Segmenter()
    segmenter(pictures[0])  # the first pass takes longer
    alone_s = _seconds(lambda: segmenter.segment(pictures, [None] * len(pictures)))
    target = str(tmp_path / "clip.webm")
    job_s = _seconds(lambda: cut_video(str(clip), target, WEBM, Draw("cutout"), lambda: segmenter, Files(Storage()), Limits()))
    print(f"\nmodel alone {alone_s:.1f} s, cut {job_s:.1f} s, {FRAMES} frames")
    bars.at_least("frames per second of cut ÷ those of the model alone", alone_s / job_s, 0.8)


def _seconds(work: Callable[[], Any]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
