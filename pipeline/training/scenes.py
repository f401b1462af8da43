"""Photos with exact alpha, from a seed: what a refiner is tuned, trained and measured on.

A scene is an object over a background, both drawn from a ``Material``, composited as I = αF + (1-α)B and then treated as a
camera would. Beside it lies what a base model would say of it: alpha on a frame several times smaller, a little blurred, out of
place and too sure of itself. So every pixel's truth is known, and the same seed gives the same scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.training.material import Material, Part
from pipeline.training.shapes import Shape, draw_shape
from pipeline.types import Alpha, Pixels

Colours = npt.NDArray[np.float32]
"""(H, W, channels)."""

Kind = Literal["object", "hair", "fur", "straps", "glass", "holes"]
KINDS: tuple[Kind, ...] = ("object", "hair", "fur", "straps", "glass", "holes")

Finish = Literal["sharp", "blurred", "noisy"]
FINISHES: tuple[Finish, ...] = ("sharp", "blurred", "noisy")
"""``noisy``: a sensor's grain and a JPEG of quality 75 to 95, after a light blur."""

FACTORS = (2, 4, 6)

CAMOUFLAGED = 0.3
"""So many of the drawn objects have about the background's colour, as white goods on white have."""

SIDE_PX = 576
"""Of a scene: as much as a refiner looks at in one piece, and a whole number of every factor."""


