"""A header's claims cost no more memory than the limits allow, and no picture is scaled to a claim."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from claims import claims, resized_avif, small_frame
from PIL import Image
from trials import run_trials
from valid_images import saved, valid_images

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.avif import MAX_BOXES, read_header
from pipeline.imaging.decode import decode

TRIAL = Path(__file__).with_name("decode_trial.py")
SIDE_PX = 3_000
MAX_BYTES_PER_PIXEL = {"WebP animated": 13, "WebP lossy": 13, "AVIF alpha": 18}
"""Of the claimed size. Others: 4 for the picture, 4 in RGB, 4 for white, 1 for the opacity, and Pillow's blocks of 16 MiB."""

RED = Image.new("RGB", (64, 48), "red")
AVIFS = {
    "still": saved(RED, "AVIF"),
    "alpha": saved(RED.convert("RGBA").rotate(20), "AVIF"),
    "animated": saved(RED, "AVIF", save_all=True, append_images=[RED.rotate(9)]),
}


@pytest.mark.parametrize("name", claims(1))
def test_memory_is_bounded_by_the_claimed_size(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(claims(SIDE_PX)[name]())
    (outcome,) = run_trials(TRIAL, "folder", str(tmp_path), 0, 1)
    assert outcome.what == "read"
    assert outcome.growth_mib * 2**20 < MAX_BYTES_PER_PIXEL.get(name, 17) * SIDE_PX**2


@pytest.mark.parametrize("side", [10_001, 16_384])
def test_a_claim_above_the_limit_is_refused_before_anything_is_allocated(side: int) -> None:
    for data in (small_frame(side), *(resized_avif(avif, side, side) for avif in AVIFS.values())):
        with pytest.raises(DecodeError, match=rf"{side:,} wide and {side:,} high.*limits\.max_pixels allows 100,000,000"):
            decode(data, Limits())
    lossless = bytearray(valid_images()["WebP lossless"])
    lossless[21:25] = (side - 1 | side - 1 << 14).to_bytes(4, "little")
    lossy = bytearray(valid_images()["WebP lossy"])
    lossy[26:30] = min(side, 16_383).to_bytes(2, "little") * 2
    for data in (lossless, lossy):
        with pytest.raises(DecodeError, match=r"limits\.max_pixels allows 100,000,000"):
            decode(bytes(data), Limits())


@pytest.mark.parametrize("name", AVIFS)
@pytest.mark.parametrize("size", [(9_900, 9_900), (65, 48), (64, 49), (16, 16)])
def test_an_avif_whose_coded_size_differs_is_refused(name: str, size: tuple[int, int]) -> None:
    """libavif would scale the picture to the claimed size."""
    assert decode(AVIFS[name], Limits()).shape == (48, 64, 3)
    with pytest.raises(DecodeError, match=rf"claims a picture of {size[0]:,} x {size[1]:,} pixels, but 64 x 48 are stored"):
        decode(resized_avif(AVIFS[name], *size), Limits())


@pytest.mark.parametrize("name", AVIFS)
def test_the_claims_of_a_damaged_avif_are_read_as_far_as_possible(name: str) -> None:
    data, rng = AVIFS[name], np.random.default_rng(3)
    for _ in range(500):
        damaged = bytearray(data[: rng.integers(8, len(data))])
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        read_header(bytes(damaged))


def test_too_many_boxes_are_refused() -> None:
    data = AVIFS["still"][:32] + b"\0\0\0\x08free" * (MAX_BOXES + 1) + AVIFS["still"][32:]
    with pytest.raises(DecodeError, match="more than 100,000 sections"):
        decode(data, Limits())
