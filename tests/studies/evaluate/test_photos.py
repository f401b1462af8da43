"""``make evaluate``: what the quality is worth on the half of the evaluation photos that its calibration wasn't fitted on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
import torch

from pipeline import Segmenter
from pipeline.evaluate.calibrate import kept_apart
from pipeline.imaging.components import measure_parts
from pipeline.imaging.frame import make_frame, place
from pipeline.models.estimator import expected_dice
from pipeline.models.forward import one_thread
from pipeline.models.signals import measure, named
from pipeline.quality.ranking import Ranking, judge
from pipeline.quality.score import complete, score
from pipeline.types import Box

pytestmark = [pytest.mark.study, pytest.mark.timeout(7200)]

PHOTOS, COPIES = 316, 2405
RowsOf = Callable[[str], list[dict[str, Any]]]


@pytest.mark.parametrize(("kind", "items"), [("boxed", PHOTOS), ("whole", COPIES)])
def test_every_item_is_measured(kind: str, items: int, evaluated: Any) -> None:
    for model in evaluated(kind).values():
        assert model["items"] == model["measured"] == items
        assert model["failed"] == model["unreadable"] == 0
        assert {"duts_te", "ecssd", "ccp", "weizmann", "am2k", "border", "thin", "photo"} <= set(model["tags"])
        assert {"quality", "soft_dice", "expected_dice"} <= set(model["rankings"])
        assert model["quality_calibrated"]


def judged(kind: str, model: dict[str, Any], out: Path) -> tuple[Any, dict[str, Ranking]]:
    """The rows of photos that the calibration wasn't fitted on, and the rankings of the scores among them."""
    rows = ds.dataset(out / kind / model["recipe"] / "evaluation", format="parquet").to_table()
    apart = kept_apart({row["group"]: (row["tags"] or [""])[0] for row in rows.select(["group", "tags"]).to_pylist()}, 0.5)
    rows = rows.filter(pc.is_in(rows["group"], pa.array(sorted(apart))))
    dice = rows["dice_binary"].to_numpy()
    groups = np.unique(rows["group"].to_pylist(), return_inverse=True)[1]
    scores = {name: pc.struct_field(rows["signals"], name) for name in ("soft_dice", "expected_dice", "confidence")}
    scores |= {"quality": rows["quality"]}
    return rows, {name: judge(np.asarray(value.to_numpy(), np.float64), dice, groups) for name, value in scores.items()}


@pytest.mark.parametrize("bar", ["AUROC for failures", "AURC ÷ soft Dice's", "calibration error", "judged items"])
def test_the_quality_on_photos_that_it_was_not_fitted_on(bar: str, model: str, evaluated: Any, out: Path, bars: Any) -> None:
    found = evaluated("whole")[model]
    _, rankings = judged("whole", found, out)
    ours, side_by_side = rankings["quality"], rankings["soft_dice"]
    name = f"{model}: {bar}"
    if bar == "judged items":
        bars.at_least(f"{name}, {ours.failures} of them failures", ours.items, 1000)
    elif bar == "AUROC for failures":
        one = ours.numbers["auroc"]
        bars.at_least(f"{name} [{one.low:.3f}, {one.high:.3f}]", one.value, 0.90)
    elif bar == "calibration error":
        bars.at_most(f"{name}, five equal-mass bins", ours.numbers["calibration_error"].value, 0.05)
    else:
        bars.at_most(name, ours.numbers["aurc"].value / side_by_side.numbers["aurc"].value, 1.0)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter("u2netp", device="cpu", threads=2)


def test_what_signals_cost(segmenter: Segmenter, rows_of: RowsOf, bars: Any) -> None:
    """Of the model's own time, on real photos in turn."""
    model, signals = [], []
    for row in rows_of("boxed")[:40]:
        frame, _ = framed(segmenter, row)
        start = time.perf_counter()
        logits = segmenter.model(frame)
        middle = time.perf_counter()
        quality(segmenter, logits, frame)
        model.append(middle - start)
        signals.append(time.perf_counter() - middle)
    share = statistics.median(signals) / statistics.median(model)
    bars.at_most(f"signals and quality ÷ u2netp's time ({1000 * statistics.median(model):.0f} ms)", share, 0.03)


