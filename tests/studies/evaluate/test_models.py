"""``make evaluate``: the bundled mvanet-lite against u2netp, on the same photos in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import Segmenter
from pipeline.imaging.frame import make_frame, place

pytestmark = [pytest.mark.study, pytest.mark.timeout(7200)]

BETTER = {"mae": "lower", "s_measure": "higher", "e_mean": "higher", "dice_binary": "higher"}


@pytest.mark.parametrize("metric", BETTER)
def test_lite_is_better_than_u2netp_on_whole_photos(metric: str, evaluated: Any, bars: Any) -> None:
    numbers = {model: found["tags"]["photo"]["metrics"][metric] for model, found in evaluated("whole").items()}
    ours, theirs = numbers["mvanet-lite"], numbers["u2netp"]["value"]
    name = f"mvanet-lite: {metric} of whole photos [{ours['low']:.3f}, {ours['high']:.3f}], and u2netp's"
    (bars.at_most if BETTER[metric] == "lower" else bars.at_least)(name, ours["value"], theirs)


def test_a_box_says_which_of_several_objects(evaluated: Any, bars: Any) -> None:
    boxed, whole = (evaluated(kind)["mvanet-lite"]["metrics"]["dice_binary"]["value"] for kind in ("boxed pairs", "pairs"))
    bars.at_least(f"mvanet-lite: Dice of one of two objects, {boxed:.3f} with its box, less that without", boxed - whole, 0.03)


def test_lite_takes_no_longer_than_u2netp(rows_of: Callable[[str], list[dict[str, Any]]], bars: Any) -> None:
    """Frames in turn through both, as they run by default on this machine."""
    segmenters = {model: Segmenter(model, device="cpu", threads=2) for model in ("mvanet-lite", "u2netp")}
    spent: dict[str, list[float]] = {model: [] for model in segmenters}
    for row in rows_of("boxed")[:40]:
        image = np.asarray(Image.open(row["image_uri"]).convert("RGB"))
        for model, segmenter in segmenters.items():
            placed = place((image.shape[0], image.shape[1]), None, segmenter.recipe)
            frame = make_frame(image, placed, segmenter.recipe)[None]
            start = time.perf_counter()
            segmenter.model(frame)
            spent[model].append(time.perf_counter() - start)
    ours, theirs = (statistics.median(one) for one in spent.values())
    bars.at_most(f"mvanet-lite: a forward pass ({1000 * ours:.0f} ms) ÷ u2netp's", ours / theirs, 1.0)
