"""The photo's own shadow, on scenes whose shadow is known exactly, and where it must not be used."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.config.rendition import Rendition, load_rendition
from pipeline.imaging.renditions.natural_shadow import DARK, LITTLE, NONE, UNEVEN, NaturalShadow, find_shadow
from pipeline.imaging.renditions.render import Rendered, render
from pipeline.training.products import grounds
from pipeline.training.products.layers import Canvas
from pipeline.training.products.light import draw_light
from pipeline.types import Mask, Pixels

RED = (180, 60, 40)
WHITE = {"background": "#ffffff", "shadow": "natural"}


class Scene(NamedTuple):
    """A photo (H, W, 3) of an object (H, W), and the exact opacity (H, W) of its shadow."""

    photo: Pixels
    mask: Mask
    opacity: np.ndarray


def egg(height: int, width: int) -> np.ndarray:
    """An object with a soft edge, as a layer (h, w, 4)."""
    y, x = np.mgrid[:height, :width] + 0.5
    alpha = np.clip(2 * height * (1 - np.hypot(2 * y / height - 1, 2 * x / width - 1)) / 3, 0, 1)
    return np.asarray(np.dstack([alpha * value / 255 for value in RED] + [alpha]), np.float32)


def scene(seed: int, studio: grounds.Studio, noise: float = 1.5, size: tuple[int, int] = (450, 560)) -> Scene:
    """Stand the object on a sweep with uneven light, with a contact shadow and a cast one, and take a noisy photo."""
    rng = np.random.default_rng(seed)
    ground, layer = grounds.sweep(studio, rng, size), egg(int(rng.integers(160, 240)), int(rng.integers(110, 240)))
    at = (size[1] - layer.shape[1]) / 2, 0.8 * size[0] - layer.shape[0]
    light, state = draw_light(rng), rng.bit_generator.state
    canvas, shade = Canvas(ground), Canvas(np.ones((*size, 3), np.float32))
    for one in (canvas, shade):
        rng.bit_generator.state = state
        grounds.cast_shadow(one, layer, at, light, rng)
    canvas.put(layer, *at, wanted=True)
    photo = np.clip(np.rint(255 * canvas.image + rng.normal(0, noise, (*size, 3))), 0, 255).astype(np.uint8)
    return Scene(photo, np.rint(255 * canvas.alpha).astype(np.uint8), 1 - shade.image[..., 0])


def plain(colour: tuple[int, int, int] = (200, 200, 200)) -> Scene:
    """The object on an even ground, with a soft blot as its shadow."""
    mask = np.zeros((300, 400), np.uint8)
    cv2.circle(mask, (200, 140), 60, 255, -1, cv2.LINE_AA)
    blot = np.zeros(mask.shape, np.float32)
    cv2.ellipse(blot, (210, 200), (60, 12), 0, 0, 360, 0.5, -1)
    opacity = cv2.GaussianBlur(blot, (0, 0), 6)
    alpha = mask[..., None] / 255
    photo = (1 - opacity[..., None]) * np.array(colour) * (1 - alpha) + alpha * np.array(RED)
    return Scene(np.rint(photo).astype(np.uint8), mask, opacity)


def made(photo: Pixels, mask: Mask, **facts: Any) -> Rendered:
    (one,) = render([Rendition.model_validate({"name": "own"} | facts)], photo, mask, {}, photo)
    return one


def picture(photo: Pixels, mask: Mask, **facts: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(made(photo, mask, **facts).data or b"")))


@pytest.mark.parametrize("studio", ["white", "grey", "coloured"])
@pytest.mark.parametrize("seed", range(6))
def test_the_shadow_on_plain_ground_is_nearly_exact(studio: grounds.Studio, seed: int) -> None:
    """In levels of 255. The shadows darken the ground by 20 to 75 levels on average."""
    shot = scene(seed, studio)
    on_white = picture(shot.photo, shot.mask, **WHITE)
    beside = (shot.mask == 0) & np.pad(np.ones((410, 520), bool), 20)  # it fades at the borders
    errors = np.abs(on_white[..., 1] - 255 * (1 - shot.opacity))
    shaded, clear = beside & (shot.opacity > 0.02), beside & (shot.opacity < 0.005)
    assert errors[shaded].mean() < 0.15 * 255 * shot.opacity[shaded].mean()
    assert errors[clear].mean() < 0.2 and np.quantile(errors[clear], 0.999) < 6
    assert (on_white.max(axis=2) - on_white.min(axis=2))[beside].max() == 0, "it is neutral"


def test_the_object_stays_as_it_is() -> None:
    shot = plain()
    on_white = picture(shot.photo, shot.mask, **WHITE)
    assert np.array_equal(on_white[shot.mask == 255], shot.photo[shot.mask == 255])
    assert on_white[shot.opacity > 0.3].max() < 255


@pytest.mark.parametrize("cell", [2, 6])
def test_structured_ground_has_no_shadow_and_a_note(cell: int) -> None:
    shot = plain()
    rng = np.random.default_rng(cell)
    texture = cv2.resize(rng.normal(0, 25, (300 // cell, 400 // cell)), (400, 300), interpolation=cv2.INTER_CUBIC)
    texture[shot.mask > 0] = 0
    photo = np.clip(shot.photo + texture[..., None], 0, 255).astype(np.uint8)
    one = made(photo, shot.mask, **WHITE)
    assert one.note == UNEVEN
    assert one.data == made(photo, shot.mask, background="#ffffff").data


def test_other_ground_without_a_shadow_to_keep() -> None:
    shot = plain((30, 30, 30))
    assert made(*shot[:2], **WHITE).note == DARK
    full = np.full((60, 80), 255, np.uint8)
    full[:2] = 0
    assert made(np.full((60, 80, 3), 90, np.uint8), full, **WHITE).note == LITTLE
    bare = np.full((300, 400, 3), 255, np.uint8)
    bare[plain().mask > 0] = RED
    assert made(bare, plain().mask, **WHITE).note == NONE
    assert load_rendition("natural-shadow").needs_photo and not load_rendition("white").needs_photo


def test_dark_things_apart_and_coloured_things_beside_are_no_shadow() -> None:
    shot = plain()
    photo = shot.photo.copy()
    photo[240:280, 20:60] = 60  # apart
    photo[110:160, 255:290] = (200, 120, 110)  # touches the object
    on_white = picture(photo, shot.mask, **WHITE)
    assert on_white[225:, :80].min() == 255
    assert on_white[112:158, 264:290].min() > 245
    assert on_white[shot.opacity > 0.3].max() < 255


@pytest.mark.parametrize("facts", [{"trim": 0.4}, {"fill": 0.4, "aspect": "1:1"}, {"fill": 0.3, "size_px": 256}])
def test_in_another_frame_it_is_at_the_same_place(facts: dict[str, Any]) -> None:
    """The frame is a similarity of the photo: the shadow below the object's middle is as dark, and as far from it."""
    shot = plain()
    whole, framed = picture(*shot[:2], **WHITE), picture(*shot[:2], **WHITE, **facts)

    def below(image: np.ndarray) -> tuple[float, float]:
        """Return the darkest level below the object, and its distance from the object's top in object heights."""
        coloured = image.max(axis=2).astype(int) - image.min(axis=2) > 60
        rows, columns = np.flatnonzero(coloured.any(axis=1)), np.flatnonzero(coloured.any(axis=0))
        column = image[rows[-1] + 4 :, (columns[0] + columns[-1]) // 2, 0]
        return float(column.min()), (4 + np.argmin(column) + rows[-1] - rows[0]) / len(rows)

    assert below(framed) == pytest.approx(below(whole), rel=0.03)


def test_a_trimmed_frame_holds_the_shadow() -> None:
    shot = plain()
    tight = picture(*shot[:2], **WHITE, trim=0.0)
    assert tight.shape[1] > 120 and tight.shape[0] > 130
    assert tight[-1].min() > 250 and tight[80:, [0, -1]].min() > 250 and tight[100:].min() < 200


def test_a_shadow_that_the_photo_cuts_off_fades() -> None:
    shot = plain()
    cropped = picture(shot.photo[:212], shot.mask[:212], **WHITE)
    assert cropped[-1].min() > 250 and cropped[195].min() < 235


def test_on_transparent_it_is_the_same_as_on_white() -> None:
    shot = plain()
    clear, white = picture(*shot[:2], shadow="natural"), picture(*shot[:2], **WHITE)
    share = clear[..., 3:] / 255
    assert np.abs(share * clear[..., :3] + (1 - share) * 255 - white).max() <= 2.5


def test_a_large_photo_has_the_shadow_of_a_small_one() -> None:
    shot = plain()
    large = [cv2.resize(plane, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC) for plane in shot[:2]]
    small = picture(*shot[:2], **WHITE)
    on_white = cv2.resize(picture(*large, **WHITE), small.shape[1::-1], interpolation=cv2.INTER_AREA)
    away = cv2.dilate(shot.mask, np.ones((9, 9), np.uint8)) == 0
    assert np.abs(on_white.astype(int) - small)[away].max() <= 8


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(40))
def test_any_photo_and_mask_are_rendered(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 70, 2))
    photo = (
        rng.integers(0, 256, (height, width, 3)).astype(np.uint8) if seed % 2 else np.full((height, width, 3), seed, np.uint8)
    )
    mask = rng.integers(0, 256, (height, width)).astype(np.uint8)
    if seed % 3:
        mask = np.where(rng.random((height, width)) < rng.random(), 0, mask).astype(np.uint8)
    found = find_shadow(photo, mask)
    if isinstance(found, NaturalShadow):
        assert np.isfinite(found.opacity).all() and found.opacity.min() >= 0 and found.opacity.max() < 1
    for facts in ({}, {"trim": 0.2}, {"fill": 0.5, "size_px": 64}):
        one = made(photo, mask, **WHITE, **facts)
        assert one.data is not None or not (mask >= 13).any()


def test_without_the_photo_it_is_refused() -> None:
    shot = plain()
    with pytest.raises(ValueError, match="own needs the photo"):
        list(render([Rendition.model_validate({"name": "own"} | WHITE)], shot.photo, shot.mask, {}))
