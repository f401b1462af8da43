"""Measure all held-out scenes once, with every method; numbers and page go to ``out/refiner``."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SEEDS = {2: 3, 4: 8, 6: 3}
"""Scenes per kind and finish, by enlargement."""

SLOW_SEEDS = 2
"""Of the scenes at 4x, those that PyMatting is run on as well: its closed form takes seconds per scene."""


@dataclass
class Measured:
    """The errors of one scene, by method."""

    kind: str
    finish: str
    factor: int
    seed: int
    unknown_share: float
    """Share of the image in the unknown region."""
    alphas: dict[str, Any]
    """``MattingErrors`` in the unknown region."""
    colours: dict[str, float]
    """Error of the composite there, in levels, given the true alpha."""
    cutouts: dict[str, float]
    """Error of the composite there, in levels, given the method's own alpha."""
    moved_outside: float
    """Largest change by a refiner outside of the unknown region."""


@pytest.fixture(scope="session")
def out(results: Callable[[str], Path]) -> Path:
    return results("refiner")


@pytest.fixture(scope="session")
def material(data: Path) -> Any:
    from pipeline.training.material import Material

    return Material.read(data)


@pytest.fixture(scope="session")
def measured(material: Any, out: Path) -> list[Measured]:
    from pipeline.training.scenes import FINISHES, KINDS, make_scene

    rows = []
    for factor, seeds in SEEDS.items():
        for seed, kind, finish in itertools.product(range(seeds), KINDS, FINISHES):
            scene = make_scene(material, seed, kind, finish, factor, split="held_out")
            rows.append(measure(scene, seed, slow=factor == 4 and seed < SLOW_SEEDS))
    (out / "scenes.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return rows


def measure(scene: Any, seed: int, *, slow: bool) -> Measured:
    """Measure one scene with every method."""
    import methods as m

    from pipeline.quality.matting import matting_errors

    where = m.unknown(scene)
    alphas = {"bilinear": m.bilinear(scene), "8 bits, bilinear": m.eight_bits(scene)}
    refined = {name: m.refine(scene, refiner) for name, refiner in m.refiners().items()}
    alphas |= refined
    colours = {"naive": m.naive, "multilevel": m.multilevel, "blur fusion 90/6": m.blur_fusion}
    cutouts = {
        "bilinear, naive": ("8 bits, bilinear", m.naive),
        "bilinear, blur fusion 90/6": ("8 bits, bilinear", m.blur_fusion),
        "guided, multilevel": ("guided", m.multilevel),
        "cgm, multilevel": ("cgm", m.multilevel),
    }
    if slow:
        alphas["rembg closed form"] = m.rembg_matting(scene)
        colours["PyMatting multi-level"] = m.pymatting_multilevel
        cutouts["bilinear, PyMatting multi-level"] = ("8 bits, bilinear", m.pymatting_multilevel)
        cutouts["rembg: closed form, PyMatting multi-level"] = ("rembg closed form", m.pymatting_multilevel)
    return Measured(
        kind=scene.kind,
        finish=scene.finish,
        factor=scene.factor,
        seed=seed,
        unknown_share=float(where.mean()),
        alphas={name: matting_errors(alpha, scene.alpha, where) for name, alpha in alphas.items()},
        colours={name: m.colour_error(scene, method, scene.alpha, where) for name, method in colours.items()},
        cutouts={name: m.colour_error(scene, method, alphas[alpha], where) for name, (alpha, method) in cutouts.items()},
        moved_outside=max(float(np.abs(one - alphas["bilinear"])[~where].max(initial=0)) for one in refined.values()),
    )
