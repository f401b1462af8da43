"""Tiles that overlap: they cover everything, their weights add up to one, and what is missing is somebody else's."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models.refiners.refine_tiles import Axis, axis
from pipeline.models.refiners.tiles import Piece, blend, on_host, spans, tiles

SIZES = [(64, 16), (512, 128), (128, 32)]
LENGTHS = [1, 17, 63, 64, 65, 112, 113, 161, 500, 513, 1537]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("side", "overlap"), SIZES)
def test_spans_are_a_partition_of_unity(side: int, overlap: int, length: int) -> None:
    found, total = spans(7, 7 + length, side, overlap), np.zeros(length)
    for span in found:
        first, end = span.pixels.start - 7, span.pixels.stop - 7
        assert first >= 0 and end <= length and end - first == len(span.weight) <= side
        assert span.weight.min() >= 0
        total[first:end] += span.weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    for before, after in pairwise(found):
        assert before.pixels.stop - after.pixels.start >= overlap
        margin = overlap // 4 - 1
        assert not before.weight[-margin:].any() and not after.weight[:margin].any(), "nothing counts that lies at a seam"
    assert len(found) == 1 if length <= side else len(found) > 1


def test_no_span_too_many() -> None:
    assert [len(spans(0, length, 512, 128)) for length in (512, 513, 896, 897, 1280, 1281)] == [1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize("region", [None, (-30, 20, 380, 330), (60, 40, 300, 260)])
def test_tiles_share_the_band_out(star: Any, region: Any) -> None:
    scene = star(301, 419, 64, region)
    found = list(tiles(on_host(scene.view), 96, 32, 3))
    assert len(found) > 4 and len({tile.image.shape for tile in found}) == 1
    assert sum(tile.share_px for tile in found) == pytest.approx((scene.weight() > 0).sum(), rel=2e-3)
    left, top, _, _ = scene.view.inside
    for tile in found:
        rows, columns = (
            slice(one.start - at, one.stop - at) for one, at in ((tile.rows.pixels, top), (tile.columns.pixels, left))
        )
        np.testing.assert_allclose(tile.p, scene.base[rows, columns], atol=1e-5)
        np.testing.assert_array_equal(tile.image, scene.view.image[tile.rows.pixels, tile.columns.pixels])


def test_a_tile_that_the_band_only_touches_where_it_does_not_count_is_left_out(star: Any) -> None:
    scene = star(300, 300, 64)
    assert all(tile.share_px > 0 for tile in tiles(on_host(scene.view), 48, 12, 3))
    nothing = scene.view._replace(band=torch.zeros(64, 64))
    assert not list(tiles(nothing, 48, 12, 3))


def test_pieces_of_one_picture_are_that_picture_and_what_is_missing_is_another(star: Any) -> None:
    scene = star(257, 311, 64)
    truth = torch.from_numpy(scene.alpha)
    found = list(tiles(on_host(scene.view), 64, 16, 3))
    pieces = [Piece(tile.rows, tile.columns, truth[tile.rows.pixels, tile.columns.pixels]) for tile in found]

    def nothing(down: Axis, across: Axis) -> torch.Tensor:
        return torch.full((len(down.places), len(across.places)), -3.0)  # counts as 0

    down, across = (axis(slice(0, end), 0, end, 64, 3, torch.device("cpu")) for end in (257, 311))
    inside = torch.from_numpy(scene.weight() > 0)
    whole = blend(pieces, nothing)(down, across)
    torch.testing.assert_close(whole[inside], truth[inside], atol=1e-5, rtol=0)
    some = slice(40, 111), slice(90, 203)
    part = blend(pieces, nothing)(
        *(axis(one, 0, end, 64, 3, torch.device("cpu")) for one, end in zip(some, (257, 311), strict=True))
    )
    torch.testing.assert_close(part, whole[some])
    gone = found[len(found) // 2]
    without = blend([piece for piece, tile in zip(pieces, found, strict=True) if tile is not gone], nothing)(down, across)
    missing = np.outer(gone.rows.weight, gone.columns.weight)
    there = gone.rows.pixels, gone.columns.pixels
    torch.testing.assert_close(whole[there] - without[there], truth[there] * torch.from_numpy(missing), atol=1e-5, rtol=0)
