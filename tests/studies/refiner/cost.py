"""Measure the cost of the refiners and the foreground colours for a photo of 12 megapixels."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

import cv2
import numpy as np
import torch
from methods import refiners

from pipeline.bench.timing import time_calls
from pipeline.config.recipe import Recipe
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.frame import make_frame, place, restore, to_mask
from pipeline.models.refiners.prepare import prepare_refinements
from pipeline.models.refiners.refine_tiles import Refiner
from pipeline.models.refiners.unknown_region import find_unknown

SIZE = (3000, 4000)
FRAME_PX = 1024
ROUNDS = 5


def photo_and_base() -> tuple[Any, Any]:
    """Draw a wavy object with some hair: a photo, and a base alpha with about 5 % of the pixels in the unknown region."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    radius = 300 + 30 * np.cos(5 * angle) + 12 * np.cos(23 * angle)
    points = np.stack([512 + radius * np.cos(angle), 512 + radius * np.sin(angle)], 1)
    base = np.zeros((FRAME_PX, FRAME_PX), np.float32)
    cv2.fillPoly(base, [np.rint(points).astype(np.int32)], 1)
    for start in points[rng.integers(0, 720, 60)]:
        end = (start - 512) * rng.uniform(1.05, 1.25) + 512
        cv2.line(base, np.rint(start).astype(int).tolist(), np.rint(end).astype(int).tolist(), 0.5, 1)
    base = cv2.GaussianBlur(base, (0, 0), 1.0)
    alpha = cv2.resize(base, SIZE[::-1])[..., None]
    texture = cv2.resize(rng.integers(0, 256, (300, 400, 3), np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    image = np.clip(alpha * [210, 120, 50] + (1 - alpha) * (0.4 * texture + 40) + rng.normal(0, 3, SIZE)[..., None], 0, 255)
    return image.astype(np.uint8), base


def seconds_of_12_mpx() -> dict[str, float]:
    """Return median seconds: of the mask with each refiner less that without one, and of the colours."""
    image, base = photo_and_base()
    recipe = Recipe(name="cost", model="fake", frame_px=FRAME_PX)
    placed = place(SIZE, None, recipe)
    p, frames = torch.from_numpy(base)[None], make_frame(image, placed, recipe)[None]

    def mask(refiner: Refiner | None) -> Any:
        (refinement,) = prepare_refinements(refiner, [image], [placed], frames, p)
        return to_mask(restore(base, placed, recipe, None if refinement is None else refinement.refine_all))

    times: dict[str, list[float]] = defaultdict(list)
    refined = mask(refiners()["guided"])
    for _ in range(ROUNDS):  # alternating, so that other load slows all of them down
        for name, refiner in {"none": None, **refiners()}.items():
            times[name] += time_calls(lambda refiner=refiner: mask(refiner), warm_up=False)
        times["colour"] += time_calls(lambda: estimate_foreground(image, refined, "multilevel"), warm_up=False)
    median = {name: statistics.median(values) for name, values in times.items()}
    costs = {f"{name}_s": median[name] - median["none"] for name in refiners()}
    return costs | {"colour_s": median["colour"], "unknown_share": float((find_unknown(p) > 0).float().mean())}
