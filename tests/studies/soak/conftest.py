"""One long run through the command line for all bars: ``ITEMS`` items, 200,000 by default."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

ITEMS = int(os.environ.get("ITEMS") or 200_000)
PHOTOS = 200
SIDES_PX = (64, 48)
RUN_S = 3 * 3600

ROWS_PER_PART = 256
SETTINGS = (
    "recipe.outputs=[mask]",
    # Blocks and parts as large as on GPUs: Ray keeps a record of each of them.
    *("compute.rows_per_block=64", f"compute.rows_per_part={ROWS_PER_PART}", "compute.batch_size=64"),
    *("compute.actors=1", "compute.threads_per_actor=1"),
)


class Soak(NamedTuple):
    """A finished run with its samples."""

    samples: pd.DataFrame
    flow: pd.DataFrame
    """The samples between the first and the last committed item."""
    items: int
    output: Path
    manifest: Path


@pytest.fixture(scope="session")
def soak(
    matteline: str, make_photos: Callable[..., list[Path]], fake_preset: str, clean_env: dict[str, str], results: Callable
) -> Iterator[Soak]:
    """Run the job and sample its processes; the picture and the samples are in ``out/soak``."""
    from figure import draw
    from growth import flowing
    from watch import Sample, Watch

    out: Path = results("soak")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        manifest, output, log = make_manifest(Path(folder), make_photos), Path(folder) / "out", out / "run.log"
        where = ("--manifest", str(manifest), "--output", str(output), "--preset", fake_preset)
        command = [matteline, "run", *where, *(f"--set={setting}" for setting in SETTINGS)]
        with log.open("wb") as words, subprocess.Popen(command, stdout=words, stderr=words, env=clean_env) as run:
            try:
                with Watch(run.pid, lambda: min(ITEMS, ROWS_PER_PART * len(list(output.glob("index/*.parquet"))))) as watch:
                    exit_code = run.wait(RUN_S)
            finally:
                run.terminate()
        samples = pd.DataFrame(watch.samples, columns=Sample._fields)
        samples.to_csv(out / "memory.csv", index=False)
        draw(samples, out / "memory.png")
        if exit_code:
            pytest.exit(f"the run failed with exit code {exit_code}: {log.read_text(errors='replace')[-1500:]}", 1)
        flow = flowing(samples)
        if flow["seconds"].nunique() < 6:
            pytest.exit(f"{ITEMS} items take too little time for a trend; use at least ITEMS=20000", 2)
        yield Soak(samples, flow, ITEMS, output, manifest)


def make_manifest(folder: Path, make_photos: Callable[..., list[Path]]) -> Path:
    """Write a manifest of ``ITEMS`` rows that cycles through ``PHOTOS`` small photos."""
    photos = make_photos(folder / "photos", PHOTOS)
    for photo in photos:
        with Image.open(photo) as image:
            image.resize(SIDES_PX).save(photo, quality=90)
    uris = [f"photos/{photo.name}" for photo in photos]
    table = {"item_id": [f"item-{number:08}" for number in range(ITEMS)], "image_uri": (uris * (ITEMS // PHOTOS + 1))[:ITEMS]}
    pq.write_table(pa.table(table), folder / "manifest.parquet")
    return folder / "manifest.parquet"
