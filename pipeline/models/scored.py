"""Run a pass over images of any sizes, and score its masks. One image that fails does not affect the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.config.recipe import Recipe
from pipeline.errors import ItemError, SegmentError
from pipeline.imaging.components import measure_components
from pipeline.imaging.frame import Placement
from pipeline.models.cascade import Segment
from pipeline.models.passes import Pass
from pipeline.models.signal_names import signals_by_name
from pipeline.quality.calibration import Calibration
from pipeline.quality.score import all_signals, score
from pipeline.types import Box, Pixels


def run_scored(
    run_pass: Pass,
    recipe: Recipe,
    calibration: Calibration | None,
    images: Sequence[Pixels],
    boxes: Sequence[Box | None],
    placements: dict[int, Placement],
    detector_scores: Sequence[float | None],
) -> dict[int, Segment | ItemError]:
    """Return masks and scores of one batch, by the number of the image.

    Args:
        run_pass: The loaded model.
        recipe: Its resolved recipe.
        calibration: Its calibration; None if it has none.
        images: (H, W, 3) uint8 each.
        boxes: Boxes around the objects, or None.
        placements: Where each image of the batch is in its frame, by the image's number.
        detector_scores: Of the boxes that a detector found, in [0, 1]; None for others.
    """
    numbers = list(placements)
    failure = ""
    try:
        in_frame = [_in_frame(boxes[number], placements[number], recipe.frame_px) for number in numbers]
        table, coarse, masks = run_pass(
            [images[number] for number in numbers], list(placements.values()), np.array(in_frame, np.float32)
        )
    except SegmentError as error:
        failure = str(error)  # not the error itself: its traceback holds the tensors of the failed pass
    if failure and len(numbers) == 1:
        return {numbers[0]: SegmentError(failure)}
    if failure:
        # One image must not fail its batch, and half a batch needs half the memory.
        half = len(numbers) // 2
        halves = [
            run_scored(run_pass, recipe, calibration, images, boxes, {one: placements[one] for one in some}, detector_scores)
            for some in (numbers[:half], numbers[half:])
        ]
        return {number: segment for one in halves for number, segment in one.items()}
    results: dict[int, Segment | ItemError] = {}
    for number, measured, small, mask in zip(numbers, signals_by_name(table), coarse, masks, strict=True):
        if not measured["finite"]:
            results[number] = SegmentError("the model returned numbers that are not finite; try recipe.precision=fp32")
            continue
        signals = all_signals(measured, measure_components(small))
        results[number] = Segment(mask, score(signals, calibration, detector_scores[number], recipe.review_below))
    return results


def _in_frame(box: Box | None, placement: Placement, frame_px: int) -> tuple[float, float, float, float]:
    """Convert a box from pixels of the image to pixels of the frame; NaN for no box."""
    if box is None:
        return (float("nan"),) * 4
    x0, y0, x1, y1 = placement.region
    across, down = frame_px / (x1 - x0), frame_px / (y1 - y0)
    return ((box.x0 - x0) * across, (box.y0 - y0) * down, (box.x1 - x0) * across, (box.y1 - y0) * down)
