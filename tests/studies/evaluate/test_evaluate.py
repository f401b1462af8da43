"""``make evaluate``: the bundled models against each other, and their quality score by cross-validation."""

from __future__ import annotations

import functools
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
from PIL import Image

from pipeline import Segmenter
from pipeline.config.presets import load_preset
from pipeline.evaluate.calibrate import cross_validated
from pipeline.evaluate.tables import markdown_table, ranking_table
from pipeline.evaluate.threshold import MAX_FAILED_SHARE
from pipeline.imaging.components import measure_components
from pipeline.imaging.frame import make_frame, place
from pipeline.models.graph_pass import GraphPass
from pipeline.models.signal_names import NAMES, signals_by_name
from pipeline.output.layout import Layout
from pipeline.paths import EXAMPLES
from pipeline.quality.expectation import Expectation
from pipeline.quality.ranking import FAILED_BELOW, GOOD_FROM, Ranking, evaluate_score
from pipeline.quality.score import all_signals, score
from pipeline.training.products.hard_cases import CASES, ITEMS, NEEDS_BOX

pytestmark = [pytest.mark.study, pytest.mark.timeout(7200)]

MODELS = ("mvanet-lite", "u2netp")
BETTER = {"mae": "lower", "s_measure": "higher", "e_mean": "higher", "dice_binary": "higher"}
Rows = list[dict[str, Any]]


@pytest.mark.parametrize(("kind", "items"), [("plain", 316), ("boxed", 316), ("unboxed", 2405), ("loose", 316)])
def test_every_item_is_measured(kind: str, items: int, evaluated: Any) -> None:
    for model in evaluated(kind).values():
        assert model["items"] == model["measured"] == items
        assert model["failed"] == model["unreadable"] == 0
        own = "box:loose" if kind == "loose" else "photo"
        assert {"duts_te", "ecssd", "ccp", "weizmann", "am2k", "border", "thin", own} <= set(model["tags"])
        assert {"quality", "soft_dice", "expected_dice"} <= set(model["rankings"])
        assert model["quality_calibrated"]


def test_every_hard_case_has_sixty_items(evaluated: Any) -> None:
    """Objects that touch the border are real photos; of the other cases there are too few, so they are rendered."""
    for model in MODELS:
        assert evaluated("boxed")[model]["tags"]["border"]["measured"] >= ITEMS
        cases = {
            tag: found["measured"] for tag, found in evaluated("hard")[model]["tags"].items() if tag.startswith("rendered")
        }
        assert len(cases) == 2 * len(CASES) - len(NEEDS_BOX)
        assert set(cases.values()) == {ITEMS}


def test_matteline_models_says_how_the_models_did(model: str, evaluated: Any) -> None:
    said = load_preset(model).measured
    assert said is not None
    without, boxed = evaluated("unboxed")[model]["tags"]["photo"]["metrics"], evaluated("boxed")[model]["metrics"]
    assert said.photos == evaluated("boxed")[model]["measured"]
    assert said.mae == pytest.approx(without["mae"]["value"], abs=5e-4)
    assert said.dice == pytest.approx(without["dice_binary"]["value"], abs=2e-3)
    assert said.dice_boxed == pytest.approx(boxed["dice_binary"]["value"], abs=2e-3)


@pytest.mark.parametrize("metric", BETTER)
def test_lite_is_better_than_u2netp_without_boxes(metric: str, evaluated: Any, bars: Any) -> None:
    """Outside the interval of the paired differences."""
    low, high, name = lead_of_lite("u2netp", metric, evaluated)
    bars.at_least(f"{name}, up to {high:+.4f}, from", low, 0.0)


@pytest.mark.parametrize("metric", BETTER)
def test_lite_is_level_with_the_full_u2net_without_boxes(metric: str, evaluated: Any, full: bool, bars: Any) -> None:
    """The interval of the paired differences does not lie on the other model's side."""
    if not full:
        pytest.skip("the weights of the full U²-Net are not on this machine")
    low, high, name = lead_of_lite("u2net", metric, evaluated)
    bars.at_least(f"{name}, from {low:+.4f}, up to", high, 0.0)


