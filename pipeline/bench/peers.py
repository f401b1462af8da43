"""Compare rembg's folder command with ours on the same photos and the same weights file.

rembg (danielgatis/rembg, MIT) divides a frame by its maximum, resizes with Lanczos both ways, stretches the model's map over
[0, 1] and truncates it to 8 bit at the frame's size (``sessions/base.py``, ``sessions/u2netp.py``). With
``recipe.frame_resize=lanczos`` and ``recipe.stretch=true`` ours does the same, except for the way back: ours is bilinear,
stretches at the image's size, and rounds once. rembg writes cutouts only, and leaves the background's colours in
half-transparent pixels; its mask is their opacity. Ours writes masks and cutouts.

Speed is compared without a refiner, since rembg's command has none. Masks are compared in a second run with those settings.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.bench.job import read_steady
from pipeline.config.presets import load_preset
from pipeline.errors import ConfigError
from pipeline.output.index import read_index
from pipeline.output.output import Output, open_output
from pipeline.storage.files import Files

MODEL = "u2netp"
MASK_PHOTOS = 16
UNREFINED = "recipe.refiner=none"
AS_REMBG = (UNREFINED, "recipe.stretch=true", "recipe.frame_resize=lanczos")


@dataclass(frozen=True)
class Comparison:
    """Both commands on the same photos."""

    images: int
    rembg_s: float
    """Seconds of the command, with start-up."""
    ours_s: float
    rembg_per_s: float
    """Images per second without start-up: from its first file to its last."""
    ours_per_s: float
    """Images per second in the steady state."""
    mask_difference: float
    """Mean absolute difference of the masks, of 255, with ours set as rembg is."""

    @property
    def speedup(self) -> float:
        """Ours ÷ rembg, in images per second without start-up."""
        return self.ours_per_s / self.rembg_per_s


def compare_with_rembg(rembg: str, photos: Path, folder: Path) -> Comparison:
    """Run one command after the other.

    Args:
        rembg: Path of the command.
        photos: A folder of images whose names differ in more than their suffix.
        folder: An empty folder on a disk.

    Raises:
        ConfigError: A command failed, or there are too few photos for a steady state.
    """
    theirs, few, home = folder / "rembg", folder / "few", folder / "weights"
    home.mkdir(parents=True)
    shutil.copy(load_preset(MODEL).recipe.weights, home / f"{MODEL}.onnx")  # the very same weights file
    theirs_s = _run([rembg, "p", "-m", MODEL, str(photos), str(theirs)], {"U2NET_HOME": str(home)})
    ours, ours_s = _run_ours(photos, folder / "ours", UNREFINED)
    few.mkdir()
    for photo in sorted(photos.iterdir())[:MASK_PHOTOS]:
        shutil.copy(photo, few)
    as_rembg, _ = _run_ours(few, folder / "as-rembg", *AS_REMBG)
    written = sorted(path.stat().st_mtime for path in theirs.glob("*.png"))
    return Comparison(
        images=len(written),
        rembg_s=theirs_s,
        ours_s=ours_s,
        rembg_per_s=(len(written) - 1) / (written[-1] - written[0]),
        ours_per_s=read_steady(ours).items_per_s,
        mask_difference=mask_difference(theirs, as_rembg),
    )


def _run_ours(photos: Path, output: Path, *settings: str) -> tuple[Output, float]:
    """Run our command, and return its output and the seconds that it took."""
    where = ["--manifest", str(photos), "--output", str(output), "--preset", MODEL]
    command = [sys.executable, "-m", "jobs.main", "run", *where, *(f"--set={setting}" for setting in settings)]
    took_s = _run(command, {})
    return open_output(str(output), Files()), took_s


def _run(command: list[str], variables: dict[str, str]) -> float:
    """Run a command, and return the seconds from its start to its exit."""
    start = time.perf_counter()
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{' '.join(command[:4])} … failed with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - start


def mask_difference(theirs: Path, ours: Output) -> float:
    """Return the mean absolute difference between rembg's PNGs and our masks, of 255: the mean over our photos."""
    differences = []
    for row in pa.concat_tables(read_index(ours, ["image_uri", "mask_path"])).to_pylist():
        cutout, mask = (theirs / f"{Path(row['image_uri']).stem}.png").read_bytes(), ours.read(row["mask_path"])
        opacity, alpha = (np.asarray(Image.open(io.BytesIO(data)), np.int16) for data in (cutout, mask))
        differences.append(np.abs(opacity[..., 3] - alpha).mean())
    return float(np.mean(differences))
