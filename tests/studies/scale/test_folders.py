"""A hundred thousand images in one folder, on a local disk and on S3: listing and naming stay linear."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.config.job import Storage
from pipeline.manifest.manifest import open_manifest, scan
from pipeline.storage.files import Files

pytestmark = [pytest.mark.study, pytest.mark.timeout(3600)]

FEW, MANY = 25_000, 100_000
WRITERS = 32
MAX_RATIO = 1.25
"""Seconds per item of the large folder ÷ those of the small one."""


class Place(NamedTuple):
    """Where the folders are."""

    root: str
    files: Files


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return Place(str(tmp_path), Files())
    s3 = request.getfixturevalue("s3")
    return Place(f"s3://{s3.make_bucket()}/shop", Files(Storage(**s3.settings)))


def fill(place: Place, folder: str, items: int) -> str:
    """Write images of one byte, with names that need no escapes, into one folder."""
    root = f"{place.root}/{folder}"
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda number: place.files.write(f"{root}/photo{number:07}.jpg", b"x"), range(items)))
    return root


def seconds(folder: str, files: Files) -> tuple[float, int]:
    """Return the seconds to open and scan a folder, the best of two, and its number of distinct names."""
    best, names = float("inf"), 0
    for _ in range(2):
        start = time.perf_counter()
        names = len(scan(open_manifest(folder, files), files).names)
        best = min(best, time.perf_counter() - start)
    return best, names


def test_listing_and_naming_are_linear(place: Place, bars: Any, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.id
    few, many = fill(place, "few", FEW), fill(place, "many", MANY)
    (few_s, few_names), (many_s, many_names) = seconds(few, place.files), seconds(many, place.files)
    assert (few_names, many_names) == (FEW, MANY)
    bars.at_most(
        f"{kind}: {MANY:,} images in one folder, listed and named in {many_s:.1f} s: per item ÷ {FEW:,} in {few_s:.1f} s",
        (many_s / MANY) / (few_s / FEW),
        MAX_RATIO,
    )
