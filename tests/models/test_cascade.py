"""One result from those of two models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config.recipe import Recipe
from pipeline.config.second import Join, Second
from pipeline.errors import SegmentError
from pipeline.models.cascade import Look, Segment, agreement, as_rows, join_segments, sends_on
from pipeline.quality.score import Score
from pipeline.schema import INDEX


def mask(*values: int) -> Any:
    return np.array([values], np.uint8)


def segment(model: str, quality: float, *values: int, reasons: tuple[str, ...] = ()) -> Segment:
    looks = (Look(model, None, quality, reasons),)
    return Segment(mask(*values), Score(quality, True, reasons, {"soft_dice": quality}), looks=looks)


def second(join: Join, below: float = 0.3) -> Second:
    return Second(preset="large", below=below, join=join, recipe=Recipe(name="large", model="fake"))


FIRST = segment("small", 0.25, 0, 255, 255, 10, reasons=("gaps",))
OTHER = segment("large", 0.75, 0, 255, 0, 13, reasons=("stray",))


@pytest.mark.parametrize(
    ("join", "values", "quality", "reasons", "used"),
    [
        ("replace", (0, 255, 0, 13), 0.75, ("stray",), (False, True)),
        ("better", (0, 255, 0, 13), 0.75, ("stray",), (False, True)),
        ("mean", (0, 255, 128, 12), 0.5, ("gaps",), (True, True)),
    ],
)
def test_each_way_to_join(
    join: Join, values: tuple[int, ...], quality: float, reasons: tuple[str, ...], used: tuple[bool, bool]
) -> None:
    made = join_segments(FIRST, OTHER, second(join))
    assert isinstance(made, Segment)
    assert made.mask.tolist() == [list(values)] and made.mask.dtype == np.uint8
    assert (made.score.quality, made.score.reasons) == (quality, reasons)
    assert made.agreement == pytest.approx(2 / 3)
    assert [(look.model, look.quality, look.reasons) for look in made.looks] == [
        ("small", 0.25, ("gaps",)),
        ("large", 0.75, ("stray",)),
    ]
    assert tuple(look.used for look in made.looks) == used


def test_the_better_one_may_be_the_first() -> None:
    worse = segment("large", 0.1, 0, 0, 0, 0)
    made = join_segments(FIRST, worse, second("better"))
    assert isinstance(made, Segment)
    assert made.mask is FIRST.mask and made.score is FIRST.score
    assert [look.used for look in made.looks] == [True, False]
    replaced = join_segments(FIRST, worse, second("replace"))
    assert isinstance(replaced, Segment) and replaced.mask is worse.mask


def test_an_error_of_the_second_model_is_the_item_s() -> None:
    made = join_segments(FIRST, SegmentError("out of memory"), second("replace"))
    assert isinstance(made, SegmentError) and str(made) == "the second model large: out of memory"


def test_only_items_below_the_threshold_go_on() -> None:
    assert sends_on(FIRST, second("replace", 0.26)) and not sends_on(FIRST, second("replace", 0.25))
    assert not sends_on(SegmentError("broken"), second("replace", 1.0))


def test_agreement_is_the_dice_of_the_opaque_parts() -> None:
    assert agreement(mask(0, 127, 128, 255), mask(0, 0, 255, 255)) == 1
    assert agreement(mask(255, 255, 0, 0), mask(0, 0, 255, 255)) == 0
    assert agreement(mask(0, 0), mask(127, 0)) == 1, "both are empty"
    assert agreement(mask(0, 0), mask(128, 0)) == 0


def test_looks_fill_the_column_of_the_index() -> None:
    made = join_segments(FIRST, OTHER, second("replace"))
    assert isinstance(made, Segment)
    kind = INDEX.field("models").type
    assert pa.array([as_rows(made.looks), as_rows(())], kind).to_pylist() == [as_rows(made.looks), None]
    assert [field.name for field in kind.value_type] == list(as_rows(made.looks)[0])  # type: ignore[index]
