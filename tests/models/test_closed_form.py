"""Closed-form matting: the system is the one that was meant, and no image costs more than it may."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import pipeline.models.refiners.closed_form as module
from pipeline.models.refiners.closed_form import ClosedForm, GaveUpError, Watch, load_solver, solve
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.tiles import on_host, tiles


@pytest.fixture(scope="module")
def refiner() -> ClosedForm:
    return ClosedForm()


def small(seed: int, side: int = 24) -> dict[str, Any]:
    """A random image with an unknown disc in it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side / 2
    known = (x > 0).astype(float)
    prior = np.clip(known + 0.3 * rng.standard_normal((side, side)), 0, 1)
    image = 0.3 + 0.4 * known[..., None] + 0.1 * rng.random((side, side, 3))
    return {
        "image": image,
        "unknown": np.hypot(x, y) < side / 2 - 3,
        "known": known,
        "prior": prior,
        "trust": 0.03 * (rng.random((side, side)) + 0.02),
    }


def exact(image: Any, unknown: Any, known: Any, prior: Any, trust: Any) -> Any:
    """The whole system without its skipped windows, solved as a dense one."""
    inside = unknown.ravel()
    laplacian = load_solver().laplacian(image, epsilon=module.EPS, radius=1).toarray()
    system = laplacian[np.ix_(inside, inside)] + np.diag(trust[unknown])
    return np.linalg.solve(system, trust[unknown] * prior[unknown] - laplacian[np.ix_(inside, ~inside)] @ known[~unknown])


def watch() -> Watch:
    return Watch(lambda: 0.0, 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_it_solves_what_it_says(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOLERANCE", 1e-9)
    monkeypatch.setattr(module, "ITERATIONS", 5000)
    scene = small(seed)
    found = solve(load_solver(), **scene, watch=watch())
    np.testing.assert_allclose(found, np.clip(exact(**scene), 0, 1), atol=1e-5)
    assert np.abs(found - scene["prior"][scene["unknown"]]).max() > 0.1


def test_the_tolerance_is_fine_enough_for_eight_bits() -> None:
    scene = small(0, 60)
    off = np.abs(solve(load_solver(), **scene, watch=watch()) - np.clip(exact(**scene), 0, 1))
    assert off.max() < 4 / 255 and off.mean() < 0.5 / 255


def test_spent_iterations_leave_an_answer_between(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, found = small(1, 60), {}
    for iterations in (1, 3, 200):
        monkeypatch.setattr(module, "ITERATIONS", iterations)
        found[iterations] = solve(load_solver(), **scene, watch=watch())
    target = np.clip(exact(**scene), 0, 1)
    off = {iterations: float(((some - target) ** 2).mean()) for iterations, some in found.items()}
    assert off[200] < off[3] < off[1] < float(((scene["prior"][scene["unknown"]] - target) ** 2).mean())


def test_it_is_nearer_to_the_truth_than_guided(star: Any, refiner: ClosedForm) -> None:
    scene = star(480, 640, 128)
    drawn, note = scene.redrawn(refiner)
    guided, _ = scene.redrawn(Guided())
    assert note is None
    assert scene.error(drawn) < 0.85 * scene.error(guided) < scene.error(scene.base)


@pytest.mark.parametrize("region", [None, (-40, 30, 500, 430), (100, 60, 433, 391)])
def test_outside_the_band_nothing_changes(star: Any, refiner: ClosedForm, region: Any) -> None:
    scene = star(401, 533, 64, region, grain=3)
    drawn, _ = scene.redrawn(refiner)
    outside = scene.weight() == 0
    assert 0.3 < outside.mean() < 1
    np.testing.assert_array_equal(drawn[outside], scene.base[outside])
    assert drawn.min() >= 0 and drawn.max() <= 1 + 1e-6


def test_tiles_are_as_good_as_one(star: Any, refiner: ClosedForm, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = star(480, 640, 128, grain=2)
    monkeypatch.setattr(module, "TILE_PX", 1024)
    whole, _ = scene.redrawn(refiner)
    monkeypatch.setattr(module, "TILE_PX", 192)
    monkeypatch.setattr(module, "OVERLAP_PX", 64)
    tiled, _ = scene.redrawn(refiner)
    inside = scene.weight() > 0
    off = np.abs(whole - tiled)[inside]
    assert off.mean() < 0.004 and np.quantile(off, 0.99) < 0.06
    assert scene.error(tiled) < 1.1 * scene.error(whole)


def test_too_many_pixels_are_left_to_guided(star: Any, refiner: ClosedForm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE_PX", 192)
    monkeypatch.setattr(module, "OVERLAP_PX", 64)
    scene = star(480, 640, 128)
    whole, _ = scene.redrawn(refiner)
    guided, _ = scene.redrawn(Guided())
    found = list(tiles(on_host(scene.view), 192, 64, refiner.halo_cells))
    band_px = sum(tile.share_px for tile in found)
    monkeypatch.setattr(module, "MOST_PX", band_px / 2)
    drawn, note = scene.redrawn(refiner)
    solved = np.zeros(scene.alpha.shape)
    for tile, so_far in zip(found, np.cumsum([tile.share_px for tile in found]), strict=True):
        if so_far <= band_px / 2:
            solved[tile.rows.pixels, tile.columns.pixels] += np.outer(tile.rows.weight, tile.columns.weight)
    assert note is not None and note.startswith("closed_form gave up after ")
    assert note.endswith(f"guided did the rest, {1 - solved[scene.weight() > 0].mean():.0%} of the band")
    assert 0.1 < (solved == 0)[scene.weight() > 0].mean() < 0.9
    np.testing.assert_allclose(drawn[solved > 1 - 1e-6], whole[solved > 1 - 1e-6], atol=1e-5)
    np.testing.assert_allclose(drawn[solved == 0], guided[solved == 0], atol=1e-5)


@pytest.mark.parametrize("ticks", [0.5, 3.0, 100.0])
def test_an_image_that_takes_too_long_is_left_to_guided(star: Any, ticks: float) -> None:
    scene = star(480, 640, 128)
    guided, _ = scene.redrawn(Guided())
    clock = itertools.count(0, ticks)
    looked = []

    def now() -> float:
        looked.append(next(clock))
        return looked[-1]

    refiner = ClosedForm(now)
    drawn, note = scene.redrawn(refiner)
    assert note is not None and note.startswith("closed_form gave up after 12 s; guided did the rest")
    assert looked[-1] <= module.LONGEST_S + 2 * ticks, "nobody looks at the clock once it is over"
    if ticks > module.LONGEST_S:
        assert note.endswith("100% of the band")
        np.testing.assert_allclose(drawn, guided, atol=1e-6)


def test_giving_up_says_why() -> None:
    with pytest.raises(GaveUpError, match="12 s"):
        Watch(lambda: 13.0, 12.0).check()
