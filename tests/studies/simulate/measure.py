"""Measure what ``times.json`` says of this machine: ``python tests/simulate/measure.py``; a person copies the numbers.

The stages on one core, on a bundled photo at several sizes, fitted as so many seconds and so many for every million pixels;
and the driver's processor time a task, in runs of many small tasks.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parent
sys.path.append(str(FOLDER))

MEGAPIXELS = (1, 4, 12)
ITEMS, ROWS, PIXELS = 2400, (3, 6), 24_000
"""For the driver: images so small that little else is to do, and blocks that still go through the object store."""

FAKE = "about: a trial\nlicence: none\ncommercial: true\nsize_mb: 0\nsource: none\nrecipe: {model: fake, frame_px: 64}\n"


def stages(folder: Path) -> dict[str, tuple[float, float]]:
    """Seconds of each stage: constant, and for every million pixels. Of ben2-base, whose refiner and colours they are."""
    from pipeline.bench.stages import stages_alone
    from pipeline.config.job import Limits, Storage
    from pipeline.config.presets import load_preset
    from pipeline.examples import __path__ as examples

    photo = next(path for path in sorted(Path(examples[0]).rglob("*.jpg")))
    found = []
    for size in MEGAPIXELS:
        with Image.open(photo) as image:
            factor = (size * 1e6 / (image.width * image.height)) ** 0.5
            large = image.convert("RGB").resize((round(image.width * factor), round(image.height * factor)), Image.LANCZOS)
        place = folder / f"{size}.jpg"
        large.save(place, quality=90)
        recipe = load_preset("ben2-base").recipe
        measured = stages_alone(recipe, [str(place)], Limits(), Storage(), folder / str(size), 1.0)
        print(f"{size} MP, {place.stat().st_size / size / 1e6:.2f} MB a megapixel:", measured.ms, flush=True)
        found.append(measured.ms)
    fits = {name: np.polyfit(MEGAPIXELS, [ms[name] / 1e3 for ms in found], 1) for name in found[0]}
    return {name: (float(max(0.0, fit[1])), float(fit[0])) for name, fit in fits.items()}


def driver(folder: Path) -> None:
    """Milliseconds of the driver a task."""
    from realrun import Pace, nodes, real_run

    (folder / "fake.yaml").write_text(FAKE)
    with nodes(folder) as found:
        found.grow(1)
        for rows in ROWS:
            settings = {"compute.rows_per_block": rows, "compute.rows_per_part": rows, "compute.batch_size": rows}
            preset, small = str(folder / "fake.yaml"), np.full(ITEMS, float(PIXELS))
            seen = real_run(found, folder / str(rows), preset, small, Pace(0, 0, 0), settings | {"recipe.outputs": "[mask]"})
            told = {"busiest thread": seen.driver_cpu_s, "all threads": seen.driver_all_cpu_s, "wall clock": seen.seconds}
            print(f"{rows} rows a block, ms a task:", {name: 1e3 * s / seen.tasks for name, s in told.items()}, flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="measure-") as name:
        print(json.dumps(stages(Path(name)), indent=2))
        driver(Path(name))
