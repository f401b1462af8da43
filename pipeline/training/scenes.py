"""Make photos with exact alpha from a seed, to tune, train and measure refiners.

A scene is an object over a background, both from a ``Material``, composited as I = αF + (1-α)B and then changed as a camera
would. It comes with a simulated base model's alpha on a frame several times smaller: slightly blurred, displaced and
overconfident. The same seed gives the same scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.training.material import Material, Split, transform
from pipeline.training.shapes import Shape, draw_shape
from pipeline.types import Alpha, Pixels

Colours = npt.NDArray[np.float32]
"""(H, W, channels)."""

Kind = Literal["object", "hair", "fur", "straps", "glass", "holes"]
KINDS: tuple[Kind, ...] = ("object", "hair", "fur", "straps", "glass", "holes")

Finish = Literal["sharp", "blurred", "noisy"]
FINISHES: tuple[Finish, ...] = ("sharp", "blurred", "noisy")
"""``noisy``: sensor noise and a JPEG of quality 75 to 95, after a light blur."""

FACTORS = (2, 4, 6)

CAMOUFLAGED = 0.3
"""Share of the drawn objects that have about the background's colour, as white goods on white."""

SIDE_PX = 576
"""Side of a scene: a refiner's tile, and a multiple of every factor."""


@dataclass(frozen=True)
class Scene:
    """An image, its ground truth, and a base model's alpha."""

    image: Pixels
    """(H, W, 3) uint8."""
    alpha: Alpha
    """(H, W) float32 in [0, 1]: the ground truth."""
    foreground: Colours
    """(H, W, 3) float32 in [0, 255]: the object's own colours, everywhere."""
    base: Alpha
    """(H/factor, W/factor) float32 in [0, 1]: the base model's alpha."""
    kind: Kind
    finish: Finish
    factor: int

    @property
    def frame(self) -> Pixels:
        """The base model's input, (H/factor, W/factor, 3) uint8."""
        return np.asarray(cv2.resize(self.image, self.base.shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def make_scene(
    material: Material, seed: int, kind: Kind, finish: Finish, factor: int, *, split: Split = "train", side: int = SIDE_PX
) -> Scene:
    """Make one scene (side, side). Equal arguments give equal pixels.

    ``factor`` is the number of image pixels per pixel of the base model's frame, and divides ``side``. ``split`` selects the
    objects and backgrounds.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind), FINISHES.index(finish), factor])
    background = _defocus(material.background(rng, split, side), rng)
    if kind == "object":
        shape = _place_object(material.object(rng, split), rng, side)
    else:
        near = background.mean((0, 1)) if rng.random() < CAMOUFLAGED else None
        shape = draw_shape(kind, material.texture(rng, split, side, near), rng, side)
    sigma_px = {"sharp": 0.0, "blurred": rng.uniform(0.7, 2.2), "noisy": rng.uniform(0.4, 1.2)}[finish]
    colours, alpha = _blur(shape, sigma_px)
    mixed = alpha[..., None] * colours + (1 - alpha[..., None]) * background
    image = _add_noise(mixed, rng) if finish == "noisy" else np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return Scene(image, alpha, colours, simulate_base(alpha, factor, rng), kind, finish, factor)


def simulate_base(alpha: Alpha, factor: int, rng: np.random.Generator) -> Alpha:
    """Return what a base model predicts for an alpha (H, W): (H/factor, W/factor) float32.

    Networks blur fine parts, are off by a fraction of a pixel in places, are overconfident, and ripple.
    """
    height, width = alpha.shape[0] // factor, alpha.shape[1] // factor
    small = cv2.resize(_displace(alpha, rng, 0.35 * factor), (width, height), interpolation=cv2.INTER_AREA)
    blurred = np.clip(cv2.GaussianBlur(small, (0, 0), rng.uniform(0.4, 0.9)), 1e-4, 1 - 1e-4)
    logits = np.log(blurred / (1 - blurred)) * rng.uniform(0.9, 1.7) + rng.uniform(0.05, 0.3) * _ripples(blurred.shape, rng)
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def _place_object(rgba: Colours, rng: np.random.Generator, side: int) -> Shape:
    """Enlarge an object (h, w, 4) in [0, 1] up to 2.4 times and turn it. It may be partly outside the picture."""
    scale, angle, centre = rng.uniform(1.0, 2.4), rng.uniform(-30, 30), rng.uniform(0.3, 0.7, 2) * side
    placed = transform(rgba, scale, angle, centre, side, cv2.INTER_CUBIC)
    alpha = np.clip(placed[..., 3], 0, 1)
    if rng.random() < 0.5:
        placed, alpha = placed[:, ::-1], alpha[:, ::-1]
    return Shape(_extend_colours(placed[..., :3], alpha), np.ascontiguousarray(alpha))


def _extend_colours(premultiplied: Colours, alpha: Alpha) -> Colours:
    """Return straight colours in [0, 255] that continue beyond the object: a foreground is also defined where alpha is 0."""
    colours = np.zeros_like(premultiplied)
    covered = np.zeros_like(alpha)
    for sigma in (0.0, 1.0, 3.0, 9.0, 27.0, 81.0):
        colour, weight = (
            (premultiplied, alpha) if sigma == 0 else (cv2.GaussianBlur(x, (0, 0), sigma) for x in (premultiplied, alpha))
        )
        share = np.where(covered < 1, np.minimum(1 - covered, weight * (1.0 if sigma == 0 else 1e3)), 0)
        colours += share[..., None] * colour / np.maximum(weight, 1e-6)[..., None]
        covered += share
    return np.clip(colours / np.maximum(covered, 1e-6)[..., None] * 255, 0, 255).astype(np.float32)


def _blur(shape: Shape, sigma_px: float) -> tuple[Colours, Alpha]:
    """Return the colours and alpha of an object that is out of focus: alpha and premultiplied colours are blurred."""
    if sigma_px == 0:
        return shape.colours, shape.alpha
    alpha = np.asarray(np.clip(cv2.GaussianBlur(shape.alpha, (0, 0), sigma_px), 0, 1), np.float32)
    mixed = cv2.GaussianBlur(shape.colours * shape.alpha[..., None], (0, 0), sigma_px)
    outside = cv2.GaussianBlur(shape.colours, (0, 0), sigma_px)
    inside = np.clip(alpha * 50, 0, 1)[..., None]
    colours = inside * mixed / np.maximum(alpha, 1e-4)[..., None] + (1 - inside) * outside
    return np.asarray(np.clip(colours, 0, 255), np.float32), alpha


def _defocus(background: Pixels, rng: np.random.Generator) -> Colours:
    sigma = rng.choice([0.0, 0.0, 2.0, 6.0])
    return np.asarray(cv2.GaussianBlur(background, (0, 0), sigma) if sigma else background, np.float32)


def _add_noise(image: npt.NDArray[np.floating[Any]], rng: np.random.Generator) -> Pixels:
    """Add sensor noise and JPEG artefacts."""
    noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(1.5, 5.0)
    noisy = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    subsampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444][int(rng.integers(2))]
    quality = int(rng.integers(75, 96))
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, subsampling]
    _, data = cv2.imencode(".jpg", noisy, settings)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _displace(alpha: Alpha, rng: np.random.Generator, by_px: float) -> Alpha:
    """Move an alpha smoothly out of place, by about so many pixels."""
    height, width = alpha.shape
    shifts = [
        cv2.resize(rng.standard_normal((6, 6)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        for _ in range(2)
    ]
    across, down = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    places = np.dstack([across + by_px * shifts[0], down + by_px * shifts[1]])
    no_second_map: Any = None
    return np.asarray(cv2.remap(alpha, places, no_second_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _ripples(shape: tuple[int, ...], rng: np.random.Generator) -> Alpha:
    """Return smooth noise with standard deviation 1."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), rng.uniform(1, 3))
    return np.asarray(noise / max(float(noise.std()), 1e-6), np.float32)
