"""``make bench``: the bars on speed, as ratios within one run, each the median of three alternating rounds."""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rounds import alternately, timed

from pipeline.bench.job import Whole, run_whole
from pipeline.bench.machine import matrix_rate
from pipeline.bench.model import flop_per_item, open_model, time_model
from pipeline.bench.peers import SideBySide, find_rembg, side_by_side
from pipeline.bench.photos import find_photos
from pipeline.bench.subject import open_subject
from pipeline.concurrency import local_cpus
from pipeline.config.job import Limits, Storage
from pipeline.imaging.decode import decode
from pipeline.imaging.encode import encode_cutout
from pipeline.imaging.foreground import estimate_foreground
from pipeline.models.engines.openvino import has_bf16
from pipeline.segmenter import Segmenter
from pipeline.storage.files import Files

pytestmark = [pytest.mark.study, pytest.mark.timeout(3600)]

FRAME_PX = 1024
PHOTO_12MP, PHOTO_2MP = (4000, 3000), (1632, 1224)
PEERS_PHOTOS = 80
needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this CPU has no instructions for bf16")

Keep = Callable[[str, Any], None]
MakePhotos = Callable[[tuple[int, int], int], Path]


def quotients(dividends: list[float], divisors: list[float]) -> float:
    """The median of a round's quotients."""
    return median(one / other for one, other in zip(dividends, divisors, strict=True))


@pytest.fixture(scope="module")
def forward_s(weights: Path, keep: Keep) -> dict[str, list[float]]:
    """Seconds of BEN2's forward pass at 1024², of the plain form in fp32 and of ours."""
    from memory import open_form

    frames = np.random.default_rng(0).integers(0, 256, (1, FRAME_PX, FRAME_PX, 3), np.uint8)
    names = ("plain", "fp32", *(["bf16"] if has_bf16() else []))
    works = {name: timed(functools.partial(open_form(name, weights, local_cpus()), frames)) for name in names}
    if has_bf16():  # in GFLOP/s, not in seconds
        works["rate"] = lambda: matrix_rate("bf16", device="cpu", threads=local_cpus(), for_s=0.5).gflops
    found = alternately(works)
    keep("forward, s", found)
    return found


def test_ben2_in_fp32(forward_s: dict[str, list[float]], bars: Any) -> None:
    plain_s, ours_s = forward_s["plain"], forward_s["fp32"]
    name = f"BEN2 1024², fp32: times as fast as the plain form ({median(plain_s):.1f} s; ours {median(ours_s):.2f} s)"
    bars.at_least(name, quotients(plain_s, ours_s), 2.5)


@needs_bf16
def test_ben2_in_bf16(forward_s: dict[str, list[float]], bars: Any) -> None:
    plain_s, ours_s = forward_s["plain"], forward_s["bf16"]
    name = f"BEN2 1024², bf16: times as fast as the plain form in fp32 (ours {median(ours_s):.2f} s)"
    bars.at_least(name, quotients(plain_s, ours_s), 4)


@needs_bf16
def test_little_time_is_lost_beside_the_products(forward_s: dict[str, list[float]], bars: Any) -> None:
    """Against the best rate of all rounds."""
    gflops, gflop = max(forward_s["rate"]), flop_per_item(FRAME_PX) / 1e9
    name = f"BEN2 1024², bf16: its time ÷ that of its {gflop:.0f} GFLOP at the machine's {gflops:.0f} GFLOP/s"
    bars.at_most(name, median(forward_s["bf16"]) * gflops / gflop, 2.5)


@pytest.fixture(scope="module")
def memory_mib(weights: Path, keep: Keep) -> dict[str, dict[str, float]]:
    """By form, from a process of its own; see ``memory.py``."""
    from memory import open_form

    script = str(Path(__file__).with_name("memory.py"))

    def measure(form: str) -> dict[str, float]:
        command = [sys.executable, script, form, str(weights), str(local_cpus())]
        found: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        return found

    open_form("fp32", weights, local_cpus())  # what an engine makes of weights once isn't counted
    forms = ("plain", "fp32", *(["bf16"] if has_bf16() else []))
    for form in forms[1:]:
        measure(form)  # the first ever makes the graph that is kept for all others
    found = {form: measure(form) for form in forms}
    keep("memory, MiB", found)
    return found


@pytest.mark.parametrize(("since", "what"), (("loaded", "a forward pass"), ("before", "network and forward pass")))
@pytest.mark.parametrize("form", ("fp32", pytest.param("bf16", marks=needs_bf16)))
def test_ben2_needs_little_memory(memory_mib: dict[str, dict[str, float]], bars: Any, form: str, since: str, what: str) -> None:
    """The peak, less what was there before: the loaded network, or the libraries alone."""
    plain, ours = (memory_mib[name]["peak"] - memory_mib[name][since] for name in ("plain", form))
    about = f"({plain:.0f} MiB; ours {ours:.0f})"
    bars.at_most(f"BEN2 1024², {form}: memory of {what} ÷ that of the plain form {about}", ours / plain, 0.5)


def efficiency(preset: str, settings: list[str], folder: Path, items: int, tmp: Path, keep: Keep) -> tuple[float, str]:
    """Whole job ÷ model alone in items a second, and both in words."""
    found = find_photos(str(folder), Files(Storage()))
    subject = open_subject(preset, settings, found, tmp / "subject")

    def alone() -> float:
        return subject.pool.actors / time_model(open_model(subject), subject.batch, 5.0)

    def whole() -> Whole:
        with tempfile.TemporaryDirectory(dir=tmp) as output:
            job = subject.job.model_copy(update={"output": output})
            return run_whole(replace(subject, job=job), found, items)

    measured: dict[str, list[Any]] = alternately({"alone": alone, "whole": whole})
    models, jobs = measured["alone"], [one.items_per_s for one in measured["whole"]]
    keep(f"job, {preset}", {"alone, items/s": models, "whole": [asdict(one) for one in measured["whole"]]})
    return quotients(jobs, models), f"(alone {median(models):.3g} items/s, in the job {median(jobs):.3g})"