def lead_of_lite(other: str, metric: str, evaluated: Any) -> tuple[float, float, str]:
    """Return by how much mvanet-lite is better than another model on photos without boxes: from, to, and a bar's name."""
    found = evaluated("plain")[other]["difference_from_first"]["metrics"][metric]
    sign = 1 if BETTER[metric] == "lower" else -1
    low, high = sorted((sign * found["low"], sign * found["high"]))
    return low, high, f"mvanet-lite: {metric} better than {other}'s by {sign * found['value']:+.4f}"


@pytest.mark.parametrize(("kind", "limit"), [("boxed", 0.945), ("loose", 0.93)])
def test_dice_of_lite_with_boxes(kind: str, limit: float, evaluated: Any, bars: Any) -> None:
    found = evaluated(kind)["mvanet-lite"]["metrics"]["dice_binary"]
    boxes = "tight" if kind == "boxed" else "loose"
    bars.at_least(f"mvanet-lite: Dice with {boxes} boxes [{found['low']:.3f}, {found['high']:.3f}]", found["value"], limit)


def test_a_box_selects_one_of_several_objects(evaluated: Any, bars: Any) -> None:
    boxed, without = (evaluated(kind)["mvanet-lite"]["metrics"]["dice_binary"]["value"] for kind in ("boxed-pairs", "pairs"))
    bars.at_least(
        f"mvanet-lite: Dice of one of two objects, {boxed:.3f} with its box, less that without", boxed - without, 0.03
    )


def test_lite_takes_no_longer_than_u2netp(photos: Rows, bars: Any) -> None:
    segmenters = {model: Segmenter(model, device="cpu", threads=2) for model in ("mvanet-lite", "u2netp")}
    seconds: dict[str, list[float]] = {model: [] for model in segmenters}
    for row in photos[:40]:
        for model, segmenter in segmenters.items():
            frames, _ = frames_of(segmenter, row)
            start = time.perf_counter()
            segmenter.model(frames)
            seconds[model].append(time.perf_counter() - start)
    ours, theirs = (statistics.median(one) for one in seconds.values())
    bars.at_most(f"mvanet-lite: a forward pass ({1000 * ours:.0f} ms) ÷ u2netp's", ours / theirs, 1.0)


def test_signals_take_little_time(segmenter: Segmenter, photos: Rows, bars: Any) -> None:
    model, signals = [], []
    for row in photos[:40]:
        frames, _ = frames_of(segmenter, row)
        start = time.perf_counter()
        logits = segmenter.model(frames)
        middle = time.perf_counter()
        quality(segmenter, logits, frames)
        model.append(middle - start)
        signals.append(time.perf_counter() - middle)
    share = statistics.median(signals) / statistics.median(model)
    bars.at_most(
        f"{segmenter.recipe.name}: signals and quality ÷ the model's time ({1000 * statistics.median(model):.0f} ms)",
        share,
        0.03,
    )


@pytest.fixture
def segmenter(model: str) -> Segmenter:
    return Segmenter(model, device="cpu", threads=2)


def frames_of(segmenter: Segmenter, row: dict[str, Any]) -> tuple[np.ndarray, Any]:
    """Return the model's input (1, S, S, 3) for a photo without its box, and the placement."""
    image = np.asarray(Image.open(row["image_uri"]).convert("RGB"))
    placed = place((image.shape[0], image.shape[1]), None, segmenter.recipe)
    return make_frame(image, placed, segmenter.recipe)[None], placed


def quality(segmenter: Segmenter, logits: np.ndarray, frames: np.ndarray) -> float:
    """Return the quality of one map, computed as the segmenter does."""
    graphs = segmenter.run_pass
    assert isinstance(graphs, GraphPass) and graphs.estimate is not None
    table, small, *_, reduced = graphs.measure(logits, frames, np.full((1, 4), np.nan, np.float32))
    table[0, NAMES.index("expected_dice")] = graphs.estimate(reduced)[0].item()
    signals = all_signals(signals_by_name(table)[0], measure_components(small[0]))
    return score(signals, segmenter.resolved.calibration).quality


