"""What the measurements share: photos of a camera's size, stand-in weights, and where the numbers are kept."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[2]
DATA = Path(os.environ.get("DATA") or ROOT.parent / "shared")
OUT = ROOT / "out" / "bench"

sys.path.append(str(FOLDER))  # tests are no package


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """BEN2's stand-in; what is made of it and kept goes with it."""
    from pipeline.bench.dummy_weights import write_standin

    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MATTELINE_CACHE", str(folder / "cache"))
        yield write_standin("ben2-base", folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[int, int], int], Path]:
    """``photos((width, height), count)``: a folder of JPEGs."""
    from enlarged import small_photos, write_photos

    @functools.cache
    def make(size: tuple[int, int], count: int) -> Path:
        return write_photos(small_photos(DATA), tmp_path_factory.mktemp("photos"), size, count)

    return make


@pytest.fixture(scope="session")
def keep() -> Iterator[Callable[[str, Any], None]]:
    """``keep(name, numbers)``: into ``out/bench/measured.json``, with the machine they are of."""
    from pipeline.bench.machine import describe

    kept: dict[str, Any] = {"machine": asdict(describe())}
    yield lambda name, numbers: kept.update({name: numbers})
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "measured.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
