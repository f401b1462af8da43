"""Are masks of videos steadier than those of every frame alone, and as good? On clips with exact alpha (``scenes``)."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scenes import Scene, make_scenes

from pipeline import Segmenter
from pipeline.video.reader import Frame
from pipeline.video.segments import windows
from pipeline.video.steady import Steady

Masks = Callable[[Scene], list[np.ndarray]]


class Outcome(NamedTuple):
    """Means over the clips: Dice; dtSSD of 1000, the flicker beside the truth's own change; CPU seconds."""

    dice: float
    flicker: float
    seconds: float


def measure(scenes: list[Scene], masks: Masks) -> Outcome:
    scores, began = [], time.process_time()
    made = [masks(scene) for scene in scenes]
    seconds = time.process_time() - began
    for scene, found in zip(scenes, made, strict=True):
        alpha, truth = np.array(found, np.float32) / 255, np.array(scene.alphas, np.float32) / 255
        shown, wanted = alpha >= 0.5, truth >= 0.5
        dice = 2 * (shown & wanted).sum((1, 2)) / np.maximum(1, shown.sum((1, 2)) + wanted.sum((1, 2)))
        change = np.diff(alpha, axis=0) - np.diff(truth, axis=0)
        scores.append((dice.mean(), np.sqrt((change**2).mean((1, 2))).mean() * 1000))
    dice, flicker = np.mean(scores, axis=0)
    return Outcome(float(dice), float(flicker), seconds)


@pytest.mark.study
@pytest.mark.timeout(3600)
def test_masks_are_steady(data: Path, bars: Any) -> None:
    scenes, segmenter = make_scenes(data), Segmenter()
    segmenter(scenes[0].frames[0])  # the first pass takes longer

    def alone(scene: Scene) -> list[np.ndarray]:
        return [one.mask for one in segmenter.segment(scene.frames, [None] * len(scene.frames))]  # type: ignore[union-attr]

    def steady(every: int) -> Masks:
        def masks(scene: Scene) -> list[np.ndarray]:
            frames = [Frame(pixels, number, 1) for number, pixels in enumerate(scene.frames)]
            one = Steady(segmenter, Fraction(1, 25), None, every)
            return [
                masked.mask
                for window in windows(frames, len(frames), segmenter.batch * one.every)
                for masked in one(window.frames)
            ]

        return masks

    before, all_frames, every_second = measure(scenes, alone), measure(scenes, steady(1)), measure(scenes, steady(2))
    print(f"\nevery frame alone {before}\nsteady {all_frames}\nsteady, every: 2 {every_second}")
    bars.at_least("Dice, steady ÷ every frame alone", all_frames.dice / before.dice, 1.0)
    bars.at_most("flicker (dtSSD), steady ÷ every frame alone", all_frames.flicker / before.flicker, 0.85)
    bars.at_least("Dice, every: 2 ÷ every frame alone", every_second.dice / before.dice, 1.0)
    bars.at_most("flicker (dtSSD), every: 2 ÷ every frame alone", every_second.flicker / before.flicker, 0.85)
    bars.at_most("CPU seconds, every: 2 ÷ every frame alone", every_second.seconds / before.seconds, 0.7)
