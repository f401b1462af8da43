"""Run lengths, compared with COCO's own library, and damaged ones."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from pipeline.imaging.rle import binarize, bounds_of, decode_counts, encode_rle, read_rle, run_lengths
from pipeline.types import Size

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.integers(0, 1))


@given(MASKS)
def test_the_format_is_cocos(inside: np.ndarray) -> None:
    ours, theirs = run_lengths(inside), coco.encode(np.asfortranarray(inside))
    assert ours["counts"].encode() == theirs["counts"]
    assert ours["size"] == theirs["size"]
    assert ours["area"] == coco.area(theirs)
    if inside.any():
        assert ours["bbox"] == coco.toBbox(theirs).tolist()
    assert np.array_equal(coco.decode({"size": ours["size"], "counts": ours["counts"].encode()}), inside)
    assert np.array_equal(decode_counts(Size(*inside.shape), ours["counts"]), inside)


@given(MASKS)
def test_the_box_is_that_of_the_decoded_mask(inside: np.ndarray) -> None:
    rows, columns = np.nonzero(inside)
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if inside.any() else None
    assert bounds_of(Size(*inside.shape), run_lengths(inside)["counts"]) == expected


def test_large_masks_with_long_and_many_runs() -> None:
    rng = np.random.default_rng(0)
    inside = np.zeros((1500, 2200), np.uint8)
    inside[3:1490, 300:2000] = 1
    inside[400:900, 900:1500] = rng.integers(0, 2, (500, 600))
    counts = run_lengths(inside)["counts"]
    assert counts.encode() == coco.encode(np.asfortranarray(inside))["counts"]
    assert np.array_equal(decode_counts(Size(*inside.shape), counts), inside)


def test_the_object_is_more_than_half_opaque() -> None:
    assert binarize(np.array([[0, 127, 128, 255]], np.uint8)).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    "change",
    [
        {"counts": ""},
        {"counts": "~~~~~~~~~~~~"},
        {"counts": "oooooooooooooooooooooooo0"},
        {"counts": "0"},
        {"counts": 7},
        {"counts": "\u20ac"},
        {"size": [9, 9]},
        {"size": [-6, -7]},
        {"size": [2**40, 2**40]},
        {"size": [6]},
        {"size": "ab"},
        {"area": 1},
        {"area": None},
    ],
)
def test_damage_is_detected(change: dict[str, Any]) -> None:
    inside = np.random.default_rng(1).integers(0, 2, (6, 7)).astype(np.uint8)
    content = json.loads(encode_rle(inside)) | change
    with pytest.raises(ValueError, match="its |it is not"):
        read_rle(json.dumps(content).encode())


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30), st.integers(0, 40))
def test_any_text_is_read_or_refused(counts: str, area: int) -> None:
    data = json.dumps({"size": [5, 8], "counts": counts, "area": area}).encode()
    try:
        size, runs = read_rle(data)
    except ValueError:
        return
    assert size == (5, 8) and runs.sum() == 40 and runs.min() >= 0


def test_other_data_is_refused() -> None:
    for data in (b"", b"[]", b"null", b"{", b"\xff\xfe"):
        with pytest.raises(ValueError, match="not a JSON object with size, counts and area"):
            read_rle(data)


@pytest.mark.parametrize("data", [b"[" * 5000, b'{"size": ' + b"[" * 5000, b'{"size": [1e999, 1], "counts": "0", "area": 0}'])
def test_nesting_and_infinity_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a JSON object with size, counts and area"):
        read_rle(data)
