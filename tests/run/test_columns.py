from __future__ import annotations

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.concurrency import map_ahead
from pipeline.errors import DecodeError, FetchError
from pipeline.run.stages.columns import Packed, attempt, errors_of, pack, replace, unpack, with_errors
from pipeline.schema import MAX_DETAIL


@given(st.lists(st.one_of(st.none(), st.tuples(st.integers(1, 9), st.integers(1, 9))), max_size=8), st.integers(0, 9))
def test_pixels_come_back_as_they_went(shapes: list[tuple[int, int] | None], seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [None if shape is None else rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    packed = pack(images)
    assert packed.type == pa.large_binary()
    packed.validate(full=True)
    half = len(images) // 2
    column = pa.chunked_array([packed.slice(0, half), packed.slice(half)])  # as Ray cuts and joins them
    for row, image in enumerate(images):
        back = unpack(column, row, (1,) if image is None else image.shape)
        assert (back is None) == (image is None)
        assert image is None or np.array_equal(back, image)


def test_unpacking_copies_nothing() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    packed = pack([image, image])
    view = unpack(pa.chunked_array([packed]), 0, (2, 2, 3))
    assert view is not None and not view.flags.writeable
    assert view.__array_interface__["data"][0] == packed.buffers()[2].address


def test_packing_one_copies_nothing() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert pack([None, image]).buffers()[2].address == image.__array_interface__["data"][0]
    part = image[:, ::-1]
    assert np.array_equal(unpack(pa.chunked_array([pack([part, None])]), 0, (2, 2, 3)), part)


def items(*codes: str | None) -> pa.Table:
    details = [None if code is None else "as before" for code in codes]
    return pa.table({"error_code": pa.array(codes, pa.string()), "error_detail": pa.array(details, pa.string())})


def test_errors_are_written_once_and_kept() -> None:
    table = items(None, "fetch", None)
    errors = errors_of(table)

    def fail() -> None:
        raise DecodeError("x" * 2 * MAX_DETAIL)

    assert [attempt(errors, row, fail) for row in range(3)] == [None, None, None]
    written = with_errors(table, errors)
    assert written["error_code"].to_pylist() == ["decode", "fetch", "decode"]
    assert written["error_detail"][1].as_py() == "as before"
    assert len(written["error_detail"][0].as_py()) == MAX_DETAIL


def test_only_item_errors_are_caught() -> None:
    errors = errors_of(items(None))
    try:
        attempt(errors, 0, lambda: {}[1])
    except KeyError:
        assert errors == [None]
    else:
        raise AssertionError("a bug was taken for an item's fault")
    assert attempt(errors, 0, lambda: 5) == 5
    errors[0] = FetchError("gone")
    assert attempt(errors, 0, lambda: 5) is None


def test_replace_sets_and_adds() -> None:
    table = replace(pa.table({"a": [1, 2]}), a=pa.array([3, 4]), b=pa.array(["x", "y"]))
    assert table.to_pydict() == {"a": [3, 4], "b": ["x", "y"]}


def test_ahead_keeps_order_and_its_window() -> None:
    """No step ends before four have begun, and never have more than four begun that weren't asked for."""
    begun, taken, lock, four = 0, 0, threading.Lock(), threading.Event()
    most = 0

    def step(number: int) -> int:
        nonlocal begun, most
        with lock:
            begun += 1
            most = max(most, begun - taken)
            if begun >= 4:
                four.set()
        assert four.wait(30)
        return number * number

    with ThreadPoolExecutor(16) as pool:
        results = []
        for result in map_ahead(pool, step, range(50), window=4):
            results.append(result)
            with lock:
                taken += 1
    assert results == [number * number for number in range(50)]
    assert most == 4


def test_packed_arrays_are_let_go() -> None:
    """A worker that decodes photo after photo holds each of them once."""
    packed, first, second = Packed(), np.full((2, 3), 1, np.uint8), np.full((1, 3), 2, np.uint8)
    alive = [weakref.ref(first), weakref.ref(second)]
    packed.add(None)
    packed.add(first)
    packed.add(second)
    del first, second
    assert [one() for one in alive] == [None, None]
    assert packed.bytes == 9
    assert packed.column().to_pylist() == [None, bytes([1] * 6), bytes([2] * 3)]
