"""A long video in stretches: where they begin, and that their masks are those of the video in one piece, or are found again."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
from clips import frames, variable_times, write_clip

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.manifest.videos import Part
from pipeline.quality.score import Score
from pipeline.segmenter import Segment
from pipeline.storage.files import Files
from pipeline.types import Box
from pipeline.video import segments, stretches
from pipeline.video.masked import segmented
from pipeline.video.reader import VideoReader
from pipeline.video.segments import SegmentStore, frames_per_segment
from pipeline.video.span import ALL, Span, frames_in, span_of
from pipeline.video.stretches import Stretch, divide, find_masks, frame_times

COUNT = 60
FORMS: dict[str, dict[str, Any]] = {
    "mp4": {"options": {"g": "12", "bf": "2"}},
    "matroska": {"options": {"g": "12", "bf": "2"}},
    "webm": {
        "encoder": "libvpx-vp9",
        "pixel_format": "yuv420p",
        "options": {"g": "12", "deadline": "realtime", "cpu-used": "8"},
    },
}


class Model:
    """Finds what is darker than the ground; in the frames ``lost``, without a box, the left edge instead."""

    batch, recipe = 2, SimpleNamespace(every=1, steady=True)

    def __init__(self, lost: Sequence[int] = ()) -> None:
        self.asked, self.lost = 0, lost

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[Box | None]) -> list[Any]:
        made = []
        for image, box in zip(images, boxes, strict=True):
            alpha = ((image[..., 0] < 130) * 255).astype(np.uint8)
            if box is None and self.asked in self.lost:
                alpha[:], alpha[:20, :8] = 0, 255
            self.asked += 1
            made.append(Segment(alpha, Score(float(image.mean() % 1), False, (), {})))
        return made


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", 7)
    monkeypatch.setattr(stretches, "SEGMENTS", 2)


@pytest.fixture(params=FORMS)
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    form = request.param
    pictures = frames(COUNT, 48, 64)
    return write_clip(tmp_path / f"clip.{form}", pictures, times_ms=variable_times(COUNT), container=form, **FORMS[form])


def masks(path: Path, model: Any, span: Span = ALL, store: SegmentStore | None = None) -> list[tuple[int, np.ndarray]]:
    with path.open("rb") as file, VideoReader(file, Limits()) as reader:
        batches = segmented(frames_in(reader, span), reader.facts, model, None, store)
        return [(one.frame.pts, one.mask) for batch in batches for one in batch]


def ahead(path: Path, model: Any, store: SegmentStore, span: Span = ALL, chosen: slice = slice(None)) -> list[Stretch]:
    with path.open("rb") as file, VideoReader(file, Limits()) as reader:
        facts = reader.facts
    with path.open("rb") as file:
        found = divide(frame_times(file, Limits()), frames_per_segment(facts.size), span, float(facts.time_base))
    for stretch in found[chosen]:
        with path.open("rb") as file:
            find_masks(file, Limits(), stretch, span, model, store, lambda: None, lambda: None)
    return found


def test_a_reader_goes_on_from_any_frame(clip: Path) -> None:
    with clip.open("rb") as file, VideoReader(file, Limits()) as reader:
        whole = list(reader)
        first = reader.facts.first_pts
    for number in (0, 1, 11, 12, 13, 37, COUNT - 1):
        with clip.open("rb") as file, VideoReader(file, Limits()) as reader:
            reader.skip_to(whole[number].pts)
            rest = list(reader)
        assert [one.pts for one in rest] == [one.pts for one in whole[number:]]
        assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(rest, whole[number:], strict=True))
    with clip.open("rb") as file, VideoReader(file, Limits()) as reader, pytest.raises(DecodeError, match="has no frame at"):
        reader.skip_to(first + 10**9)


def test_times_of_packets_are_those_of_frames(clip: Path, tmp_path: Path) -> None:
    with clip.open("rb") as file, VideoReader(file, Limits()) as reader:
        wanted = [one.pts for one in reader]
    with clip.open("rb") as file:
        assert frame_times(file, Limits()) == wanted
    (tmp_path / "text.mp4").write_text("no video")
    with (tmp_path / "text.mp4").open("rb") as file:
        assert frame_times(file, Limits()) == []


def test_packets_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """All packets of a video are as large as its file."""
    living = WeakSet[Any]()

    class Packet:
        size, is_discard = 1, False

        def __init__(self, pts: int) -> None:
            self.pts = pts
            living.add(self)

    def demux(_stream: Any) -> Iterator[Any]:
        for number in range(9):
            yield Packet(number)
            assert len(living) <= 1

    stream = SimpleNamespace(disposition=0)
    container = SimpleNamespace(streams=SimpleNamespace(video=[stream]), demux=demux)
    monkeypatch.setattr(stretches, "open_container", lambda *_: nullcontext(container))
    monkeypatch.setattr(stretches, "BEAT_PACKETS", 3)
    beats = list[int]()
    assert frame_times(io.BytesIO(), Limits(), lambda: beats.append(1)) == list(range(9))
    assert len(beats) == 3, "signs of life: the whole file is read"


def test_stretches_begin_with_a_warm_up() -> None:
    times = list(range(0, 600, 10))
    assert divide(times, 7, ALL, 0.001) == [
        *(Stretch(0, 0, 0), Stretch(2, 8, 60), Stretch(4, 8, 200), Stretch(6, 8, 340), Stretch(8, 8, 480)),
    ]
    assert divide(times, 7, Span(0.1, 0.4), 0.001) == [Stretch(0, 0, 100), Stretch(2, 8, 160), Stretch(4, 8, 300)]
    assert divide(times[:14], 7, ALL, 0.001) == [] == divide([], 7, ALL, 0.001)


def test_the_masks_of_stretches_are_used(clip: Path, tmp_path: Path) -> None:
    store = SegmentStore(str(tmp_path / "kept"), "0" * 16, Files())
    assert len(ahead(clip, Model(), store)) == 5
    assert len(list((tmp_path / "kept").iterdir())) == COUNT // 7
    model = Model()
    made, whole = masks(clip, model, store=store), masks(clip, Model())
    assert model.asked == COUNT % 7, "only the last segment, which is not complete"
    assert [pts for pts, _ in made] == [pts for pts, _ in whole]
    pairs = [(one.astype(int), other) for (_, one), (_, other) in zip(made, whole, strict=True)]
    assert max(np.abs(one - other).mean() for one, other in pairs) < 1.0, "of 255: what is carried from before the warm-up"


def test_stretches_of_a_part(clip: Path, tmp_path: Path) -> None:
    store = SegmentStore(str(tmp_path / "kept"), "0" * 16, Files())
    with clip.open("rb") as file, VideoReader(file, Limits()) as reader:
        span = span_of(Part(0.5, 2.4), reader.facts)
    ahead(clip, Model(), store, span)
    model = Model()
    made = masks(clip, model, span, store)
    assert [pts for pts, _ in made] == [pts for pts, _ in masks(clip, Model(), span)]
    assert model.asked == len(made) % 7


def test_a_stretch_of_another_object_is_found_again(clip: Path, tmp_path: Path) -> None:
    store = SegmentStore(str(tmp_path / "kept"), "0" * 16, Files())
    ahead(clip, Model(lost=range(10**6)), store, chosen=slice(2, 3))  # the third stretch shows the left edge
    assert len(list((tmp_path / "kept").iterdir())) == 2
    model = Model()
    made, whole = masks(clip, model, store=store), masks(clip, Model())
    assert model.asked == COUNT
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(made, whole, strict=True))
