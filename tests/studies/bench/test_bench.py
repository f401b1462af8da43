"""``make bench``: the bars on speed and memory, as ratios within one run, each the median of alternating rounds."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, TypeVar

import numpy as np
import pytest
from memory import load_form
from PIL import Image

from pipeline.bench.job import JobSpeed, measure_job
from pipeline.bench.machine import matrix_rate
from pipeline.bench.model import flop_per_item, time_model
from pipeline.bench.peers import Comparison, compare_with_rembg
from pipeline.bench.photos import find_photos, noise
from pipeline.bench.stages import measure_stages
from pipeline.bench.subject import open_subject
from pipeline.bench.timing import time_calls
from pipeline.concurrency import local_cpus
from pipeline.config.job import Limits, Storage
from pipeline.imaging.decode import decode
from pipeline.imaging.png import encode_cutout
from pipeline.models.engines.openvino import has_bf16
from pipeline.segmenter import Segmenter
from pipeline.storage.files import Files

pytestmark = [pytest.mark.study, pytest.mark.timeout(3600)]

T = TypeVar("T")
FRAME_PX = 1024
PHOTO_12MP, PHOTO_2MP = (4000, 3000), (1632, 1224)
PEER_PHOTOS = 80
FORMS = ("plain", "fp32", *(["bf16"] if has_bf16() else []))
needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this CPU has no instructions for bf16")

Keep = Callable[[str, Any], None]
MakePhotos = Callable[[tuple[int, int], int], Path]
Rounds = dict[str, list[float]]


def alternate(works: Mapping[str, Callable[[], T]], rounds: int = 3) -> dict[str, list[T]]:
    """Return each work's results by round. Works alternate, so that other load on the machine slows all of them down."""
    results: dict[str, list[T]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            results[name].append(work())
    return results


def once(work: Callable[[], object]) -> Callable[[], float]:
    """Warm the work up, and return it as one that returns its seconds."""
    work()
    return lambda: time_calls(work, warm_up=False)[0]


def ratio(dividends: list[float], divisors: list[float]) -> float:
    """Return the median of the rounds' ratios."""
    return median(one / other for one, other in zip(dividends, divisors, strict=True))


@pytest.fixture(scope="module")
def forward_s(weights: Path, keep: Keep) -> Rounds:
    """Seconds of BEN2's forward pass at 1024²: of the plain form in fp32 and of ours; and the machine's rate, in GFLOP/s."""
    frames = noise(1, FRAME_PX, FRAME_PX)
    models = {form: load_form(form, weights, local_cpus()) for form in FORMS}
    works = {form: once(lambda model=model: model(frames)) for form, model in models.items()}
    if has_bf16():
        works["rate"] = lambda: matrix_rate("bf16", device="cpu", threads=local_cpus(), for_s=0.5)
    found = alternate(works)
    keep("forward, s", found)
    return found


@pytest.mark.parametrize(("form", "limit"), [("fp32", 2.5), pytest.param("bf16", 4, marks=needs_bf16)])
def test_ben2_is_faster_than_the_plain_form(forward_s: Rounds, bars: Any, form: str, limit: float) -> None:
    plain_s, ours_s = forward_s["plain"], forward_s[form]
    about = f"({median(plain_s):.1f} s; ours {median(ours_s):.2f} s)"
    bars.at_least(f"BEN2 1024², {form}: times as fast as the plain form in fp32 {about}", ratio(plain_s, ours_s), limit)


@needs_bf16
def test_ben2_is_near_the_machine_s_rate(forward_s: Rounds, weights: Path, bars: Any) -> None:
    gflops, gflop = max(forward_s["rate"]), flop_per_item(weights, FRAME_PX) / 1e9
    name = f"BEN2 1024², bf16: its time ÷ that of its {gflop:.0f} GFLOP at the machine's {gflops:.0f} GFLOP/s"
    bars.at_most(name, median(forward_s["bf16"]) * gflops / gflop, 2.5)


@pytest.fixture(scope="module")
def memory_mib(weights: Path, keep: Keep) -> dict[str, dict[str, float]]:
    """Resident memory by form, each measured in a process of its own; see ``memory.py``."""

    def measure(form: str) -> dict[str, float]:
        command = [sys.executable, str(Path(__file__).with_name("memory.py")), form, str(weights), str(local_cpus())]
        return dict(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))

    for form in FORMS[1:]:
        measure(form)  # the first process ever builds the graph that all others read from the cache
    found = {form: measure(form) for form in FORMS}
    keep("memory, MiB", found)
    return found


