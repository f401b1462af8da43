"""Add synthetic products to the estimator's training data: pale and dark packages, hands, shelves of equal products."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.imaging.rough_boxes import BoxKind, rough_box
from pipeline.models.estimator import SIDE_PX
from pipeline.training.estimator_data import (
    BOXES,
    MIN_OBJECT_PX,
    PHOTOS_PER_PART,
    PRESETS,
    Picture,
    ScoredMaps,
    model_facts,
    read_parts,
    write_maps,
)
from pipeline.training.material import PERMISSIVE, Material
from pipeline.training.products.scene import draw_size, make_product_scene
from pipeline.types import Box, Mask

PRODUCTS = 500
"""Number of scenes."""

FIRST = 1_000_000
"""Number of the first scene. Photos have lower numbers."""


def score_products(data: Path, out: Path, *, count: int = PRODUCTS, processes: int) -> ScoredMaps:
    """Score maps of synthetic products. Parts that ``out`` already holds are reused.

    Args:
        data: Folder with ``objects/`` and ``backgrounds/``.
        out: They are in a folder of it that is named by a hash of the models, the material and the shares of boxes.
        count: Number of scenes.
        processes: Number of processes.

    Raises:
        ConfigError: ``data`` lacks a file.
    """
    material = Material.read(data, licences=PERMISSIVE)
    facts = [model_facts(), BOXES, MIN_OBJECT_PX, PHOTOS_PER_PART, SIDE_PX, material.sha256()]
    out = out / f"products-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}"
    out.mkdir(parents=True, exist_ok=True)
    numbers = [range(start, min(start + PHOTOS_PER_PART, count)) for start in range(0, count, PHOTOS_PER_PART)]
    parts = [(data, some, out / f"{some.start:05}-{len(some)}.npz") for some in numbers]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_write_part, *zip(*[part for part in parts if not part[-1].exists()], strict=True)))
    return read_parts([part[-1] for part in parts])


def _write_part(data: Path, numbers: range, target: Path) -> None:
    material = Material.read(data, licences=PERMISSIVE)

    def pictures() -> Iterator[Picture]:
        for number in numbers:
            rng = np.random.default_rng([FIRST, number])
            scene = make_product_scene(material, rng, draw_size(rng))
            yield Picture(FIRST + number, scene.image, scene.alpha, _choose_box(scene.alpha, rng, needed=scene.box is not None))

    write_maps(pictures(), PRESETS[numbers.start // PHOTOS_PER_PART % len(PRESETS)], target)


def _choose_box(truth: Mask, rng: np.random.Generator, *, needed: bool) -> Box | None:
    """Draw a box by the shares of ``BOXES``; of the kinds that show which product is meant, if one of several is.

    None where the scene has no object, or no room for the box.
    """
    kinds: list[BoxKind] = [kind for kind in BOXES if not (needed and kind in ("none", "whole"))]
    shares = np.array([BOXES[kind] for kind in kinds])
    kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
    try:
        return rough_box(truth, kind, int(rng.integers(2**31)))
    except ValueError:
        return None
