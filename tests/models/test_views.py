"""Views: the geometry against Pillow and PyTorch, and both passes against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from pipeline.config.presets import load_preset
from pipeline.config.recipe import Recipe
from pipeline.imaging.frame import Placement, make_frame
from pipeline.models.graph_pass import GraphPass
from pipeline.models.host_frames import HostFrames
from pipeline.models.torch_pass import TorchPass
from pipeline.models.views import Looks, Views
from pipeline.paths import EXAMPLES
from pipeline.segmenter import Segmenter
from pipeline.types import Pixels, Size

ALL = ("flip", "scale:0.75", "scale:1.25", "flip+scale:0.75", "flip+scale:1.25")
SIDE = 320


def photo(name: str = "espresso.jpg") -> Pixels:
    return np.asarray(Image.open(EXAMPLES / name).convert("RGB"))


def recipe(*views: str) -> Recipe:
    return load_preset("u2netp", {"views": list(views)}).recipe


def look(image: Pixels, model: Callable[[Any], Any], *views: str) -> Looks:
    chosen = recipe(*views)
    placed = Placement(Size(*image.shape[:2]), (0, 0, image.shape[1], image.shape[0]))
    frames = HostFrames(chosen).frames([image], [placed])
    return Views(chosen, HostFrames).look(model, frames, [image], [placed])


def red(frames: Any) -> Any:
    """A model whose logits are the red channel."""
    return frames[..., 0].astype(np.float32)


def test_without_views_the_model_runs_once() -> None:
    seen: list[Any] = []
    looks = look(photo(), lambda frames: seen.append(frames) or red(frames))
    assert len(seen) == 1 and looks.mean is looks.plain and looks.mirrored is None


def test_every_view_is_a_frame_of_the_model_s_size() -> None:
    seen: list[Any] = []
    look(photo(), lambda frames: seen.append(frames.copy()) or red(frames), *ALL)
    assert [frames.shape for frames in seen] == [(1, SIDE, SIDE, 3)] * 6
    plain, flip, flip_small, flip_large, small, large = (frames[0] for frames in seen)  # sorted by name
    placed = Placement(Size(400, 600), (0, 0, 600, 400))
    picture = {side: make_frame(photo(), placed, recipe().model_copy(update={"frame_px": side})) for side in (240, 320, 400)}
    assert np.array_equal(plain, picture[320])
    assert np.array_equal(flip, plain[:, ::-1])
    assert np.array_equal(small, np.pad(picture[240], ((40, 40), (40, 40), (0, 0)), mode="reflect"))
    assert np.array_equal(large, picture[400][40:360, 40:360])
    assert np.array_equal(flip_small, small[:, ::-1]) and np.array_equal(flip_large, large[:, ::-1])


def second_only(view: str, answer: Any) -> Any:
    """The weighted logits of a view whose model answers so, where the frame's own logits are 0: (S, S)."""
    answers = iter([np.zeros((1, SIDE, SIDE), np.float32), answer[None]])
    return look(photo(), lambda _: next(answers), view).mean[0]


