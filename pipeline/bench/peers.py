"""rembg's folder command and ours, on the same photos and the same weights file.

rembg (danielgatis/rembg, MIT) divides a frame by its maximum, resizes with Lanczos both ways, stretches the model's map over
[0, 1] and truncates it to 8 bit at the frame's size (``sessions/base.py``, ``sessions/u2netp.py``). Of our settings
``recipe.frame_resize=lanczos`` and ``recipe.stretch=true`` do the same, but for the way back, which is bilinear, is stretched
at the image's size, and is rounded once. rembg writes cutouts only, with the background's colours left in half-transparent
pixels; its mask is their opacity. Ours writes masks and cutouts.

So ours runs without its refiner, which rembg's command has none of, for the time, and once more over a few photos with these
two settings, for the masks.
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

from pipeline.bench.job import read_index_times
from pipeline.config.job import Storage
from pipeline.config.presets import load_preset
from pipeline.errors import ConfigError
from pipeline.output.index import read_index, recipes
from pipeline.output.layout import Layout
from pipeline.storage.files import Files

MODEL = "u2netp"
AS_REMBG_PHOTOS = 16
UNREFINED = "recipe.refiner=none"
AS_REMBG = (UNREFINED, "recipe.stretch=true", "recipe.frame_resize=lanczos")


@dataclass(frozen=True)
class Peer:
    """A folder command's speed."""

    name: str
    whole_s: float
    """From its start to its end."""
    images_per_s_whole: float
    images_per_s: float
    """Without start-up: of rembg from its first file to its last one, of ours in the steady state."""


@dataclass(frozen=True)
class SideBySide:
    """Both, on the same photos."""

    images: int
    rembg: Peer
    ours: Peer
    times_as_fast: float
    times_as_fast_whole: float
    mask_difference: float
    """Mean |Δ| of the pixels of some masks, made as rembg does, of 255."""


def find_rembg(named: str | None) -> str | None:
    """The command: as named, or on the PATH; None where there is none.

    Raises:
        ConfigError: none is where it was named.
    """
    found = shutil.which(named or "rembg")
    if named and not found:
        raise ConfigError(f"there is no rembg at {named}; give the path of the command itself")
    return found


def side_by_side(rembg: str, photos: Path, folder: Path) -> SideBySide:
    """Run one after the other.

    Args:
        photos: a folder of images, whose names differ in more than their suffix.
        folder: an empty one, on a disk.

    Raises:
        ConfigError: a command failed, or there are too few photos to tell anything.
    """
    theirs, few = folder / "rembg", folder / "few"
    home = {"U2NET_HOME": str(_weights(folder / "weights"))}
    theirs_s = _run([rembg, "p", "-m", MODEL, str(photos), str(theirs)], home)
    ours, ours_s = _ours(photos, folder / "ours", f"--set={UNREFINED}")
    few.mkdir()
    for photo in sorted(photos.iterdir())[:AS_REMBG_PHOTOS]:
        shutil.copy(photo, few)
    as_rembg, _ = _ours(few, folder / "as-rembg", *(f"--set={setting}" for setting in AS_REMBG))
    return compare(_version(rembg), theirs, theirs_s, ours, ours_s, as_rembg, Files(Storage()))


def _ours(photos: Path, output: Path, *settings: str) -> tuple[Layout, float]:
    """What our command leaves behind, and the seconds it takes."""
    where = ["--manifest", str(photos), "--output", str(output), "--preset", MODEL]
    took_s = _run([sys.executable, "-m", "jobs.main", "run", *where, *settings], {})
    (recipe,) = recipes(str(output), Files(Storage()))
    return Layout.of(recipe), took_s


def compare(
    rembg: str, theirs: Path, theirs_s: float, ours: Layout, ours_s: float, as_rembg: Layout, files: Files
) -> SideBySide:
    """What both have left behind.

    Args:
        rembg: its name.
        theirs: its folder of PNGs, named as the images.
        theirs_s, ours_s: seconds of the whole commands.
        as_rembg: masks of some of the photos, made as rembg does.

    Raises:
        ConfigError: too few photos to tell anything.
    """
    written = sorted(path.stat().st_mtime for path in theirs.glob("*.png"))
    images, (flow, _) = len(written), read_index_times(ours, files)
    rembg_flow = (images - 1) / (written[-1] - written[0])
    return SideBySide(
        images,
        Peer(rembg, theirs_s, images / theirs_s, rembg_flow),
        Peer("matteline run", ours_s, images / ours_s, flow.items_per_s),
        times_as_fast=flow.items_per_s / rembg_flow,
        times_as_fast_whole=theirs_s / ours_s,
        mask_difference=_difference(theirs, as_rembg, files),
    )


def _weights(folder: Path) -> Path:
    """A home for rembg with the very file of our preset."""
    folder.mkdir(parents=True)
    shutil.copy(load_preset(MODEL).recipe.weights, folder / f"{MODEL}.onnx")
    return folder


def _run(command: list[str], further: dict[str, str]) -> float:
    """Seconds that a command takes, start and end included."""
    start = time.perf_counter()
    done = subprocess.run(command, env=os.environ | further, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{' '.join(command[:4])} … ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - start


def _version(rembg: str) -> str:
    told = subprocess.run([rembg, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return told.replace(", version", "") or "rembg"


def _difference(theirs: Path, ours: Layout, files: Files) -> float:
    """Mean |Δ| of the opacity, of 255: the mean over the photos."""
    found = []
    for row in pa.concat_tables(read_index(ours, files, ["image_uri", "mask_uri"])).to_pylist():
        cutout, mask = files.read(str(theirs / f"{Path(row['image_uri']).stem}.png")), files.read(row["mask_uri"])
        opacity, alpha = (np.asarray(Image.open(io.BytesIO(data)), np.int16) for data in (cutout, mask))
        found.append(np.abs(opacity[..., 3] - alpha).mean())
    return float(np.mean(found))
