"""Fixtures of ``make bench``: photos of a camera's size, dummy weights, and the file of results."""

from __future__ import annotations

import functools
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from pipeline.bench.dummy_weights import write_dummy_weights
from pipeline.bench.machine import describe

GRAIN = 4.0
"""Standard deviation in levels; it makes a JPEG of quality 90 as large as a camera's, about 0.3 bytes per pixel."""


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """BEN2's dummy weights, in a cache of their own."""
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MATTELINE_CACHE", str(folder / "cache"))
        yield write_dummy_weights("ben2-base", folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def photos(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[int, int], int], Path]:
    """``photos((width, height), count)``: a folder of JPEGs, enlarged from the evaluation photos, the largest first."""

    @functools.cache
    def make(size: tuple[int, int], count: int) -> Path:
        folder = tmp_path_factory.mktemp("photos")
        table = pq.read_table(data / "eval" / "photos.parquet", columns=["image", "width", "height"])
        rows = sorted(table.to_pylist(), key=lambda row: -row["width"] * row["height"])
        for number, row in enumerate(rows[:count]):
            photo = ImageOps.fit(Image.open(io.BytesIO(row["image"])).convert("RGB"), size, Image.Resampling.LANCZOS)
            grain = np.random.default_rng(number).standard_normal(size[::-1], np.float32)[..., None] * GRAIN
            pixels = np.clip(np.asarray(photo, np.float32) + grain, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"photo-{number:03}.jpg", quality=90)
        return folder

    return make


@pytest.fixture(scope="session")
def keep(results: Callable[[str], Path]) -> Iterator[Callable[[str, Any], None]]:
    """``keep(name, numbers)``: add numbers to ``out/bench/measured.json``, which also describes the machine."""
    kept: dict[str, Any] = {"machine": asdict(describe())}
    yield lambda name, numbers: kept.update({name: numbers})
    (results("bench") / "measured.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