@pytest.mark.parametrize(("since", "what"), [("loaded", "a forward pass"), ("before", "network and forward pass")])
@pytest.mark.parametrize("form", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_ben2_needs_little_memory(memory_mib: dict[str, dict[str, float]], bars: Any, form: str, since: str, what: str) -> None:
    """Compare the peak less the memory before: with the network loaded, or with the libraries alone."""
    plain, ours = (memory_mib[name]["peak"] - memory_mib[name][since] for name in ("plain", form))
    about = f"({plain:.0f} MiB; ours {ours:.0f})"
    bars.at_most(f"BEN2 1024², {form}: memory of {what} ÷ that of the plain form {about}", ours / plain, 0.5)


@pytest.mark.parametrize(
    ("preset", "size", "items", "limit"),
    [("ben2-base", PHOTO_12MP, 16, 0.95), ("u2netp", PHOTO_2MP, 160, 0.75), ("mvanet-lite", PHOTO_2MP, 160, 0.75)],
)
def test_pipeline_efficiency(
    preset: str,
    size: tuple[int, int],
    items: int,
    limit: float,
    weights: Path,
    photos: MakePhotos,
    tmp_path: Path,
    keep: Keep,
    bars: Any,
) -> None:
    settings = ["recipe.refiner=none", *([f"recipe.weights={weights}"] if preset == "ben2-base" else [])]
    found = find_photos(str(photos(size, items)), Files())
    subject = open_subject(preset, settings, found, tmp_path / "subject")

    def measure() -> JobSpeed:
        alone = subject.pool.actors / time_model(subject.load().model, subject.batch, 5.0)
        return measure_job(subject, found, items, alone)

    jobs = alternate({preset: measure})[preset]
    keep(f"job, {preset}", [asdict(job) for job in jobs])
    alone, whole = (median(getattr(job, name) for job in jobs) for name in ("model_items_per_s", "items_per_s"))
    about = f"(alone {alone:.3g} items/s, in the job {whole:.3g})"
    name = f"{preset}, {size[0] * size[1] / 1e6:.0f}-megapixel JPEGs: whole job ÷ model alone {about}"
    bars.at_least(name, median(job.efficiency for job in jobs), limit)


def test_little_is_done_around_ben2(weights: Path, photos: MakePhotos, tmp_path: Path, keep: Keep, bars: Any) -> None:
    """Compare the CPU time of all stages of an item, without Ray, with that of the model."""
    settings = ["recipe.refiner=none", f"recipe.weights={weights}"]
    found = find_photos(str(photos(PHOTO_12MP, 4)), Files())
    subject = open_subject("ben2-base", settings, found, tmp_path / "subject")
    stages = measure_stages(subject.job.recipe, found.uris, Limits(), Storage(), tmp_path, 1.0)
    keep("stages around BEN2, ms", stages.ms)
    within = ("frame", "restore")  # parts of "around the model"
    around_s = sum(ms for stage, ms in stages.ms.items() if stage not in within) / 1e3
    model, frames = subject.load().model, noise(1, FRAME_PX, FRAME_PX)
    model(frames)
    before = process_time()
    model(frames)
    model_s = process_time() - before
    name = f"ben2-base, 12-megapixel JPEGs: CPU s of the other stages ({around_s:.2f}) ÷ the model's ({model_s:.1f})"
    bars.at_most(name, around_s / model_s, 0.10)


@pytest.fixture(scope="module")
def beside_rembg(photos: MakePhotos, tmp_path_factory: pytest.TempPathFactory, keep: Keep) -> list[Comparison]:
    """Both folder commands, by round."""
    rembg = shutil.which(os.environ.get("REMBG") or "rembg")
    if rembg is None:
        pytest.skip("rembg is not installed; `make bench` installs it in .venv/peers")
    folder = photos(PHOTO_2MP, PEER_PHOTOS)
    found = alternate({"rembg": lambda: compare_with_rembg(rembg, folder, tmp_path_factory.mktemp("peers"))})["rembg"]
    keep("peers", [asdict(one) for one in found])
    return found


def test_faster_than_rembg(beside_rembg: list[Comparison], bars: Any) -> None:
    theirs, ours = (median(getattr(one, name) for one in beside_rembg) for name in ("rembg_per_s", "ours_per_s"))
    total = median(one.rembg_s / one.ours_s for one in beside_rembg)
    about = f"({theirs:.2f}; ours {ours:.2f}; {PEER_PHOTOS} photos with both start-ups: {total:.2f} times)"
    name = f"u2netp, 2-megapixel JPEGs: images per second ÷ those of rembg's folder command {about}"
    bars.at_least(name, median(one.speedup for one in beside_rembg), 2)


def test_the_same_masks_as_rembg(beside_rembg: list[Comparison], bars: Any) -> None:
    name = "u2netp, stretched as rembg does: mean absolute difference of the masks, of 255"
    bars.at_most(name, max(one.mask_difference for one in beside_rembg), 1)


@pytest.fixture(scope="module")
def cutouts(photos: MakePhotos) -> list[np.ndarray]:
    """Three cutouts of 12 megapixels, (H, W, 4) straight RGBA, black where alpha is 0."""
    segmenter, cutouts = Segmenter("u2netp"), []
    for path in sorted(photos(PHOTO_12MP, 3).iterdir()):
        pixels = segmenter(decode(path.read_bytes(), Limits())).cutout
        pixels[pixels[..., 3] == 0] = 0
        cutouts.append(pixels)
    return cutouts


@pytest.fixture(scope="module")
def encoded(cutouts: list[np.ndarray], keep: Keep) -> tuple[Rounds, dict[str, list[bytes]]]:
    """Seconds for all cutouts by Pillow's defaults and by our encoder, by round; and the files."""

    def by_pillow(pixels: np.ndarray) -> bytes:
        Image.fromarray(pixels).save(sink := io.BytesIO(), "PNG")
        return sink.getvalue()

    encoders = {"Pillow": by_pillow, "ours": lambda pixels: encode_cutout(pixels[..., :3], pixels[..., 3])}
    files = {name: [encode(pixels) for pixels in cutouts] for name, encode in encoders.items()}
    works = {name: once(lambda encode=encode: [encode(pixels) for pixels in cutouts]) for name, encode in encoders.items()}
    found = alternate(works)
    keep("encoding three cutouts", {"s": found, "bytes": {name: sum(map(len, made)) for name, made in files.items()}})
    return found, files


def test_cutouts_are_encoded_fast(encoded: Any, bars: Any) -> None:
    pillow_s, ours_s = encoded[0]["Pillow"], encoded[0]["ours"]
    about = f"({median(pillow_s) / 3:.2f} s each; ours {median(ours_s) / 3:.3f})"
    bars.at_least(f"12-megapixel cutout: times as fast as Pillow's defaults {about}", ratio(pillow_s, ours_s), 4)


def test_cutouts_stay_small(encoded: Any, bars: Any) -> None:
    pillow, ours = (sum(map(len, encoded[1][name])) for name in ("Pillow", "ours"))
    about = f"({pillow / 3e6:.1f} MB each; ours {ours / 3e6:.1f})"
    bars.at_most(f"12-megapixel cutout: bytes ÷ those of Pillow's defaults {about}", ours / pillow, 1.15)


def test_cutouts_are_lossless(encoded: Any, cutouts: list[np.ndarray], bars: Any) -> None:
    found = [np.asarray(Image.open(io.BytesIO(data))) for data in encoded[1]["ours"]]
    wrong = sum(int((one != pixels).any(-1).sum()) for one, pixels in zip(found, cutouts, strict=True))
    bars.at_most("12-megapixel cutout: pixels that Pillow reads back differently", wrong, 0)
