"""One long run for all tests here: 200,000 items, or ITEMS, through the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parent
OUT = FOLDER.parents[2] / "out" / "soak"
ITEMS = int(os.environ.get("ITEMS") or 200_000)
PHOTOS = 200
SIDES_PX = (64, 48)
RUN_S = 3 * 3600

ROWS_PER_PART = 256
SETTINGS = (
    "recipe.outputs=[mask]",
    # Blocks and parts of the size that a run on GPUs makes; it is their number that Ray keeps account of.
    *("compute.rows_per_block=64", f"compute.rows_per_part={ROWS_PER_PART}", "compute.batch_size=64"),
    *("compute.actors=1", "compute.threads_per_actor=1"),
)

sys.path.append(str(FOLDER))  # tests are no package


class Soak(NamedTuple):
    """A run that was watched."""

    samples: pd.DataFrame
    flow: pd.DataFrame
    """The samples while items were being committed."""
    items: int
    output: Path
    manifest: Path


@pytest.fixture(scope="session")
def matteline() -> str:
    """The command."""
    return str(Path(sys.executable).with_name("matteline"))


@pytest.fixture(scope="session")
def soak(matteline: str, make_photos: Callable[..., list[Path]], fake_preset: str) -> Iterator[Soak]:
    """The run, over; its plot and its numbers are in ``out/soak``."""
    from figure import draw
    from growth import flowing
    from watch import Sample, Watch

    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        manifest, output, log = make_manifest(Path(folder), make_photos), Path(folder) / "out", OUT / "run.log"
        where = ("--manifest", str(manifest), "--output", str(output), "--preset", fake_preset)
        command = [matteline, "run", *where, *(f"--set={setting}" for setting in SETTINGS)]
        with log.open("wb") as words, subprocess.Popen(command, stdout=words, stderr=words, env=environment()) as run:
            try:
                with Watch(run.pid, lambda: min(ITEMS, ROWS_PER_PART * len(list(output.glob("*/index/*.parquet"))))) as watch:
                    exit_code = run.wait(RUN_S)
            finally:
                run.terminate()
        samples = pd.DataFrame(watch.samples, columns=Sample._fields)
        samples.to_csv(OUT / "memory.csv", index=False)
        draw(samples, OUT / "memory.png")
        if exit_code:
            pytest.exit(f"the run ended with {exit_code}; {log} ends with {log.read_text(errors='replace')[-1500:]}", 1)
        flow = flowing(samples)
        if flow["seconds"].nunique() < 6:
            pytest.exit(f"{ITEMS} items were done too soon to tell anything; try ITEMS=20000", 2)
        yield Soak(samples, flow, ITEMS, output, manifest)


def make_manifest(folder: Path, make_photos: Callable[..., list[Path]]) -> Path:
    """Many items over few photos."""
    photos = make_photos(folder / "photos", PHOTOS)
    for photo in photos:
        with Image.open(photo) as image:
            image.resize(SIDES_PX).save(photo, quality=90)
    places = [f"photos/{photo.name}" for photo in photos]
    table = {"item_id": [f"item-{number:08}" for number in range(ITEMS)], "image_uri": (places * (ITEMS // PHOTOS + 1))[:ITEMS]}
    pq.write_table(pa.table(table), folder / "manifest.parquet")
    return folder / "manifest.parquet"


def environment() -> dict[str, str]:
    """Nobody else's store or cluster."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "RAY_"))}
    return variables | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
