"""Frames and masks made by ``DeviceFrames``, here on CPU tensors, against Pillow and OpenCV."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

import pipeline.models.resample
from pipeline.config.recipe import Recipe
from pipeline.errors import ItemRefused
from pipeline.imaging.frame import make_frame, place, restore, to_mask
from pipeline.models.host_frames import HostFrames
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.prepare import prepare_refinements
from pipeline.models.resample import DeviceFrames, taps
from pipeline.types import Box

CPU = torch.device("cpu")


def recipe(**rules: Any) -> Recipe:
    return Recipe(name="test", model="fake", **({"frame_px": 64, "outside": "black", "margin_without_box": True} | rules))


def noise(height: int, width: int) -> Any:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def logits(side: int, seed: int = 0) -> torch.Tensor:
    """Return soft edges with noise per pixel, (side, side)."""
    y, x = torch.meshgrid(*[torch.arange(side) / side] * 2, indexing="ij")
    grain = torch.randn(side, side, generator=torch.Generator().manual_seed(seed))
    return 8 * torch.sin(5 * x + 2 * y) * torch.cos(4 * y - x) + grain


def both_frames(image: Any, box: Any, rules: Recipe) -> tuple[Any, Any]:
    placed = place(image.shape[:2], Box(*box) if box else None, rules)
    return DeviceFrames(rules, CPU).frames([image], [placed])[0].numpy(), make_frame(image, placed, rules)


def both_masks(size: tuple[int, int], box: Any, rules: Recipe, z: torch.Tensor) -> tuple[Any, Any]:
    placed = place(size, Box(*box) if box else None, rules)
    (mask,) = DeviceFrames(rules, CPU).masks(z[None].sigmoid(), [placed], [None])
    return mask.numpy(), to_mask(restore(z.sigmoid().numpy(), placed, rules))


SIZES = [(64, 64), (1000, 700), (333, 500), (31, 47), (64, 300), (300, 64), (1, 200), (200, 1), (1, 1), (700, 90), (40, 900)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["bilinear", "lanczos"])
def test_frames_equal_the_hosts_to_the_bit(size: tuple[int, int], kind: str) -> None:
    height, width = size
    boxes = [None, (0.2 * width, 0.1 * height, 0.7 * width, 0.9 * height), (-0.3 * width, -3, 0.5 * width, 1.4 * height)]
    for box in boxes:
        ours, hosts = both_frames(noise(*size), box, recipe(frame_resize=kind))
        np.testing.assert_array_equal(ours, hosts)


@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080), (2400, 3200)])
def test_frames_of_large_photos_equal_the_hosts(size: tuple[int, int]) -> None:
    """Pillow resizes the rows of the 1080 pixels wide portrait first."""
    for kind in ("bilinear", "lanczos"):
        ours, hosts = both_frames(noise(*size), None, recipe(frame_px=1024, outside="clip", frame_resize=kind))
        np.testing.assert_array_equal(ours, hosts)


sides = st.integers(1, 400)
edges = st.floats(-1.3, 2.3, allow_nan=False)


@settings(max_examples=60)
@given(
    height=sides,
    width=sides,
    ends=st.none() | st.tuples(edges, edges, edges, edges),
    outside=st.sampled_from(["clip", "black"]),
    frame_resize=st.sampled_from(["bilinear", "lanczos"]),
    alpha_resize=st.sampled_from(["antialias", "plain"]),
    frame_px=st.sampled_from([32, 50, 128]),
    stretch=st.booleans(),
)
def test_frames_and_masks_of_any_size_and_box(height: int, width: int, ends: Any, **rules: Any) -> None:
    """Frames are equal; masks differ by at most one level, in at most 1 % of the pixels."""
    box = None
    if ends is not None:
        (x0, x1), (y0, y1) = sorted(ends[:2]), sorted(ends[2:])
        box = Box(x0 * width, y0 * height, x1 * width, y1 * height)
        if x0 == x1 or y0 == y1:
            return
    try:
        placed = place((height, width), box, recipe(**rules))
    except ItemRefused:
        return
    device = DeviceFrames(recipe(**rules), CPU)
    image, z = noise(height, width), logits(rules["frame_px"])
    np.testing.assert_array_equal(device.frames([image], [placed])[0], make_frame(image, placed, recipe(**rules)))
    mask = device.masks(z[None].sigmoid(), [placed], [None])[0].numpy()
    wanted = to_mask(restore(z.sigmoid().numpy(), placed, recipe(**rules)))
    assert mask.shape == (height, width) and mask.dtype == np.uint8
    difference = np.abs(mask.astype(int) - wanted)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= max(2, 0.01 * difference.size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha_resize", ["antialias", "plain"])
@pytest.mark.parametrize("stretch", [False, True])
def test_masks_differ_from_the_hosts_by_at_most_one_level(size: tuple[int, int], alpha_resize: str, stretch: bool) -> None:
    height, width = size
    for box in (None, (0.2 * width, 0.1 * height, 0.7 * width, 0.9 * height)):
        ours, hosts = both_masks(size, box, recipe(alpha_resize=alpha_resize, stretch=stretch), logits(64))
        difference = np.abs(ours.astype(int) - hosts)
        assert difference.max() <= 1
        assert difference.mean() <= 2e-3


def test_a_large_mask_differs_in_hardly_any_pixel() -> None:
    for rules in (recipe(frame_px=256), recipe(frame_px=256, stretch=True, alpha_resize="plain")):
        ours, hosts = both_masks((1500, 1100), None, rules, logits(256))
        assert np.abs(ours.astype(int) - hosts).mean() <= 3e-4


def test_a_constant_map_is_not_stretched_and_nan_affects_no_other_item() -> None:
    rules = recipe(stretch=True)
    ours, hosts = both_masks((90, 70), None, rules, torch.full((64, 64), 0.3))
    assert np.array_equal(ours, hosts) and ours.max() == ours.min() == round(255 / (1 + np.exp(-0.3)))
    placed = place((90, 70), None, rules)
    broken, sound = torch.full((64, 64), float("nan")), logits(64)
    masks = DeviceFrames(rules, CPU).masks(torch.stack([broken, sound]).sigmoid(), [placed, placed], [None, None])
    assert torch.equal(masks[1], DeviceFrames(rules, CPU).masks(sound[None].sigmoid(), [placed], [None])[0])


def test_a_batch_of_different_images_equals_its_images() -> None:
    rules = recipe()
    images = [noise(90, 70), noise(200, 300), noise(1, 5)]
    placed = [place(image.shape[:2], None, rules) for image in images]
    device = DeviceFrames(rules, CPU)
    z = torch.stack([logits(64, seed) for seed in range(3)])
    frames, masks = device.frames(images, placed), device.masks(z.sigmoid(), placed, [None] * len(placed))
    assert frames.shape == (3, 64, 64, 3) and frames.dtype == torch.uint8
    for number in range(3):
        assert torch.equal(frames[number], device.frames([images[number]], [placed[number]])[0])
        assert torch.equal(masks[number], device.masks(z[number : number + 1].sigmoid(), [placed[number]], [None])[0])


def test_stripes_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ((500, 300), (300, 500), (900, 40), (40, 900)):
        for rules in (recipe(frame_resize="lanczos"), recipe(stretch=True, alpha_resize="plain")):
            whole = both_frames(noise(*size), None, rules)[0], both_masks(size, None, rules, logits(64))[0]
            with monkeypatch.context() as patched:
                patched.setattr(pipeline.models.resample, "STRIPE_PX", 3000)
                parts = both_frames(noise(*size), None, rules)[0], both_masks(size, None, rules, logits(64))[0]
            assert np.array_equal(whole[0], parts[0])
            assert np.array_equal(whole[1], parts[1])


class Largest(TorchDispatchMode):
    """Record the size of the largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("size", [(2000, 2000), (20, 50_000), (60_000, 30)])
