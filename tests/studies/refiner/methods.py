"""Methods from a base alpha to a cutout, ours and others', on a scene of ``pipeline.training.scenes``.

The others are written from their sources, with the libraries that they use:
rembg (danielgatis/rembg, ``bg.py``): the mask at 8 bits and the image's size, a trimap of > 240 and < 10, both eroded by
10 × 10, closed-form matting and multi-level colours by PyMatting; the bilinear mask where there is nothing to solve.
BiRefNet and BEN2 (``refine_foreground``): the mask at 8 bits, blur fusion with kernels of 90 and 6.
transparent-background: the mask, and PyMatting's multi-level colours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import torch

from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.frame import Placement, to_mask
from pipeline.models.refiners.cgm import BUNDLED, ConfidenceGuided, load_cgm
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.prepare import prepare_refinements
from pipeline.models.refiners.refine_tiles import Refiner
from pipeline.models.refiners.unknown_region import find_unknown
from pipeline.training.scenes import Scene
from pipeline.types import Alpha, Size, as_alpha

Colours = npt.NDArray[np.float32]
"""(H, W, 3) in [0, 255]."""

ColourMethod = Callable[[Scene, Alpha], Colours]


@functools.cache
def refiners() -> dict[str, Refiner]:
    """Return our refiners by name."""
    cpu = torch.device("cpu")
    return {"guided": Guided(), "cgm": ConfidenceGuided(load_cgm(BUNDLED, device=cpu, dtype=torch.float32))}


def enlarge(plane: npt.NDArray, scene: Scene) -> npt.NDArray:
    """Enlarge a plane of the frame to the scene's size."""
    return np.asarray(cv2.resize(plane, scene.alpha.shape[::-1], interpolation=cv2.INTER_LINEAR))


def unknown(scene: Scene) -> npt.NDArray[np.bool_]:
    """Return the unknown region of the base alpha, (H, W)."""
    return enlarge(find_unknown(torch.from_numpy(scene.base)[None])[0].numpy(), scene) > 0


def bilinear(scene: Scene) -> Alpha:
    """Enlarge the base alpha in float32."""
    return enlarge(scene.base, scene)


def eight_bits(scene: Scene) -> Alpha:
    """Enlarge the base alpha at 8 bits, as the other tools do."""
    return as_alpha(enlarge(to_mask(scene.base), scene))


def refine(scene: Scene, refiner: Refiner) -> Alpha:
    """Refine the enlarged base alpha; the scene fills the frame."""
    alpha, (height, width) = bilinear(scene), scene.alpha.shape
    placed = Placement(Size(height, width), (0, 0, width, height))
    (refinement,) = prepare_refinements(refiner, [scene.image], [placed], scene.frame[None], torch.from_numpy(scene.base)[None])
    if refinement is not None:
        refinement.refine_all(alpha)
    return alpha


def rembg_matting(scene: Scene) -> Alpha:
    """Do the same as rembg's ``alpha_matting=True``."""
    from pymatting import estimate_alpha_cf

    mask = to_mask(eight_bits(scene))
    square = np.ones((10, 10), np.uint8)
    object_ = cv2.erode((mask > 240).astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    background = cv2.erode((mask < 10).astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    trimap = np.full(mask.shape, 0.5)
    trimap[object_ > 0], trimap[background > 0] = 1, 0
    try:
        return np.asarray(estimate_alpha_cf(scene.image / 255, trimap), np.float32)
    except ValueError:  # no known pixels, or no unknown ones
        return as_alpha(mask)


def pymatting_multilevel(scene: Scene, alpha: Alpha) -> Colours:
    """Estimate colours with PyMatting's multi-level method."""
    from pymatting import estimate_foreground_ml

    return np.asarray(estimate_foreground_ml(scene.image / 255, alpha.astype(np.float64)) * 255, np.float32)


def blur_fusion(scene: Scene, alpha: Alpha) -> Colours:
    """Estimate colours by blur fusion with kernels of 90 and 6, as BEN2 publishes it."""
    return estimate_foreground(scene.image, to_mask(alpha), "ben2").astype(np.float32)


def naive(scene: Scene, _: Alpha) -> Colours:
    """Return the photo's own colours."""
    return scene.image.astype(np.float32)


def multilevel(scene: Scene, alpha: Alpha) -> Colours:
    """Estimate colours with our default method."""
    return estimate_foreground(scene.image, to_mask(alpha), "multilevel").astype(np.float32)


def colour_error(scene: Scene, method: ColourMethod, alpha: Alpha, where: npt.NDArray[np.bool_]) -> float:
    """Return the mean of |α·F̂ - α*·F| in levels.

    A composite on black is off by that; on any other ground the error of alpha is added.
    """
    off = alpha[..., None] * method(scene, alpha) - scene.alpha[..., None] * scene.foreground
    return float(np.abs(off[where]).mean()) if where.any() else 0.0
