"""One object from frame to frame: the box is carried, looked for again when lost, never over a scene cut."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import PromptError, SegmentError
from pipeline.models.cascade import Segment
from pipeline.models.detectors.detector import Detection
from pipeline.quality.score import Score
from pipeline.types import Box
from pipeline.video.carried import Step, steadied
from pipeline.video.flow import both_ways, carry, motion, shrink
from pipeline.video.named import Named, find_first
from pipeline.video.reader import Frame
from pipeline.video.segments import windows
from pipeline.video.steady import MaskedFrame, Steady

HEIGHT, WIDTH = 120, 200


def ground(seed: int) -> np.ndarray:
    """A textured ground of twice the width."""
    rng = np.random.default_rng(seed)
    low, high = (60, 120) if seed == 0 else (140, 180)
    coarse = rng.integers(low, high, (HEIGHT // 12, WIDTH // 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((2 * WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def disc(x: float, y: float, radius: float = 18) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.clip(radius - np.hypot(rows - y, columns - x) + 0.5, 0, 1)


def clip(count: int, seed: int = 0, start: int = 0) -> tuple[list[Frame], list[np.ndarray], list[np.ndarray]]:
    """Frames, and the masks of a red disc that moves to the right and of a blue one that moves to the left."""
    frames, reds, blues = [], [], []
    for number in range(count):
        red, blue = disc(40 + 4 * number, 40), disc(160 - 4 * number, 85)
        picture = ground(seed)[:, 2 * number : 2 * number + WIDTH].astype(float)
        for alpha, colour in ((red, (220, 20, 20)), (blue, (20, 20, 220))):
            picture = picture * (1 - alpha[..., None]) + np.array(colour) * alpha[..., None]
        frames.append(Frame(picture.astype(np.uint8), start + number, 1))
        reds.append(np.rint(red * 255).astype(np.uint8))
        blues.append(np.rint(blue * 255).astype(np.uint8))
    return frames, reds, blues


class Fickle:
    """A model that finds the red disc in every second frame and else the blue one, or the one that a box is about."""

    batch = 2

    def __init__(self, stubborn: Sequence[int] = ()) -> None:
        self.asked: list[tuple[int, Box | None]] = []
        self.stubborn = stubborn
        """Frames in which it finds the blue disc although the box is about the red one."""

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[Box | None]) -> list[Any]:
        made = []
        for image, box in zip(images, boxes, strict=True):
            red = (image[..., 0] > 190) & (image[..., 2] < 60)
            blue = (image[..., 2] > 190) & (image[..., 0] < 60)
            number = round((np.nonzero(red)[1].mean() - 40) / 4)
            self.asked.append((number, box))
            chosen = (red, blue)[number % 2]
            if box is not None:
                inside = np.zeros(red.shape, bool)
                inside[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
                chosen = max((red & inside, blue & inside), key=np.sum)
                chosen = blue if number in self.stubborn else chosen
            elif number in self.stubborn:
                chosen = red
            made.append(Segment((chosen * 255).astype(np.uint8), Score(0.9, False, (), {})))
        return made


def iou(mask: np.ndarray, wanted: np.ndarray) -> float:
    a, b = mask >= 128, wanted >= 128
    return float((a & b).sum() / (a | b).sum())


def run(model: Any, frames: list[Frame], **options: Any) -> list[np.ndarray]:
    steady = Steady(model, Fraction(1, 25), **options)
    divided = windows(frames, len(frames), model.batch * steady.every)
    return [one.mask for window in divided for one in steady(window.frames)]


def test_a_mask_is_carried_with_the_motion() -> None:
    frames, reds, _ = clip(2)
    moved = motion(shrink(frames[1].pixels), shrink(frames[0].pixels))
    assert not moved.is_cut and moved.trust.mean() > 0.6
    carried, _ = carry(reds[0], moved)
    assert iou(carried, reds[1]) > 0.85 > iou(reds[0], reds[1])


def test_both_neighbours_fill_a_hole_of_one_frame() -> None:
    frames, reds, _ = clip(1)
    small = shrink(frames[0].pixels)
    step = Step(*both_ways(small, small))
    with_hole = reds[0].copy()
    y, x = (int(values.mean()) for values in np.nonzero(reds[0]))
    with_hole[y - 3 : y + 4, x - 3 : x + 4] = 0
    masks, flickers = steadied([reds[0], with_hole, reds[0]], None, [None, step, step], 0.6)
    assert masks[1][y, x] == pytest.approx(255 * (1 - 0.4 * 0.4 - 0.6 * 0.6 * 0.4), abs=3)  # the hole reaches the frame after
    assert iou(masks[1], reds[0]) > 0.99
    assert flickers[0] is None
    for number in (1, 2):
        left = np.abs(masks[number].astype(float) - masks[number - 1]).mean() / 255
        assert flickers[number] == pytest.approx(left, abs=1e-4)
    alone, _ = steadied([reds[0], with_hole, reds[0]], None, [None, step, step], 0.0)
    assert alone[1][y, x] == 0


def test_other_scenes_are_cuts() -> None:
    first, other = clip(1)[0][0], clip(1, seed=9)[0][0]
    assert motion(shrink(other.pixels), shrink(first.pixels)).is_cut


def test_the_object_of_the_first_frame_is_kept() -> None:
    frames, reds, blues = clip(8)
    alone = Fickle()
    choices = [one.mask for one in alone.segment([frame.pixels for frame in frames], [None] * 8)]
    assert iou(choices[1], blues[1]) > 0.8, "alone, the model changes its mind"
    model = Fickle()
    masks = run(model, frames)
    assert min(iou(mask, red) for mask, red in zip(masks, reds, strict=True)) > 0.8
    assert [box is None for _, box in model.asked] == [True] + [False] * 7


def test_frames_alone_are_what_the_model_says_of_each() -> None:
    frames, _, _ = clip(8)
    wanted = [one.mask for one in Fickle().segment([frame.pixels for frame in frames], [None] * 8)]
    model, steady = Fickle(), Steady(Fickle(), Fraction(1, 25))
    alone = Steady(model, Fraction(1, 25), alone=True)
    found = [one for window in windows(frames, 8, 2) for one in alone(window.frames)]
    assert all(np.array_equal(one.mask, mask) for one, mask in zip(found, wanted, strict=True))
    assert [number for number, _ in model.asked] == list(range(8)) and not any(box for _, box in model.asked)
    assert alone.agrees(frames[0], wanted[1]), "nothing is expected of a stretch's first mask"
    assert found[0].flicker is None
    carried = [one for window in windows(frames, 8, 2) for one in steady(window.frames)]
    assert min(one.flicker or 0 for one in found[1:]) > 3 * max(one.flicker or 0 for one in carried), "measured, not smoothed"


def test_a_box_in_the_first_frame_chooses_the_object() -> None:
    frames, _, blues = clip(8)
    masks = run(Fickle(), frames, box=Box(138, 63, 182, 107))
    assert min(iou(mask, blue) for mask, blue in zip(masks, blues, strict=True)) > 0.8


def test_an_object_that_is_lost_is_looked_for_in_the_whole_frame() -> None:
    frames, reds, _ = clip(6)
    model = Fickle(stubborn=[3])
    masks = run(model, frames)
    assert min(iou(mask, red) for mask, red in zip(masks, reds, strict=True)) > 0.8
    assert [box is None for number, box in model.asked if number == 3] == [False, True]


def test_a_frame_that_shows_another_object_says_so() -> None:
    frames, _, _ = clip(6)

    class Lost(Fickle):
        """Finds the blue disc in frame 3, with and without a box."""

        def segment(self, images: Sequence[np.ndarray], boxes: Sequence[Box | None]) -> list[Any]:
            made = super().segment(images, boxes)
            for number, image in enumerate(images):
                if self.asked[number - len(images)][0] == 3:
                    blue = (image[..., 2] > 190) & (image[..., 0] < 60)
                    made[number] = Segment((blue * 255).astype(np.uint8), Score(0.9, False, ("stray", "gaps"), {}))
            return made

    steady = Steady(Lost(), Fraction(1, 25))  # type: ignore[arg-type]
    found = [one for window in windows(frames[:5], 5, 2) for one in steady(window.frames)]
    assert found[3].reasons == ("object_changed", "stray") and found[3].quality < 0.1
    assert all(one.reasons == () and one.quality == 0.9 for one in found[:3])


def test_nothing_is_carried_over_a_scene_cut() -> None:
    before, after = clip(4)[0], clip(4, seed=9, start=4)[0]
    model = Fickle()
    run(model, [*before, *after])
    assert [number for number, box in model.asked if box is None] == [0, 0], "the first frame of each scene"


@pytest.mark.parametrize(("every", "seen"), [(2, [0, 2, 4, 6, 7]), (3, [0, 3, 6, 7])])
def test_the_model_sees_every_so_many_frames(every: int, seen: list[int]) -> None:
    frames, reds, _ = clip(8)
    model = Fickle()
    masks = run(model, frames, every=every)
    assert sorted({number for number, _ in model.asked}) == seen
    assert min(iou(mask, red) for mask, red in zip(masks, reds, strict=True)) > 0.7, "and not of the other disc"


def test_frames_before_a_cut_are_carried_from_their_own_scene() -> None:
    before, after = clip(4)[0], clip(4, seed=9, start=4)[0]
    reds = [*clip(4)[1], *clip(4)[1]]
    masks = run(Fickle(), [*before, *after], every=2)
    assert iou(masks[3], reds[3]) > 0.75, "between frame 2 and frame 4, which is another scene"


def test_an_error_of_the_model_names_the_time() -> None:
    failing = SimpleNamespace(batch=2, segment=lambda images, boxes: [SegmentError("out of memory")] * len(images))
    with pytest.raises(SegmentError, match=r"at 0\.00 s: out of memory"):
        run(failing, clip(2)[0])


class Detector:
    """Finds the box of the red disc, if it is there, by the name ``disc``."""

    def __init__(self) -> None:
        self.looks = 0

    def one_each(self, images: Sequence[np.ndarray], names: Sequence[tuple[str, ...]]) -> list[Any]:
        assert names == [("disc",)]
        (image,), self.looks = images, self.looks + 1
        red = (image[..., 0] > 190) & (image[..., 2] < 60)
        if red.sum() < 100:
            return [PromptError("no 'disc' was found")]
        (rows, columns) = np.nonzero(red)
        return [Detection(Box(columns.min() - 2, rows.min() - 2, columns.max() + 3, rows.max() + 3), "disc", 0.9)]


class Salient:
    """A model that finds what is in the box, red or blue; without a box the blue disc."""

    batch = 2

    def __init__(self) -> None:
        self.finder = Detector()
        self.asked = 0

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[Box | None]) -> list[Any]:
        made = []
        for image, box in zip(images, boxes, strict=True):
            self.asked += 1
            red = (image[..., 0] > 190) & (image[..., 2] < 60)
            blue = (image[..., 2] > 190) & (image[..., 0] < 60)
            chosen = blue
            if box is not None:
                inside = np.zeros(red.shape, bool)
                inside[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
                chosen = max((red & inside, blue & inside), key=np.sum)
            made.append(Segment((chosen * 255).astype(np.uint8), Score(0.9, False, (), {})))
        return made


def without_red(frames: list[Frame], seed: int, reds: list[np.ndarray]) -> list[Frame]:
    """The same frames without the red disc."""
    made = []
    for number, (frame, red) in enumerate(zip(frames, reds, strict=True)):
        pixels, hidden = frame.pixels.copy(), red > 0
        pixels[hidden] = ground(seed)[:, 2 * number : 2 * number + WIDTH][hidden]
        made.append(frame._replace(pixels=pixels))
    return made


def run_named(model: Any, frames: list[Frame], pts: int = 0, **options: Any) -> list[MaskedFrame]:
    named = Named(("disc",), pts, Box(20, 20, 60, 60) if not pts else Box(20 + 4 * pts, 20, 60 + 4 * pts, 60))
    steady = Steady(model, Fraction(1, 25), named=named, **options)
    return [one for window in windows(frames, len(frames), model.batch * steady.every) for one in steady(window.frames)]


@pytest.mark.parametrize("every", [1, 2])
def test_a_named_object_is_looked_for_after_a_cut(every: int) -> None:
    (before, reds, _), after = clip(4), clip(4, seed=9, start=4)[0]
    model = Salient()
    found = run_named(model, [*before, *after], every=every)
    assert min(iou(one.mask, red) for one, red in zip(found, [*reds, *reds], strict=True)) > 0.7
    assert model.finder.looks == 1, "in the first frame after the cut"


@pytest.mark.parametrize("every", [1, 2])
def test_a_scene_without_the_named_object_is_empty_until_it_is_found(every: int) -> None:
    (before, *_), (after, later_reds, _) = clip(4), clip(26, seed=9, start=4)
    hidden = without_red(after[:12], 9, later_reds[:12])
    model = Salient()
    found = run_named(model, [*before, *hidden, *after[12:]], every=every)
    empty = [number for number, one in enumerate(found) if not one.mask.any()]
    assert empty == list(range(4, 25)), "found by the look at the second half second"
    assert {(one.quality, one.reasons) for one in found if not one.mask.any()} == {(0.0, ("object_missing",))}
    assert found[25].mask.max() == 255, "the empty mask is not blended into it"
    assert min(iou(found[number].mask, later_reds[number - 4]) for number in range(25, 30)) > 0.7
    assert (model.finder.looks, model.asked < 20) == (3, True)


def test_nothing_is_cut_out_before_the_named_object_is_there() -> None:
    frames, reds, _ = clip(10)
    model = Salient()
    found = run_named(model, [*without_red(frames[:5], 0, reds[:5]), *frames[5:]], pts=5)
    assert [bool(one.mask.any()) for one in found] == [False] * 5 + [True] * 5
    assert {one.quality for one in found} == {0.9, 1.0} and model.asked == 5
    assert min(iou(one.mask, red) for one, red in zip(found[5:], reds[5:], strict=True)) > 0.7
    alone = run_named(Salient(), [*without_red(frames[:5], 0, reds[:5]), *frames[5:]], pts=5, alone=True)
    assert [bool(one.mask.any()) for one in alone] == [False] * 5 + [True] * 5


def test_another_object_in_the_carried_box_is_replaced_by_the_named_one() -> None:
    frames, reds, _ = clip(8)

    class Lost(Salient):
        """Finds the blue disc in the carried box of frame 3, and in any box that is wider than the detector's."""

        def segment(self, images: Sequence[np.ndarray], boxes: Sequence[Box | None]) -> list[Any]:
            wide = [None if box is not None and box.x1 - box.x0 > 41.5 else box for box in boxes]
            return super().segment(images, wide)

    model = Lost()
    found = run_named(model, frames)
    assert min(iou(one.mask, red) for one, red in zip(found, reds, strict=True)) > 0.7
    assert model.finder.looks > 0