def framed(segmenter: Segmenter, row: dict[str, Any]) -> tuple[np.ndarray, Any]:
    from PIL import Image

    image = np.asarray(Image.open(row["image_uri"]).convert("RGB"))
    placed = place((image.shape[0], image.shape[1]), None, segmenter.recipe)
    return make_frame(image, placed, segmenter.recipe)[None], placed


def quality(segmenter: Segmenter, logits: torch.Tensor, frames: np.ndarray, box: tuple[float, ...] | None = None) -> float:
    """Of one map, as the segmenter has it; the box in pixels of the frame."""
    boxes = None if box is None else torch.tensor([box], dtype=torch.float32)
    assert segmenter.look is not None
    with one_thread():
        p = logits.sigmoid()
        estimate = expected_dice(segmenter.look, p, frames)
    table, small = measure(logits, p, boxes, frames, estimate=estimate)
    return score(complete(named(table.numpy())[0], measure_parts(small[0].numpy())), segmenter.calibration).quality


HOSTILE = ("an empty photo", "a plain wall", "the mask inside out", "half the object cut away", "a wrong box")


@pytest.mark.parametrize("case", HOSTILE)
def test_what_nobody_may_miss_is_in_the_worst_twentieth(
    case: str, segmenter: Segmenter, evaluated: Any, rows_of: RowsOf, out: Path, bars: Any
) -> None:
    """Among the real photos, whose own masks are often bad; median over 20 photos whose masks are good."""
    kind = "boxed" if case == "a wrong box" else "whole"
    found = evaluated(kind)["u2netp"]
    rows = ds.dataset(out / kind / found["recipe"] / "evaluation", format="parquet").to_table()
    rows = rows.filter(pc.equal(rows["item_id"], rows["group"]))
    usual = np.sort(rows["quality"].to_numpy())
    good = rows.filter(pc.greater(rows["dice_binary"], 0.95)).slice(0, 20).to_pylist()
    by_id = {row["item_id"]: row for row in rows_of("boxed")}
    ranks = [hostile(case, segmenter, by_id[row["item_id"]], number) for number, row in enumerate(good)]
    share = float(np.median([(usual < rank).mean() for rank in ranks]))
    bars.at_most(f"{case}: share of {len(usual)} photos that are worse", share, 0.05)


def hostile(case: str, segmenter: Segmenter, row: dict[str, Any], number: int) -> float:
    """The quality of a case made from a photo with a good mask."""
    rng = np.random.default_rng(number)
    if case == "an empty photo":
        return segmenter(np.full((300, 400, 3), 255 * (number % 2), np.uint8)).quality
    if case == "a plain wall":
        wall = rng.integers(120, 230, 3) + np.linspace(-15, 15, 400)[None, :, None] + rng.normal(0, 3, (300, 400, 3))
        return segmenter(np.clip(wall, 0, 255).astype(np.uint8)).quality
    frames, placed = framed(segmenter, row)
    logits = segmenter.model(frames)
    if case == "the mask inside out":
        return quality(segmenter, -logits, frames)
    if case == "half the object cut away":
        x0, _, x1, _ = box = np.array(Box(*row["box"]))
        middle = round((x0 + x1) / 2 / placed.region[2] * logits.shape[2])
        assert box.shape == (4,)
        cut = logits.clone()
        cut[:, :, :middle] = -10
        return quality(segmenter, cut, frames)
    from PIL import Image

    image = np.asarray(Image.open(row["image_uri"]).convert("RGB"))
    return segmenter(image, wrong(row["box"], image.shape[1], image.shape[0])).quality


def wrong(box: list[float], width: int, height: int) -> tuple[float, float, float, float]:
    """A box of a quarter of the photo in the corner that is farthest from the object."""
    x = 0 if (box[0] + box[2]) / 2 > width / 2 else width // 2
    y = 0 if (box[1] + box[3]) / 2 > height / 2 else height // 2
    return (x, y, x + width // 2, y + height // 2)