def test_memory_does_not_depend_on_the_images_size(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """All sizes are 1/32 of real ones: 100 megapixels need as much memory on the device as 8."""
    stripe_px = pipeline.models.resample.STRIPE_PX // 32
    monkeypatch.setattr(pipeline.models.resample, "STRIPE_PX", stripe_px)
    image = np.broadcast_to(np.arange(3, dtype=np.uint8), (*size, 3))  # a view: uses no memory
    rules = recipe(frame_px=32, margin_without_box=False)
    placed = place(size, None, rules)
    with Largest() as largest:
        (frame,) = DeviceFrames(rules, CPU).frames([image], [placed])
    assert largest.bytes <= 16 * stripe_px  # three int32 per pixel, and the rows that stripes share
    assert torch.equal(frame, torch.arange(3).expand(32, 32, 3))
    with Largest() as largest:
        (mask,) = DeviceFrames(rules, CPU).masks(torch.full((1, 32, 32), 0.5), [placed], [None])
    assert largest.bytes <= max(16 * stripe_px, mask.nbytes)
    assert mask.shape == size and (mask == 128).all()


def test_read_only_images_cause_no_warning() -> None:
    """Ray's arrays are read-only."""
    image = noise(90, 70)
    image.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both_frames(image, None, recipe())


def test_taps_are_cached_by_size() -> None:
    rules = recipe()
    both_frames(noise(123, 321), None, rules)
    misses = taps.cache_info().misses
    both_frames(noise(123, 321), None, rules)
    assert taps.cache_info().misses == misses


@pytest.mark.parametrize(
    ("size", "box"), [((150, 190), None), ((190, 150), (20, 30, 140, 170)), ((150, 190), (-30, 10, 150, 160))]
)
@pytest.mark.parametrize("stretch", [False, True])
def test_a_refined_mask_equals_the_hosts(
    size: tuple[int, int], box: Any, stretch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host refines all rows at once, the device in stripes."""
    rules = recipe(outside="black", stretch=stretch)
    placed = place(size, box and Box(*box), rules)
    image, p = noise(*size), F.avg_pool2d(logits(64)[None], 5, 1, 2).sigmoid()
    frames = HostFrames(rules).frames([image], [placed])
    refinements = prepare_refinements(Guided(), [image], [placed], frames, p)
    assert refinements[0] is not None
    (ours,) = HostFrames(rules).masks(p.numpy(), [placed], refinements)
    (plain,) = HostFrames(rules).masks(p.numpy(), [placed], [None])
    monkeypatch.setattr(pipeline.models.resample, "STRIPE_PX", 190 * 40)
    (theirs,) = DeviceFrames(rules, CPU).masks(p, [placed], refinements)
    assert np.abs(ours.astype(int) - theirs.numpy()).max() <= 1
    assert np.abs(ours.astype(int) - plain).max() > 20