@pytest.mark.parametrize("flip", [False, True])
def test_a_small_view_is_enlarged_as_pytorch_does(flip: bool) -> None:
    logits = np.random.default_rng(0).normal(0, 5, (SIDE, SIDE)).astype(np.float32)
    middle = torch.from_numpy(logits[40:280, 40:280])[None, None]
    wanted = F.interpolate(middle, (SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0].numpy()
    found = 2 * second_only("flip+scale:0.75" if flip else "scale:0.75", logits)
    inner = slice(2, -2)  # beyond, the mirrored border has a part
    np.testing.assert_allclose(found[inner, inner], (wanted[:, ::-1] if flip else wanted)[inner, inner], atol=1e-4)


@pytest.mark.parametrize("flip", [False, True])
def test_a_large_view_is_shrunk_as_pillow_does_and_counts_in_the_middle_only(flip: bool) -> None:
    logits = np.random.default_rng(0).normal(0, 5, (SIDE, SIDE)).astype(np.float32)
    whole = np.pad(logits, 40)
    wanted = np.asarray(Image.fromarray(whole).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    wanted = wanted[:, ::-1] if flip else wanted
    found = second_only("flip+scale:1.25" if flip else "scale:1.25", logits)
    middle = slice(64 + 4, 256 - 4)  # the view shows rows 32 to 288, and has its full weight 32 rows inside
    np.testing.assert_allclose(2 * found[middle, middle], wanted[middle, middle], atol=1e-4)
    assert not found[:32].any() and not found[:, 288:].any(), "what the view does not show"
    fading = second_only("scale:1.25", np.ones((SIDE, SIDE), np.float32))[160]  # 1 in all of the view: w / (1 + w)
    assert (np.diff(fading[:160]) >= 0).all() and np.diff(fading).max() < 0.04, "no seam"
    assert fading[160] == pytest.approx(0.5)


def test_the_mean_is_of_logits_and_flip_is_undone() -> None:
    image = photo()
    looks = look(image, lambda frames: red(frames) + np.arange(SIDE, dtype=np.float32), "flip")
    assert looks.mirrored is not None
    np.testing.assert_allclose(looks.mean, (looks.plain + looks.mirrored[:, :, ::-1]) / 2, atol=1e-4)
    np.testing.assert_allclose(looks.mean, red(look_frame(image)) + (SIDE - 1) / 2, atol=1e-4)


def look_frame(image: Pixels) -> Any:
    seen: list[Any] = []
    look(image, lambda frames: seen.append(frames) or red(frames))
    return seen[0]


def test_numbers_that_are_not_finite_stay_with_their_item() -> None:
    image, chosen = photo(), recipe("scale:0.75", "flip+scale:1.25")
    placed = Placement(Size(*image.shape[:2]), (0, 0, image.shape[1], image.shape[0]))
    frames = HostFrames(chosen).frames([image] * 2, [placed] * 2)

    def model(frames: Any) -> Any:
        logits = red(frames)
        logits[0, 5, 5] = np.nan
        return logits

    looks = Views(chosen, HostFrames).look(model, frames, [image] * 2, [placed] * 2)
    assert np.isnan(looks.mean[0]).any() and np.isfinite(looks.mean[1]).all()


def test_both_passes_agree_and_a_batch_equals_its_items() -> None:
    images = [photo(), photo("teapot.jpg")]
    views = ("flip", "flip+scale:0.75", "scale:1.25")
    graph, torch_ = (Segmenter("u2netp", threads=2, engine="onnxruntime", views=views) for _ in range(2))
    torch_.run_pass = TorchPass(torch_.resolved, device="cpu", threads=2, engine="onnxruntime")
    assert isinstance(graph.run_pass, GraphPass)
    one, other = graph(images), torch_(images)
    for found, wanted in zip(one, other, strict=True):
        assert np.abs(found.mask.astype(int) - wanted.mask).max() <= 1
        named = {name: value for name, value in found.signals.items() if value is not None}
        assert named == pytest.approx({name: wanted.signals[name] for name in named}, abs=1e-4)
        assert named["flip_dice"] > 0.8
    alone = graph(images[-1])
    assert np.abs(alone.mask.astype(int) - one[-1].mask).max() <= 1
    assert alone.quality == pytest.approx(one[-1].quality, abs=1e-4)


def test_with_the_view_flip_a_mirrored_photo_gives_the_mirrored_mask() -> None:
    image = photo("handbag.jpg")
    mirrored = np.ascontiguousarray(image[:, ::-1])
    difference = {}
    for views in ((), ("flip",)):
        segmenter = Segmenter("u2netp", threads=2, refiner="none", views=views)
        difference[views] = np.abs(segmenter(image).mask.astype(int) - segmenter(mirrored).mask[:, ::-1]).mean()
    assert difference["flip",] < 0.2 < difference[()]
