"""Stretches of a listing have each file once, whatever order the store lists in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest

from pipeline.concurrency import in_this_process
from pipeline.errors import StorageError
from pipeline.output import listing
from pipeline.output.listing import KeySample, Stretch, list_objects
from pipeline.output.output import Output

NAMES = [
    f"{folder}/{name}.png" for folder in ("masks", "cutouts") for name in ("a/x", "a-1", "a", "a/y", "a0", "b/c/d", "b", "é")
]


@pytest.fixture
def output(where: Any, monkeypatch: pytest.MonkeyPatch) -> Output:
    monkeypatch.setattr(listing, "STRETCH", 2)
    for name in (*NAMES, "index/part.parquet", "masks/a/.hidden"):
        where.put(f"out/{name}", b"x")
    return Output.at(f"{where.root}/out", where.files)


def sample_of(names: list[str]) -> KeySample:
    sample = KeySample()
    sample.add(pa.chunked_array([pa.array([name.encode() for name in names], pa.binary())]))
    return sample


def paths(tables: Iterator[pa.Table]) -> list[str]:
    return sorted(path.decode() for table in tables for path in table["path"].to_pylist())


def test_stretches_have_each_file_once(output: Output) -> None:
    seen: list[Stretch] = []

    def each(step: Callable[[Any], Iterator[Any]], units: Sequence[Any]) -> Iterator[Any]:
        seen.extend(units)
        return in_this_process(step, units[::-1])

    outside = ["../out/masks/a.png", "masks/./a.png", "/x", "masks//a.png"]
    sample = sample_of([*NAMES, "masks/gone", *outside])  # a name without an object is no boundary
    assert paths(list_objects(output, [""], sample, each)) == sorted([*NAMES, "index/part.parquet", "masks/a/.hidden"])
    assert 6 <= len(seen) <= 11 if output.folder.startswith("s3:") else len(seen) == 1
    shown = list_objects(output, ["masks", "trimaps"], sample, in_this_process)
    assert paths(shown) == sorted([name for name in NAMES if name.startswith("masks/")] + ["masks/a/.hidden"])


def test_an_empty_sample_makes_one_stretch(output: Output) -> None:
    assert len(paths(list_objects(output, ["masks"], KeySample(), in_this_process))) == 9


def test_a_listing_that_misses_a_boundary_is_an_error(remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "STRETCH", 2)
    for name in NAMES:
        remote.put(f"out/{name}", b"x")
    output = Output.at(f"{remote.root}/out", remote.files)
    scan = type(remote.files).scan
    monkeypatch.setattr(type(remote.files), "scan", lambda files, uri, after="": scan(files, uri))  # a store that ignores it
    with pytest.raises(StorageError, match="changed while they were listed"):
        list(list_objects(output, [""], sample_of(NAMES), in_this_process))


def test_a_sample_is_small_and_even(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_STRETCHES", 50)
    sample = KeySample()
    for start in range(0, 10_000, 37):
        stop = min(10_000, start + 37)
        sample.add(pa.chunked_array([pa.array([f"{n:05}".encode() for n in range(start, stop)], pa.binary())]))
    numbers = [int(key) for key in sample.keys.to_pylist()]
    assert sample.count == 10_000
    assert 50 <= len(numbers) <= 100
    assert {later - earlier for earlier, later in pairwise(numbers)} == {128}