def test_pipeline_efficiency_of_ben2(weights: Path, photos: MakePhotos, tmp_path: Path, keep: Keep, bars: Any) -> None:
    settings = [f"recipe.weights={weights}", "recipe.refiner=none"]
    share, words = efficiency("ben2-base", settings, photos(PHOTO_12MP, 16), 16, tmp_path, keep)
    bars.at_least(f"ben2-base, 12-megapixel JPEGs: whole job ÷ model alone {words}", share, 0.95)


def test_pipeline_efficiency_of_u2netp(photos: MakePhotos, tmp_path: Path, keep: Keep, bars: Any) -> None:
    share, words = efficiency("u2netp", ["recipe.refiner=none"], photos(PHOTO_2MP, 160), 160, tmp_path, keep)
    bars.at_least(f"u2netp, 2-megapixel JPEGs: whole job ÷ model alone {words}", share, 0.70)


@pytest.fixture(scope="module")
def beside_rembg(photos: MakePhotos, tmp_path_factory: pytest.TempPathFactory, keep: Keep) -> list[SideBySide]:
    """Both folder commands, in every round."""
    rembg = find_rembg(os.environ.get("REMBG"))
    if rembg is None:
        pytest.skip("no rembg; `make bench` installs one beside ours")
    folder = photos(PHOTO_2MP, PEERS_PHOTOS)
    found = alternately({"rembg": lambda: side_by_side(rembg, folder, tmp_path_factory.mktemp("peers"))})["rembg"]
    keep("peers", [asdict(one) for one in found])
    return found


def test_faster_than_rembg(beside_rembg: list[SideBySide], bars: Any) -> None:
    theirs, ours, whole = (
        median(getter(one) for one in beside_rembg)
        for getter in (
            lambda one: one.rembg.images_per_s,
            lambda one: one.ours.images_per_s,
            lambda one: one.times_as_fast_whole,
        )
    )
    about = f"({theirs:.2f}; ours {ours:.2f}; {PEERS_PHOTOS} photos with both start-ups: {whole:.2f} times)"
    name = f"u2netp, 2-megapixel JPEGs: images a second ÷ those of rembg's folder command {about}"
    bars.at_least(name, median(one.times_as_fast for one in beside_rembg), 2)


def test_the_same_masks_as_rembg(beside_rembg: list[SideBySide], bars: Any) -> None:
    name = "u2netp, stretched as rembg does: masks' mean |Δ| of 255"
    bars.at_most(name, max(one.mask_difference for one in beside_rembg), 1)


@pytest.fixture(scope="module")
def cutouts(photos: MakePhotos) -> list[np.ndarray]:
    """Three cutouts of 12 megapixels, (H, W, 4) straight RGBA, black where nothing is seen."""
    segmenter, made = Segmenter("u2netp"), []
    for path in sorted(photos(PHOTO_12MP, 3).iterdir()):
        image = decode(path.read_bytes(), Limits())
        mask = segmenter(image).alpha
        pixels = np.dstack([estimate_foreground(image, mask, "blur_fusion"), mask])
        pixels[mask == 0] = 0
        made.append(pixels)
    return made


@pytest.fixture(scope="module")
def encoded(cutouts: list[np.ndarray], keep: Keep) -> dict[str, Any]:
    """Seconds for all of them by Pillow's default and by ours, by round, and the bytes."""
    files: dict[str, list[bytes]] = {}

    def pillow() -> None:
        files["Pillow"] = []
        for pixels in cutouts:
            Image.fromarray(pixels).save(sink := io.BytesIO(), "PNG")
            files["Pillow"].append(sink.getvalue())

    def ours() -> None:
        files["ours"] = [encode_cutout(pixels[..., :3], pixels[..., 3]) for pixels in cutouts]

    found = alternately({"Pillow": timed(pillow), "ours": timed(ours)})
    sizes = {name: sum(map(len, made)) for name, made in files.items()}
    keep("encoding three cutouts", {"s": found, "bytes": sizes})
    return {"s": found, "bytes": sizes, "files": files}


def test_cutouts_are_encoded_fast(encoded: dict[str, Any], bars: Any) -> None:
    pillow_s, ours_s = encoded["s"]["Pillow"], encoded["s"]["ours"]
    about = f"({median(pillow_s) / 3:.2f} s each; ours {median(ours_s) / 3:.3f})"
    bars.at_least(f"12-megapixel cutout: times as fast as Pillow's default {about}", quotients(pillow_s, ours_s), 4)


def test_cutouts_stay_small(encoded: dict[str, Any], bars: Any) -> None:
    sizes = encoded["bytes"]
    about = f"({sizes['Pillow'] / 3e6:.1f} MB each; ours {sizes['ours'] / 3e6:.1f})"
    bars.at_most(f"12-megapixel cutout: bytes ÷ those of Pillow's default {about}", sizes["ours"] / sizes["Pillow"], 1.15)


def test_cutouts_are_lossless(encoded: dict[str, Any], cutouts: list[np.ndarray], bars: Any) -> None:
    found = [np.asarray(Image.open(io.BytesIO(data))) for data in encoded["files"]["ours"]]
    wrong = sum(int((one != pixels).any(-1).sum()) for one, pixels in zip(found, cutouts, strict=True))
    bars.at_most("12-megapixel cutout: pixels that Pillow reads otherwise than they were", wrong, 0)
