"""Ways from a base's alpha to a cutout: ours and others', on a scene of ``pipeline.training.scenes``.

The others are written from what they do, with the libraries they use:
rembg (danielgatis/rembg, ``bg.py``): the mask at 8 bits and the image's size, a trimap of > 240 and < 10, both eroded by
10 × 10, closed-form matting and multi-level colours by PyMatting; the bilinear mask where there is nothing to solve.
BiRefNet and BEN2 (``refine_foreground``): the mask at 8 bits, blur fusion with kernels of 90 and 6.
transparent-background: the mask, and PyMatting's multi-level colours.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt
import torch

from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.frame import to_mask
from pipeline.models.refiners.cgm import BUNDLED, ConfidenceGuided, load_cgm
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.refine_tiles import Refiner, prepare_refinements
from pipeline.models.refiners.unknown_region import find_unknown
from pipeline.training.scenes import Scene
from pipeline.types import Alpha, as_alpha

Colours = npt.NDArray[np.float32]
"""(H, W, 3) in [0, 255]."""


class Whole:
    """All of a scene fills the frame."""

    def __init__(self, scene: Scene) -> None:
        self.size = scene.alpha.shape
        self.region = self.inside = (0, 0, scene.alpha.shape[1], scene.alpha.shape[0])


@functools.cache
def refiners() -> dict[str, Refiner]:
    """Ours, by name."""
    cpu = torch.device("cpu")
    return {"guided": Guided(), "cgm": ConfidenceGuided(load_cgm(BUNDLED, device=cpu, dtype=torch.float32))}


def unknown(scene: Scene) -> npt.NDArray[np.bool_]:
    """(H, W): where the base is unsure."""
    found = find_unknown(torch.from_numpy(scene.base)[None])[0].numpy()
    return np.asarray(cv2.resize(found, scene.alpha.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0)


def bilinear(scene: Scene) -> Alpha:
    """The base's alpha, enlarged."""
    return np.asarray(cv2.resize(scene.base, scene.alpha.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def eight_bits(scene: Scene) -> Alpha:
    """What everyone else starts from: 8 bits at the base's size, enlarged."""
    small = to_mask(scene.base)
    return as_alpha(np.asarray(cv2.resize(small, scene.alpha.shape[::-1], interpolation=cv2.INTER_LINEAR), np.uint8))


def refined(scene: Scene, refiner: Refiner) -> Alpha:
    """Ours."""
    alpha = bilinear(scene)
    (refinement,) = prepare_refinements(
        refiner, [scene.image], [Whole(scene)], scene.frame[None], torch.from_numpy(scene.base)[None]
    )  # type: ignore[list-item]
    if refinement is not None:
        refinement.whole(alpha)
    return alpha


def rembg_matting(scene: Scene) -> Alpha:
    """rembg's ``alpha_matting=True``."""
    from pymatting import estimate_alpha_cf

    mask = to_mask(eight_bits(scene))
    square = np.ones((10, 10), np.uint8)
    sure = cv2.erode((mask > 240).astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    none = cv2.erode((mask < 10).astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    trimap = np.full(mask.shape, 0.5)
    trimap[sure > 0], trimap[none > 0] = 1, 0
    try:
        return np.asarray(estimate_alpha_cf(scene.image / 255, trimap), np.float32)
    except ValueError:  # nothing sure, or nothing unsure
        return as_alpha(mask)


def published_multilevel(scene: Scene, alpha: Alpha) -> Colours:
    """PyMatting's own."""
    from pymatting import estimate_foreground_ml

    return np.asarray(estimate_foreground_ml(scene.image / 255, alpha.astype(np.float64)) * 255, np.float32)


def blur_fusion(scene: Scene, alpha: Alpha) -> Colours:
    """Kernels of 90 and 6, as published."""
    return estimate_foreground(scene.image, to_mask(alpha), "ben2").astype(np.float32)


def naive(scene: Scene, _: Alpha) -> Colours:
    """The photo's own."""
    return scene.image.astype(np.float32)


def multilevel(scene: Scene, alpha: Alpha) -> Colours:
    """Our default."""
    return estimate_foreground(scene.image, to_mask(alpha), "multilevel").astype(np.float32)


def fusion(scene: Scene, alpha: Alpha) -> Colours:
    """Our blur fusion: odd kernels that grow with the image."""
    return estimate_foreground(scene.image, to_mask(alpha), "blur_fusion").astype(np.float32)


def colour_error(scene: Scene, colours: Colours, alpha: Alpha, where: npt.NDArray[np.bool_]) -> float:
    """Mean |α·F̂ - α*·F| in levels: what a composite on black is off by, and on any other ground but for alpha's own error."""
    off = alpha[..., None] * colours - scene.alpha[..., None] * scene.foreground
    return float(np.abs(off[where]).mean()) if where.any() else 0.0