def test_a_continued_run_gives_the_same_masks() -> None:
    (before, reds, _), (after, later_reds, _) = clip(6), clip(20, seed=9, start=6)
    frames = [*before[:3], *without_red(before, 0, reds)[3:], *without_red(after[:8], 9, later_reds[:8]), *after[8:]]
    whole = run_named(Salient(), frames)
    for cut in (5, 7, 13, 15):
        model = Salient()
        steady = Steady(model, Fraction(1, 25), named=Named(("disc",), 0, Box(20, 20, 60, 60)))  # type: ignore[arg-type]
        steady.go_on_from(whole[cut - 1])
        rest = [one for start in range(cut, 26, 2) for one in steady(frames[start : start + 2])]
        for one, other in zip(rest, whole[cut:], strict=True):
            assert np.array_equal(one.mask, other.mask) and one.reasons == other.reasons and one.quality == other.quality


def test_the_named_object_may_come_some_seconds_after_the_start() -> None:
    frames, reds, _ = clip(24)
    late = [*without_red(frames[:7], 0, reds[:7]), *frames[7:]]
    model = Salient()
    unit = Fraction(1, 4)
    found = find_first(late[0], lambda: nullcontext(late), unit, ("disc",), model)  # type: ignore[arg-type]
    assert found.named.pts == 8 and found.detection is not None and found.detection.box == found.named.box
    assert found.notes == ("the object is found at 2.00 s; nothing is cut out before",)
    assert model.finder.looks == 5
    with pytest.raises(PromptError, match=r"in the first 5 s of the video: no 'disc' was found"):
        find_first(late[0], lambda: nullcontext(without_red(frames, 0, reds)), unit, ("disc",), model)  # type: ignore[arg-type]
    assert find_first(late[9], lambda: nullcontext([]), unit, ("disc",), model).notes == ()  # type: ignore[arg-type]