@pytest.fixture(scope="session")
def judged(evaluated: Any, out: Path) -> Callable[[str, str], pa.Table]:
    """``judged("mvanet-lite", "loose")``: the model's items of a kind, with the quality by fits without their photos.

    The bundled calibrations were fitted on these photos, so their own quality of them is too good.
    ``test_the_bundled_calibration_is_like_the_cross_validated_ones`` compares the two.
    """
    kinds = ("unboxed", "boxed", "loose")

    @functools.cache
    def judge(model: str) -> dict[str, pa.Table]:
        tables = [rows_of(kind, evaluated(kind)[model], out) for kind in kinds]
        quality = pa.array(cross_validated([row for table in tables for row in table.to_pylist()]))
        found = {}
        for kind, table in zip(kinds, tables, strict=True):
            found[kind] = table.set_column(table.schema.get_field_index("quality"), "quality", quality.slice(0, table.num_rows))
            quality = quality.slice(table.num_rows)
        originals = pc.equal(found["unboxed"]["item_id"], found["unboxed"]["group"])
        return found | {"plain": found["unboxed"].filter(originals)}

    return lambda model, kind: judge(model)[kind]


def test_the_bundled_calibration_is_like_the_cross_validated_ones(
    model: str, judged: Callable[[str, str], pa.Table], evaluated: Any, out: Path, bars: Any
) -> None:
    bundled = rows_of("unboxed", evaluated("unboxed")[model], out)["quality"].to_numpy()
    difference = np.abs(bundled - judged(model, "unboxed")["quality"].to_numpy()).mean()
    bars.at_most(f"{model}: mean difference of the bundled calibration's quality and the cross-validated one", difference, 0.1)


@pytest.mark.parametrize("bar", ["failures among ok", "expected from", "expected to"])
def test_what_ok_means(bar: str, model: str, judged: Callable[[str, str], pa.Table], bars: Any) -> None:
    """Without boxes, with tight and with loose ones, without corrupted copies."""
    items = pa.concat_tables([judged(model, kind) for kind in ("plain", "boxed", "loose")])
    ok = items.filter(pc.greater_equal(items["quality"], Segmenter(model).recipe.review_below))
    dice, expected = ok["dice_binary"].to_numpy(), Expectation.of(ok["quality"].to_numpy())
    low, high = expected.interval()
    found = int((dice < GOOD_FROM).sum())
    if bar == "failures among ok":
        name = f"{model}: share of Dice < {FAILED_BELOW:g} among {len(dice)} ok items of {items.num_rows}"
        bars.at_most(name, (dice < FAILED_BELOW).mean(), MAX_FAILED_SHARE)
    elif bar == "expected from":
        bars.at_least(f"{model}: ok items with Dice < {GOOD_FROM:g}; {expected.describe()}", found, low)
    else:
        bars.at_most(f"{model}: ok items with Dice < {GOOD_FROM:g}", found, high)


def rows_of(kind: str, model: dict[str, Any], out: Path) -> pa.Table:
    return ds.dataset(Layout(str(out / kind / model["model"])).evaluation, format="parquet").to_table()


@pytest.mark.parametrize("bar", ["AUROC for failures", "AURC ÷ soft Dice's", "calibration error", "judged items"])
def test_quality_without_boxes(bar: str, model: str, judged: Callable[[str, str], pa.Table], bars: Any) -> None:
    """With corrupted copies."""
    rows = judged(model, "unboxed")
    scores = {"quality": rows["quality"], "soft_dice": pc.struct_field(rows["signals"], "soft_dice")}
    groups = np.unique(rows["group"].to_pylist(), return_inverse=True)[1]
    dice = rows["dice_binary"].to_numpy()
    rankings = {name: evaluate_score(np.asarray(one.to_numpy(), np.float64), dice, groups) for name, one in scores.items()}
    ours, name = rankings["quality"], f"{model}: {bar}"
    if bar == "judged items":
        bars.at_least(f"{name}, {ours.failures} of them failures", ours.items, 1000)
    elif bar == "AUROC for failures":
        one = ours.numbers["auroc"]
        bars.at_least(f"{name} [{one.low:.3f}, {one.high:.3f}]", one.value, 0.90)
    elif bar == "calibration error":
        bars.at_most(f"{name}, five equal-mass bins", ours.numbers["calibration_error"].value, 0.05)
    else:
        bars.at_most(name, ours.numbers["aurc"].value / rankings["soft_dice"].numbers["aurc"].value, 1.0)


