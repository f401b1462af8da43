"""``make bench-refiner``: refiners and colours on held-out scenes with exact alpha; the table, the page and the bars.

Scenes come from ``pipeline.training.scenes`` with objects and backgrounds on which nothing was tuned or trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.study, pytest.mark.timeout(3600)]  # the first test measures all scenes

CLEAN, NOISY = ("sharp", "blurred"), ("noisy",)


def some(measured: Any, finishes: tuple[str, ...], factor: int = 4) -> list[Any]:
    return [row for row in measured if row.factor == factor and row.finish in finishes]


def ratio(rows: list[Any], error: str, way: str = "guided", beside: str = "bilinear") -> float:
    """Mean over the scenes ÷ mean over the scenes."""
    ours, theirs = (np.mean([getattr(row.alphas[name], error) for row in rows]) for name in (way, beside))
    return float(ours / theirs)


def test_the_table(measured: Any, out: Path) -> None:
    from tables import tables

    text = tables(measured)
    (out / "tables.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")


def test_the_page(measured: Any, material: Any, out: Path) -> None:
    from page import write_page

    page = write_page(material, out)
    assert page.stat().st_size > 2000
    assert len(list(out.glob("crops/*.png"))) >= 20


@pytest.mark.parametrize(("finishes", "limit"), [(CLEAN, 0.65), (NOISY, 0.90)], ids=["clean", "noisy"])
def test_mean_squared_error(measured: Any, bars: Any, finishes: tuple[str, ...], limit: float) -> None:
    rows = some(measured, finishes)
    bars.at_most(
        f"guided: MSE in the band at 4x ÷ bilinear's, {len(rows)} scenes: {', '.join(finishes)}", ratio(rows, "mse"), limit
    )


@pytest.mark.parametrize("finishes", [CLEAN, NOISY], ids=["clean", "noisy"])
def test_cgm_is_better_by_what_makes_it_the_default(measured: Any, bars: Any, finishes: tuple[str, ...]) -> None:
    rows = some(measured, finishes)
    bars.at_most(f"cgm: MSE in the band at 4x ÷ guided's: {', '.join(finishes)}", ratio(rows, "mse", "cgm", "guided"), 0.85)


@pytest.mark.parametrize("way", ["guided", "cgm"])
@pytest.mark.parametrize("error", ["grad", "conn"])
@pytest.mark.parametrize("finishes", [CLEAN, NOISY], ids=["clean", "noisy"])
def test_grad_and_conn_are_better_too(measured: Any, bars: Any, error: str, finishes: tuple[str, ...], way: str) -> None:
    found = ratio(some(measured, finishes), error, way)
    bars.at_most(f"{way}: {error} in the band at 4x ÷ bilinear's: {', '.join(finishes)}", found, 1)


def by_scene(measured: Any, way: str) -> Any:
    rows = [row for row in measured if row.alphas["bilinear"].mse > 0]
    return np.array([row.alphas[way].mse / row.alphas["bilinear"].mse for row in rows])


@pytest.mark.parametrize("way", ["guided", "cgm"])
def test_few_scenes_are_worse(measured: Any, bars: Any, way: str) -> None:
    each = by_scene(measured, way)
    what = f"{way}: share of {len(each)} scenes (2x, 4x, 6x) with an MSE of at most 1.03 of bilinear's"
    bars.at_least(what, (each <= 1.03).mean(), 0.95)


@pytest.mark.parametrize("way", ["guided", "cgm"])
def test_none_is_much_worse(measured: Any, bars: Any, way: str) -> None:
    bars.at_most(f"{way}: largest MSE ÷ bilinear's of any scene", by_scene(measured, way).max(), 1.15)


def test_outside_the_band_nothing_moves(measured: Any, bars: Any) -> None:
    bars.at_most("largest change outside the band", max(row.moved_outside for row in measured), 0)


def test_colours_given_the_true_alpha(measured: Any, bars: Any) -> None:
    rows = some(measured, CLEAN)
    ours, naive = (np.mean([row.colours[name] for row in rows]) for name in ("multilevel", "naive"))
    bars.at_most(
        "multilevel: colour error in the band given the true alpha ÷ the naive cutout's, clean, 4x", ours / naive, 0.35
    )


def test_twelve_megapixels(bars: Any, out: Path) -> None:
    from cost import seconds_of_12_mpx

    cost = seconds_of_12_mpx()
    (out / "cost.json").write_text(json.dumps(cost, indent=1) + "\n", encoding="utf-8")
    what = f"12 megapixels, {100 * cost['band_share']:.1f} % in the band; cgm takes {cost['cgm_s']:.2f} s"
    seconds = f"({cost['guided_s']:.2f} + {cost['colour_s']:.2f})"
    bars.at_most(f"guided and colour: s {seconds}, {what}", cost["guided_s"] + cost["colour_s"], 1.5)