@dataclass(frozen=True)
class Scene:
    """An image, the truth about it, and a base model's opinion."""

    image: Pixels
    """(H, W, 3) uint8."""
    alpha: Alpha
    """(H, W) float32 in [0, 1]: the truth."""
    foreground: Colours
    """(H, W, 3) float32 in [0, 255]: the object's own colours, everywhere."""
    base: Alpha
    """(H/factor, W/factor) float32 in [0, 1]: what the base says."""
    kind: Kind
    finish: Finish
    factor: int

    @property
    def frame(self) -> Pixels:
        """(H/factor, W/factor, 3) uint8: what the base saw."""
        return np.asarray(cv2.resize(self.image, self.base.shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def make_scene(
    material: Material, seed: int, kind: Kind, finish: Finish, factor: int, *, part: Part = "tuning", side: int = SIDE_PX
) -> Scene:
    """One scene; equal arguments give equal pixels.

    Args:
        part: whose objects and backgrounds: those for tuning, or those held out.
        side: height and width in pixels, a multiple of the factor.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind), FINISHES.index(finish), factor])
    background = _defocused(material.background(rng, part, side), rng)
    if kind == "object":
        shape = _placed(material.object(rng, part), rng, side)
    else:
        near = background.mean((0, 1)) if rng.random() < CAMOUFLAGED else None
        shape = draw_shape(kind, material.texture(rng, part, side, near), rng, side)
    colours, alpha = _through_lens(
        shape, {"sharp": 0.0, "blurred": rng.uniform(0.7, 2.2), "noisy": rng.uniform(0.4, 1.2)}[finish]
    )
    image = alpha[..., None] * colours + (1 - alpha[..., None]) * background
    image = _grainy(image, rng) if finish == "noisy" else np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return Scene(image, alpha, colours, opinion(alpha, factor, rng), kind, finish, factor)


def opinion(alpha: Alpha, factor: int, rng: np.random.Generator) -> Alpha:
    """What a base model says of an alpha (H, W) on a frame ``factor`` times smaller: (H/factor, W/factor) float32.

    Networks blur fine parts, are off by part of a pixel here and there, are surer than they should be, and ripple.
    """
    height, width = alpha.shape[0] // factor, alpha.shape[1] // factor
    small = cv2.resize(_displaced(alpha, rng, 0.35 * factor), (width, height), interpolation=cv2.INTER_AREA)
    seen = np.clip(cv2.GaussianBlur(small, (0, 0), rng.uniform(0.4, 0.9)), 1e-4, 1 - 1e-4)
    logits = np.log(seen / (1 - seen)) * rng.uniform(0.9, 1.7) + rng.uniform(0.05, 0.3) * _ripples(seen.shape, rng)
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def _placed(rgba: Colours, rng: np.random.Generator, side: int) -> Shape:
    """An object (h, w, 4) in [0, 1], enlarged up to 2.4 times, turned, and partly outside the picture at times."""
    height, width = rgba.shape[:2]
    scale, angle = rng.uniform(1.0, 2.4), rng.uniform(-30, 30)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    turn[:, 2] += rng.uniform(0.3, 0.7, 2) * side - (width / 2, height / 2)
    straight = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], 2)
    laid = np.asarray(cv2.warpAffine(straight, turn, (side, side), flags=cv2.INTER_CUBIC), np.float32)
    alpha = np.clip(laid[..., 3], 0, 1)
    if rng.random() < 0.5:
        laid, alpha = laid[:, ::-1], alpha[:, ::-1]
    return Shape(_spread(laid[..., :3], alpha), np.ascontiguousarray(alpha))


def _spread(premultiplied: Colours, alpha: Alpha) -> Colours:
    """Straight colours in [0, 255] that go on beyond the object: a true foreground is defined where alpha is 0, too."""
    found = np.zeros_like(premultiplied)
    covered = np.zeros_like(alpha)
    for sigma in (0.0, 1.0, 3.0, 9.0, 27.0, 81.0):
        colour, weight = (
            (premultiplied, alpha) if sigma == 0 else (cv2.GaussianBlur(x, (0, 0), sigma) for x in (premultiplied, alpha))
        )
        here = np.where(covered < 1, np.minimum(1 - covered, weight * (1.0 if sigma == 0 else 1e3)), 0)
        found += here[..., None] * colour / np.maximum(weight, 1e-6)[..., None]
        covered += here
    return np.clip(found / np.maximum(covered, 1e-6)[..., None] * 255, 0, 255).astype(np.float32)


def _through_lens(shape: Shape, sigma_px: float) -> tuple[Colours, Alpha]:
    """Colours and alpha behind a lens that isn't quite in focus: alpha is blurred, and so are premultiplied colours."""
    if sigma_px == 0:
        return shape.colours, shape.alpha
    alpha = np.asarray(np.clip(cv2.GaussianBlur(shape.alpha, (0, 0), sigma_px), 0, 1), np.float32)
    mixed = cv2.GaussianBlur(shape.colours * shape.alpha[..., None], (0, 0), sigma_px)
    far = cv2.GaussianBlur(shape.colours, (0, 0), sigma_px)
    sure = np.clip(alpha * 50, 0, 1)[..., None]
    colours = sure * mixed / np.maximum(alpha, 1e-4)[..., None] + (1 - sure) * far
    return np.asarray(np.clip(colours, 0, 255), np.float32), alpha


def _defocused(background: Pixels, rng: np.random.Generator) -> Colours:
    sigma = rng.choice([0.0, 0.0, 2.0, 6.0])
    return np.asarray(cv2.GaussianBlur(background, (0, 0), sigma) if sigma else background, np.float32)


def _grainy(image: npt.NDArray[np.floating[Any]], rng: np.random.Generator) -> Pixels:
    """With a sensor's noise and a JPEG's losses."""
    grain = rng.standard_normal(image.shape, np.float32) * rng.uniform(1.5, 5.0)
    noisy = np.clip(np.rint(image + grain), 0, 255).astype(np.uint8)
    subsampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444][int(rng.integers(2))]
    quality = int(rng.integers(75, 96))
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, subsampling]
    _, data = cv2.imencode(".jpg", noisy, settings)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _displaced(alpha: Alpha, rng: np.random.Generator, by_px: float) -> Alpha:
    """Smoothly out of place, by about so many pixels."""
    height, width = alpha.shape
    shifts = [
        cv2.resize(rng.standard_normal((6, 6)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        for _ in range(2)
    ]
    across, down = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    nowhere: object = None
    return np.asarray(
        cv2.remap(
            alpha,
            np.dstack([across + by_px * shifts[0], down + by_px * shifts[1]]),
            nowhere,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )  # type: ignore[call-overload]
    )


def _ripples(shape: tuple[int, ...], rng: np.random.Generator) -> Alpha:
    """Noise of unit size that changes over some pixels, as a network's does."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), rng.uniform(1, 3))
    return np.asarray(noise / max(float(noise.std()), 1e-6), np.float32)
