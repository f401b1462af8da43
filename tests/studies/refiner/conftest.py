"""Held-out scenes, measured once in every way; numbers and the page go to ``out/refiner``."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[2]
DATA = Path(os.environ.get("DATA") or ROOT.parent / "shared") / "data"
OUT = ROOT / "out" / "refiner"

sys.path.append(str(FOLDER))  # tests are no package

SEEDS = {2: 3, 4: 8, 6: 3}
"""Scenes of every kind and finish, by enlargement."""

SLOW_SEEDS = 2
"""Of those at 4×, the closed form gets so many: it takes seconds for each."""


@dataclass
class Measured:
    """One scene's errors, by way."""

    kind: str
    finish: str
    factor: int
    seed: int
    band_share: float
    alphas: dict[str, Any] = field(default_factory=dict)
    """``MattingErrors`` in the band."""
    colours: dict[str, float] = field(default_factory=dict)
    """Error of the composite in the band, in levels, given the true alpha."""
    cutouts: dict[str, float] = field(default_factory=dict)
    """The same given the way's own alpha."""
    moved_outside: float = 0.0
    """The most that a refiner changes outside the band."""


@pytest.fixture(scope="session")
def material() -> Any:
    from pipeline.training.material import Material

    return Material.read(DATA)


@pytest.fixture(scope="session")
def measured(material: Any) -> Iterator[list[Measured]]:
    """All held-out scenes."""
    from pipeline.training.scenes import FINISHES, KINDS, make_scene

    rows = []
    for factor, seeds in SEEDS.items():
        for seed, kind, finish in itertools.product(range(seeds), KINDS, FINISHES):
            scene = make_scene(material, seed, kind, finish, factor, part="held_out")
            rows.append(measure(scene, seed, slow=factor == 4 and seed < SLOW_SEEDS))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "scenes.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return rows


def measure(scene: Any, seed: int, *, slow: bool) -> Measured:
    """One scene, in every way."""
    import methods

    from pipeline.quality.matting import matting_errors

    where = methods.unknown(scene)
    row = Measured(scene.kind, scene.finish, scene.factor, seed, float(where.mean()))
    alphas = alphas_of(scene, slow=slow)
    row.alphas = {name: matting_errors(alpha, scene.alpha, where) for name, alpha in alphas.items()}
    moved = [np.abs(alphas[name] - alphas["bilinear"])[~where].max(initial=0) for name in methods.refiners()]
    row.moved_outside = float(max(moved))
    colours = {
        "naive": methods.naive,
        "multilevel": methods.multilevel,
        "blur fusion": methods.fusion,
        "blur fusion 90/6": methods.blur_fusion,
    }
    if slow:
        colours["PyMatting multi-level"] = methods.published_multilevel
    row.colours = {
        name: methods.colour_error(scene, way(scene, scene.alpha), scene.alpha, where) for name, way in colours.items()
    }
    cutouts: dict[str, tuple[str, Callable[..., Any]]] = {
        "bilinear, naive": ("8 bits, bilinear", methods.naive),
        "bilinear, blur fusion 90/6": ("8 bits, bilinear", methods.blur_fusion),
        "guided, multilevel": ("guided", methods.multilevel),
        "cgm, multilevel": ("cgm", methods.multilevel),
    }
    if slow:
        cutouts["bilinear, PyMatting multi-level"] = ("8 bits, bilinear", methods.published_multilevel)
        cutouts["rembg: closed form, PyMatting multi-level"] = ("rembg closed form", methods.published_multilevel)
    row.cutouts = {
        name: methods.colour_error(scene, way(scene, alphas[alpha]), alphas[alpha], where)
        for name, (alpha, way) in cutouts.items()
    }
    return row


def alphas_of(scene: Any, *, slow: bool) -> dict[str, Any]:
    """By way (H, W) float32."""
    import methods

    found = {"bilinear": methods.bilinear(scene), "8 bits, bilinear": methods.eight_bits(scene)}
    found |= {name: methods.refined(scene, refiner) for name, refiner in methods.refiners().items()}
    if slow:
        found["rembg closed form"] = methods.rembg_matting(scene)
    return found


@pytest.fixture(scope="session")
def out() -> Path:
    """Where what a person looks at goes."""
    OUT.mkdir(parents=True, exist_ok=True)
    return OUT
