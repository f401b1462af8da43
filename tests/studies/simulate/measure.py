"""Measure the values that ``times.json`` calls measured; copy them by hand: ``python tests/studies/simulate/measure.py``.

The stages are timed on one core, on a bundled photo at several sizes, and fitted as a constant plus a part per megapixel. The
driver's processor time per task is measured in runs of many small tasks.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from realrun import Pace, cluster, real_run
from simulation import EDGE

from pipeline.bench.stages import measure_stages
from pipeline.config.job import Limits, Storage
from pipeline.config.presets import load_preset
from pipeline.paths import EXAMPLES

MEGAPIXELS = (1, 4, 12)
ITEMS, ROWS, PIXELS = 2400, (3, 6), 24_000
"""Of the driver's runs: images so small that little else costs time, in blocks that still go through the object store."""

FAKE = "about: a trial\nlicence: none\ncommercial: true\nsize_mb: 0\nsource: none\nrecipe: {model: fake, frame_px: 64}\n"

Samples = list[tuple[float, dict[int, float]]]
"""Time, and processor seconds by thread."""


def stages(folder: Path) -> dict[str, tuple[float, float]]:
    """Return the seconds of each stage with ben2-base's refiner and colours: constant, and per megapixel."""
    recipe = load_preset("ben2-base").recipe
    photo, rows = next(iter(sorted(EXAMPLES.rglob("*.jpg")))), []
    for size in MEGAPIXELS:
        with Image.open(photo) as image:
            factor = (size * 1e6 / (image.width * image.height)) ** 0.5
            large = image.convert("RGB").resize((round(image.width * factor), round(image.height * factor)), Image.LANCZOS)
        path = folder / f"{size}.jpg"
        large.save(path, quality=90)
        ms = measure_stages(recipe, [str(path)], Limits(), Storage(), folder / str(size), 1.0).ms
        print(f"{size} MP, {path.stat().st_size / size / 1e6:.2f} MB per megapixel:", ms, flush=True)
        rows.append(ms)
    fits = {name: np.polyfit(MEGAPIXELS, [ms[name] / 1e3 for ms in rows], 1) for name in rows[0]}
    return {name: (float(max(0.0, fit[1])), float(fit[0])) for name, fit in fits.items()}


def driver(folder: Path) -> None:
    """Print the driver's milliseconds per task, without the first and the last items."""
    (folder / "fake.yaml").write_text(FAKE)
    with cluster(folder) as nodes:
        nodes.grow(1)
        for rows in ROWS:
            samples: Samples = []
            settings = {"compute.rows_per_block": rows, "compute.rows_per_part": rows, "compute.batch_size": rows}
            run = real_run(
                nodes,
                folder / str(rows),
                str(folder / "fake.yaml"),
                np.full(ITEMS, float(PIXELS)),
                Pace(0, 0, 0),
                settings,
                lambda process, samples=samples: sample(process, samples),
            )
            start, end = np.quantile(run.finished, (EDGE, 1 - EDGE))
            tasks = round((1 - 2 * EDGE) * 5 * -(-ITEMS // rows))  # four per block, and one per part
            before, after = (next(threads for when, threads in samples if when >= moment) for moment in (start, end))
            used = [seconds - before.get(thread, 0.0) for thread, seconds in after.items()]
            seconds = {"busiest thread": max(used), "all threads": sum(used), "wall clock": float(end - start)}
            print(f"{rows} rows per block, ms per task:", {name: 1e3 * s / tasks for name, s in seconds.items()}, flush=True)


def sample(process: subprocess.Popen[bytes], samples: Samples) -> None:
    """Sample the driver's processor seconds by thread until it ends."""
    while process.poll() is None:
        try:
            threads = psutil.Process(process.pid).threads()
        except psutil.Error:
            return
        samples.append((time.time(), {thread.id: thread.user_time + thread.system_time for thread in threads}))
        time.sleep(0.25)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="measure-") as name:
        print(json.dumps(stages(Path(name)), indent=2))
        driver(Path(name))
