"""Polygons, compared with COCO's own library."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pycocotools import mask as coco

from pipeline.imaging.polygons import decode_polygons
from pipeline.imaging.rle import decode_counts, run_lengths
from pipeline.types import Size

SIZE = Size(120, 160)


def star(corners: int, seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    turns = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    far = rng.uniform(20, 55, corners)
    return np.stack([80 + far * np.cos(turns), 60 + far * np.sin(turns)], 1).reshape(-1).tolist()


def by_coco(polygons: list[list[float]]) -> np.ndarray:
    return coco.decode(coco.merge(coco.frPyObjects(polygons, *SIZE)))


@pytest.mark.parametrize("seed", range(6))
def test_polygons_agree_with_coco_except_at_the_edge(seed: int) -> None:
    ours, theirs = decode_polygons(SIZE, [star(12, seed)]), by_coco([star(12, seed)])
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.97
    assert abs(int(ours.sum()) - int(theirs.sum())) / theirs.sum() < 0.01


def test_a_rectangle_is_exact() -> None:
    found = decode_polygons(SIZE, [[10, 20, 40, 20, 40, 50, 10, 50]])
    wanted = np.zeros(SIZE, np.uint8)
    wanted[20:50, 10:40] = 1
    assert np.array_equal(found, wanted)


def test_several_polygons_are_one_object() -> None:
    found = decode_polygons(SIZE, [[0, 0, 10, 0, 10, 10, 0, 10], [100, 100, 400, 100, 400, 110, 100, 110]])
    assert found.sum() == 100 + 60 * 10, "clipped to the image"
    assert not decode_polygons(SIZE, [[-50, -50, -10, -50, -10, -10]]).any()


def test_large_polygons_are_sampled_more_coarsely() -> None:
    found = decode_polygons(Size(5000, 9000), [[0, 0, 9000, 0, 9000, 5000, 0, 5000]])
    assert found.all()


@pytest.mark.parametrize(
    "bad", [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], ["a"] * 6, [1, 2, math.nan, 4, 5, 6], [1e9] * 6, [[1, 2]] * 6]
)
def test_invalid_polygons_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="a polygon"):
        decode_polygons(SIZE, [bad])


def test_run_lengths_are_text_or_numbers() -> None:
    mask = decode_polygons(SIZE, [star(9, 1)])
    assert np.array_equal(decode_counts(SIZE, run_lengths(mask)["counts"]), mask)
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    assert np.array_equal(decode_counts(SIZE, np.diff(edges, prepend=0).tolist()), mask)


@pytest.mark.parametrize("bad", [None, 7, [1, 2], [-1, 19201], [2**70], [1.5], "", "zzz", "\x00"])
def test_run_lengths_that_do_not_fill_the_size_are_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="run lengths|counts"):
        decode_counts(SIZE, bad)
