"""Masks of finished segments are read again, and the others are found as if nothing had happened."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import SegmentError
from pipeline.quality.score import Score
from pipeline.segmenter import Segment
from pipeline.storage.files import Files
from pipeline.types import Size
from pipeline.video import segments
from pipeline.video.masked import segmented
from pipeline.video.reader import Facts, Frame
from pipeline.video.segments import SegmentStore, frames_per_segment, windows
from pipeline.video.steady import MaskedFrame

HEIGHT, WIDTH = 40, 60
FACTS = Facts(Size(HEIGHT, WIDTH), Fraction(1, 25), Fraction(25))


def clip(count: int) -> list[Frame]:
    """A disc that moves over a textured ground."""
    rng = np.random.default_rng(3)
    ground = rng.integers(100, 160, (HEIGHT, WIDTH, 3))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    made = []
    for number in range(count):
        inside = np.hypot(y - 20, x - 10 - number) < 8
        made.append(Frame(np.where(inside[..., None], (230, 20, 20), ground).astype(np.uint8), 3 * number, 3))
    return made


class Model:
    """Finds the disc, with the noise of a model: the quality depends on the frame."""

    batch = 2

    def __init__(self, every: int, breaks_at: int | None = None) -> None:
        self.recipe = SimpleNamespace(every=every, steady=True)
        self.breaks_at, self.asked = breaks_at, 0

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[Any]) -> list[Any]:
        made: list[Any] = []
        for image in images:
            self.asked += 1
            if self.asked == self.breaks_at:
                made.append(SegmentError("broken"))
                continue
            alpha = np.clip(image[..., 0].astype(int) * 2 - 250, 0, 255)
            made.append(Segment(alpha.astype(np.uint8), Score(image.mean() % 1, False, ("stray",), {})))
        return made


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", 7)


def run(model: Any, store: SegmentStore | None, frames: Sequence[Frame], kept: list[int] | None = None) -> list[MaskedFrame]:
    passed = [] if kept is None else kept
    batches = segmented(frames, FACTS, model, None, store, lambda: passed.append(1))
    return [one for batch in batches for one in batch]


def same(some: Sequence[MaskedFrame], others: Sequence[MaskedFrame]) -> bool:
    return len(some) == len(others) and all(
        np.array_equal(one.mask, other.mask) and one[2:] == other[2:] and one.frame.pts == other.frame.pts
        for one, other in zip(some, others, strict=True)
    )


def test_windows_do_not_cross_segments() -> None:
    divided = [(one.segment, [frame.pts // 3 for frame in one.frames], one.ends) for one in windows(clip(17), 7, 4)]
    assert divided == [
        *((0, [0], False), (0, [1, 2, 3, 4], False), (0, [5, 6], True)),
        *((1, [7, 8, 9, 10], False), (1, [11, 12, 13], True), (2, [14, 15, 16], False)),
    ]


def test_segments_of_large_frames_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", 250)
    assert [frames_per_segment(Size(*size)) for size in ((480, 640), (1080, 1920), (4320, 7680), (10**5, 10**5))] == [
        250,
        129,
        8,
        1,
    ]


@pytest.mark.parametrize("every", [1, 2])
def test_an_interrupted_video_goes_on_where_it_was(tmp_path: Path, every: int) -> None:
    store, frames = SegmentStore(str(tmp_path / "kept"), "0" * 16, Files()), clip(20)
    whole = Model(every)
    wanted = run(whole, None, frames)
    kept: list[int] = []
    with pytest.raises(SegmentError, match="broken"):
        run(Model(every, breaks_at=whole.asked - 1), store, frames, kept)
    assert len(kept) == 2 and len(list((tmp_path / "kept").iterdir())) == 2
    again = Model(every)
    assert same(run(again, store, frames, kept), wanted), "masks, qualities and flicker are those of a run without a break"
    assert again.asked < whole.asked / 2 and len(kept) == 2, "the last segment is not complete"


def test_a_short_video_keeps_nothing(tmp_path: Path) -> None:
    store = SegmentStore(str(tmp_path / "kept"), "0" * 16, Files())
    run(Model(1), store, clip(6))
    assert not (tmp_path / "kept").exists()


def test_segments_that_cannot_be_used_are_made_again(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    store, frames = SegmentStore(str(tmp_path / "kept"), "0" * 16, Files()), clip(20)
    wanted = run(Model(1), store, frames)
    first, second = sorted((tmp_path / "kept").iterdir())
    first.write_bytes(first.read_bytes()[:-20])
    others = [one._replace(pts=one.pts + (one.pts > 30)) for one in frames]
    assert not same(run(Model(1), store, others), wanted), "other times"
    assert any("its frames are segmented again" in one.getMessage() for one in logged)
    second.write_bytes(second.read_bytes().replace(b"IDAT", b"IDOT", 1))
    model = Model(1)
    assert same(run(model, store, frames), wanted) and model.asked >= 13
    fresh = SegmentStore(str(tmp_path / "kept"), "1" * 16, Files())
    model = Model(1)
    assert same(run(model, fresh, frames), wanted) and model.asked >= 20, "another key: of another source or recipe"


def test_the_key_depends_on_every_fact(tmp_path: Path) -> None:
    made = {
        SegmentStore.of("x", Files(), facts).key
        for facts in (["a", None], ["a", (1.0, None)], ["b", None], ["a", [1, 2, 3, 4]])
    }
    assert len(made) == 4 and all(len(one) == 16 for one in made)