PLAIN = {"plain": "without boxes", "loose": "with loose boxes", "boxed": "with tight boxes"}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("bar", ["AUROC for failures", "calibration error"])
def test_quality_of_plain_photos(kind: str, bar: str, model: str, judged: Callable[[str, str], pa.Table], bars: Any) -> None:
    """Without corrupted copies."""
    ranking = plain_ranking(judged(model, kind))
    one = ranking.numbers["auroc" if bar == "AUROC for failures" else "calibration_error"]
    where = f"{ranking.items} photos {PLAIN[kind]}, {ranking.failures} of them failures"
    name = f"{model}: {bar} on {where} [{one.low:.3f}, {one.high:.3f}]"
    if bar == "calibration error":
        bars.at_most(name, one.value, 0.04)
    else:
        bars.at_least(name, one.value, 0.90)


def test_quality_by_box_is_tabled(judged: Callable[[str, str], pa.Table]) -> None:
    """Print how the quality does without boxes, with loose and with tight ones."""
    ranked = {f"{model}, {where}": (kind, model) for model in MODELS for kind, where in PLAIN.items()}
    rankings = [(title, plain_ranking(judged(model, kind))) for title, (kind, model) in ranked.items()]
    title, header, rows = ranking_table(rankings)
    print(f"\n\n{title}\n\n{markdown_table(header, rows)}")
    assert len(header) == 1 + len(ranked)


def plain_ranking(rows: pa.Table) -> Ranking:
    """Return how the quality of some items does."""
    return evaluate_score(rows["quality"].to_numpy().astype(np.float64), rows["dice_binary"].to_numpy())


def test_the_example_of_the_readme_is_good_with_its_box(bars: Any) -> None:
    quality = Segmenter()(EXAMPLES / "espresso.jpg", box=(70, 20, 520, 395)).quality
    bars.at_least("mvanet-lite: quality of the espresso with the README's box", quality, 0.9)


@pytest.mark.parametrize("case", ["empty photo", "plain wall", "inverted mask", "half an object", "wrong box"])
def test_obvious_failures_are_in_the_worst_twentieth(
    case: str, segmenter: Segmenter, evaluated: Any, photos: Rows, out: Path, bars: Any
) -> None:
    """Among the real photos, whose own masks are often bad; median over 20 photos with good masks."""
    kind = "boxed" if case == "wrong box" else "plain"
    rows = rows_of(kind, evaluated(kind)[segmenter.recipe.name], out)
    qualities = rows["quality"].to_numpy()
    good = rows.filter(pc.greater(rows["dice_binary"], 0.95)).slice(0, 20).to_pylist()
    by_id = {row["item_id"]: row for row in photos}
    failures = [quality_of_failure(case, segmenter, by_id[row["item_id"]], number) for number, row in enumerate(good)]
    share = float(np.median([(qualities < one).mean() for one in failures]))
    bars.at_most(f"{segmenter.recipe.name}: {case}: share of {len(qualities)} photos that are worse", share, 0.05)


def quality_of_failure(case: str, segmenter: Segmenter, row: dict[str, Any], number: int) -> float:
    """Return the quality of a failure that is made from a photo with a good mask."""
    rng = np.random.default_rng(number)
    if case == "empty photo":
        return segmenter(np.full((300, 400, 3), 255 * (number % 2), np.uint8)).quality
    if case == "plain wall":
        wall = rng.integers(120, 230, 3) + np.linspace(-15, 15, 400)[None, :, None] + rng.normal(0, 3, (300, 400, 3))
        return segmenter(np.clip(wall, 0, 255).astype(np.uint8)).quality
    x0, y0, x1, y1 = row["box"]
    if case == "wrong box":  # a quarter of the photo, in the corner that is farthest from the object
        image = np.asarray(Image.open(row["image_uri"]).convert("RGB"))
        width, height = image.shape[1], image.shape[0]
        x, y = (0 if x0 + x1 > width else width // 2), (0 if y0 + y1 > height else height // 2)
        return segmenter(image, (x, y, x + width // 2, y + height // 2)).quality
    frames, placed = frames_of(segmenter, row)
    logits = segmenter.model(frames)
    if case == "inverted mask":
        return quality(segmenter, -logits, frames)
    half = logits.copy()
    half[:, :, : round((x0 + x1) / 2 / placed.region[2] * logits.shape[2])] = -10
    return quality(segmenter, half, frames)
