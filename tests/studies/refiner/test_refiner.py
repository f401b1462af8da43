"""``make bench-refiner``: refiners and foreground colours on held-out scenes with exact alpha; tables, page and bars.

The scenes have objects and backgrounds on which nothing was tuned or trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.study, pytest.mark.timeout(3600)]  # the first test measures all scenes

CLEAN, NOISY = ("sharp", "blurred"), ("noisy",)
both_finishes = pytest.mark.parametrize("finishes", [CLEAN, NOISY], ids=["clean", "noisy"])
both_refiners = pytest.mark.parametrize("refiner", ["guided", "cgm"])


def scenes_at_4x(measured: Any, finishes: tuple[str, ...]) -> list[Any]:
    return [row for row in measured if row.factor == 4 and row.finish in finishes]


def ratio(rows: list[Any], error: str, method: str, other: str = "bilinear") -> float:
    """Return the method's mean error over the scenes ÷ the other's."""
    ours, theirs = (np.mean([getattr(row.alphas[name], error) for row in rows]) for name in (method, other))
    return float(ours / theirs)


def by_scene(measured: Any, method: str) -> Any:
    """Return every scene's MSE ÷ bilinear's."""
    rows = [row for row in measured if row.alphas["bilinear"].mse > 0]
    return np.array([row.alphas[method].mse / row.alphas["bilinear"].mse for row in rows])


def test_the_tables(measured: Any, out: Path) -> None:
    from error_tables import tables

    text = tables(measured)
    (out / "tables.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")


def test_the_page(material: Any, out: Path) -> None:
    from page import write_page

    assert write_page(material, out).stat().st_size > 2000
    assert len(list(out.glob("crops/*.png"))) >= 20


@pytest.mark.parametrize(("finishes", "limit"), [(CLEAN, 0.65), (NOISY, 0.90)], ids=["clean", "noisy"])
def test_guided_has_a_lower_mse_than_bilinear(measured: Any, bars: Any, finishes: tuple[str, ...], limit: float) -> None:
    rows = scenes_at_4x(measured, finishes)
    name = f"guided: MSE in the unknown region at 4x ÷ bilinear's, {len(rows)} scenes: {', '.join(finishes)}"
    bars.at_most(name, ratio(rows, "mse", "guided"), limit)


@both_finishes
def test_cgm_is_enough_better_to_be_the_default(measured: Any, bars: Any, finishes: tuple[str, ...]) -> None:
    found = ratio(scenes_at_4x(measured, finishes), "mse", "cgm", "guided")
    bars.at_most(f"cgm: MSE in the unknown region at 4x ÷ guided's: {', '.join(finishes)}", found, 0.85)


@both_refiners
@pytest.mark.parametrize("error", ["grad", "conn"])
@both_finishes
def test_grad_and_conn_are_lower_too(measured: Any, bars: Any, error: str, finishes: tuple[str, ...], refiner: str) -> None:
    found = ratio(scenes_at_4x(measured, finishes), error, refiner)
    bars.at_most(f"{refiner}: {error} in the unknown region at 4x ÷ bilinear's: {', '.join(finishes)}", found, 1)


@both_refiners
def test_few_scenes_get_worse(measured: Any, bars: Any, refiner: str) -> None:
    ratios = by_scene(measured, refiner)
    name = f"{refiner}: share of {len(ratios)} scenes (2x, 4x, 6x) with an MSE of at most 1.03 of bilinear's"
    bars.at_least(name, (ratios <= 1.03).mean(), 0.95)


@both_refiners
def test_no_scene_gets_much_worse(measured: Any, bars: Any, refiner: str) -> None:
    bars.at_most(f"{refiner}: largest MSE ÷ bilinear's of any scene", by_scene(measured, refiner).max(), 1.15)


def test_nothing_changes_outside_of_the_unknown_region(measured: Any, bars: Any) -> None:
    bars.at_most("largest change outside of the unknown region", max(row.moved_outside for row in measured), 0)


def test_colours_given_the_true_alpha(measured: Any, bars: Any) -> None:
    rows = scenes_at_4x(measured, CLEAN)
    ours, naive = (np.mean([row.colours[name] for row in rows]) for name in ("multilevel", "naive"))
    name = "multilevel: colour error in the unknown region given the true alpha ÷ the photo's own colours', clean, 4x"
    bars.at_most(name, ours / naive, 0.35)


def test_twelve_megapixels_are_fast(bars: Any, out: Path) -> None:
    from cost import seconds_of_12_mpx

    cost = seconds_of_12_mpx()
    (out / "cost.json").write_text(json.dumps(cost, indent=1) + "\n", encoding="utf-8")
    about = f"12 megapixels, {100 * cost['unknown_share']:.1f} % in the unknown region; cgm takes {cost['cgm_s']:.2f} s"
    seconds = f"({cost['guided_s']:.2f} + {cost['colour_s']:.2f})"
    bars.at_most(f"guided and colours: s {seconds}, {about}", cost["guided_s"] + cost["colour_s"], 1.5)
