"""Render what models fail on, to measure it: ``python -m pipeline.training.products.hard_cases --data FOLDER --out FOLDER``.

No training sees these pictures: their designs, photos and drawings are held out.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.imaging.lossy import encode_lossy
from pipeline.imaging.png import encode_mask
from pipeline.quality.tags import tags
from pipeline.training.crops import OBJECT_ABOVE, bounding_box
from pipeline.training.material import Material, transform
from pipeline.training.products import grounds
from pipeline.training.products.brands import TONES, Pictures, Tone
from pipeline.training.products.catalogue import Shop, draw_kind
from pipeline.training.products.layers import Canvas, Layer
from pipeline.training.products.light import draw_light
from pipeline.training.products.scene import draw_pose, draw_size, finish, make_product_scene
from pipeline.training.products.thin_things import draw_thin
from pipeline.types import Mask, Pixels

FIRST_DESIGN = 1 << 31
"""Training draws designs below this."""

SEED = 24
ITEMS = 60
"""Pictures per case."""

QUALITY = 95
"""Of their JPEG files."""

CLEAR, CLEAR_SHARE = (0.3, 0.95), 0.25
"""Opacity of glass, and smallest share of it in the picture of a transparent product."""


OWN_THIN, THIN_PX = 0.7, 448
"""Share of the pictures of thin parts whose thing is drawn by ``thin_things``, and its side in pixels."""

RIM = (0.02, 0.12)
"""Contrast of the rim of a package that is like its ground: from what can just be seen, to below this (``rim_contrast``)."""

MAX_REDRAWS = 200


class HardCase(NamedTuple):
    """A picture (H, W, 3) uint8 and its ground truth (H, W) uint8."""

    image: Pixels
    alpha: Mask
    group: str = ""
    """Name of what several pictures share, such as a drawing: their results depend on each other. Empty: nothing."""


def thin(shop: Shop, rng: np.random.Generator) -> HardCase:
    """Place a thing with thin parts on a photo or on a studio's ground: one that is drawn here, or a drawing of the material.

    The material has few, so their pictures have the drawing as their group.
    """
    group, own = "", rng.random() < OWN_THIN
    while True:
        rgba = _straight(draw_thin(rng, THIN_PX)) if own else shop.pictures.material.object(rng, "train")
        if "thin" in tags(np.asarray(np.rint(255 * rgba[..., 3]), np.uint8)):
            break
    if not own:
        group = f"thin-parts-{hashlib.sha256(rgba.tobytes()).hexdigest()[:12]}"
    side = max(shop.size)
    scale = rng.uniform(0.5, 0.9) * min(shop.size) / max(rgba.shape[:2])
    centre = np.array([shop.size[1] / 2, shop.size[0] / 2])
    layer = np.clip(transform(rgba, scale, rng.uniform(-25, 25), centre, side, cv2.INTER_AREA), 0, 1)
    layer = np.ascontiguousarray(layer[: shop.size[0], : shop.size[1]])
    canvas = Canvas(_ground(shop, rng))
    canvas.put(layer, 0, 0, wanted=True)
    return HardCase(*finish(canvas, rng), group)


def hard_shadow(shop: Shop, rng: np.random.Generator) -> HardCase:
    """Stand a product in the light of a bare lamp."""
    return _stand(shop._replace(light=shop.light._replace(hardness=1.0)), rng, _studio(rng), _tone(rng), shadow=1.0)


def reflection(shop: Shop, rng: np.random.Generator) -> HardCase:
    """Stand a product on a polished ground."""
    return _stand(shop, rng, _studio(rng), _tone(rng), reflects=True)


def hand_held(shop: Shop, rng: np.random.Generator) -> HardCase:
    """Hold a product in a hand. The hand is background."""
    scene = make_product_scene(shop.pictures.material, rng, shop.size, "hand", shop.first_design)
    return HardCase(scene.image, scene.alpha)


def white_on_white(shop: Shop, rng: np.random.Generator) -> HardCase:
    """Stand a pale product on white, so that its rim can hardly be seen."""
    return _stand_alike(shop, rng, "white", "pale", shadow=bool(rng.random() < 0.5))


def black_on_black(shop: Shop, rng: np.random.Generator) -> HardCase:
    """Stand a dark product on black, so that its rim can hardly be seen."""
    return _stand_alike(shop, rng, "black", "dark")


def one_of_several(shop: Shop, rng: np.random.Generator) -> HardCase:
    """Ask for one of several products that are alike, on a shelf or in a crate."""
    where: Any = "shelf" if rng.random() < 0.7 else "crate"
    scene = make_product_scene(shop.pictures.material, rng, shop.size, where, shop.first_design)
    return HardCase(scene.image, scene.alpha)


def transparent(shop: Shop, rng: np.random.Generator) -> HardCase:
    """Stand a bottle or a jar of clear glass on a studio's ground or before a photo."""
    while True:
        layer = _draw(shop, rng, "bottle" if rng.random() < 0.7 else "jar", "vivid")
        opacity = layer[..., 3]
        if ((opacity > CLEAR[0]) & (opacity < CLEAR[1])).mean() > CLEAR_SHARE:
            break
    canvas = Canvas(_ground(shop, rng))
    canvas.put(layer, *_middle(layer, shop.size), wanted=True)
    return HardCase(*finish(canvas, rng))


CASES: dict[str, Callable[[Shop, np.random.Generator], HardCase]] = {
    "thin parts": thin,
    "hard shadow": hard_shadow,
    "reflection": reflection,
    "hand-held": hand_held,
    "white on white": white_on_white,
    "black on black": black_on_black,
    "one of several": one_of_several,
    "transparent": transparent,
}
"""Functions by the name of their case."""

NEEDS_BOX = ("one of several",)
"""Cases in which only a box says what is asked for."""


def make_case(held_out: Material, case: str, number: int) -> HardCase:
    """Render a picture. The same arguments always give the same pixels.

    Args:
        held_out: ``Material.held_out``.
        case: A key of ``CASES``.
        number: 0 or more.
    """
    for attempt in range(100):
        rng = np.random.default_rng([SEED, list(CASES).index(case), number, attempt])
        shop = Shop(Pictures(held_out, rng), draw_light(rng), draw_size(rng), FIRST_DESIGN)
        made = CASES[case](shop, rng)
        if bounding_box(made.alpha) is not None:  # nothing is left of a product that its neighbours hide
            return made
    raise AssertionError(f"no picture of {case} has an object")


def write_cases(held_out: Material, folder: Path, items: int = ITEMS) -> Path:
    """Write pictures, ground truth and a manifest, ``hard.parquet``, and return its path.

    Each picture has two items, tagged ``rendered: <case>`` without its box and ``rendered: <case>, boxed`` with it.
    """
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = [row for case in CASES for number in range(items) for row in _write(held_out, folder, case, number)]
    kinds = {"box": pa.list_(pa.float64()), "tags": pa.list_(pa.string())}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in rows[0]])
    path = folder / "hard.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


def _write(held_out: Material, folder: Path, case: str, number: int) -> Iterator[dict[str, Any]]:
    name = f"{case.replace(' ', '-')}-{number:03}"
    image_uri, truth_uri = f"pictures/{name}.jpg", f"pictures/{name}.png"
    made = make_case(held_out, case, number)
    (folder / image_uri).write_bytes(encode_lossy(made.image, "jpeg", QUALITY))
    (folder / truth_uri).write_bytes(encode_mask(made.alpha))
    box = bounding_box(made.alpha)
    assert box is not None, "make_case gives an object"
    files = {"image_uri": image_uri, "truth_uri": truth_uri, "group": made.group or name}
    if case not in NEEDS_BOX:
        yield {"item_id": name, **files, "box": None, "tags": [f"rendered: {case}"]}
    yield {"item_id": f"{name}@tight", **files, "box": [float(value) for value in box], "tags": [f"rendered: {case}, boxed"]}


def _stand(
    shop: Shop,
    rng: np.random.Generator,
    studio: grounds.Studio,
    tone: Tone,
    *,
    shadow: float | None = None,
    reflects: bool = False,
    kept: float = 1.0,
) -> HardCase:
    """Stand one package on a studio's ground.

    Args:
        shop: Size and light of the picture.
        rng: Draws everything else.
        studio: Its ground.
        tone: The package's.
        shadow: Probability of a shadow across the ground besides the one under the package; None for neither.
        reflects: True to mirror the package on the ground.
        kept: Share of the package's colours that is kept; the rest of them is the ground's, white or black.
    """
    canvas = Canvas(grounds.sweep(studio, rng, shop.size))
    layer = _draw(shop, rng, draw_kind(rng), tone)
    if kept < 1:
        ground = np.float32(1.0 if studio == "white" else 0.03)
        layer[..., :3] = kept * layer[..., :3] + (1 - np.float32(kept)) * ground * layer[..., 3:]
    place = _middle(layer, shop.size)
    if shadow is not None:
        grounds.cast_shadow(canvas, layer, place, shop.light, rng, far=shadow)
    if reflects:
        grounds.reflect(canvas, layer, place, rng)
    canvas.put(layer, *place, wanted=True)
    return HardCase(*finish(canvas, rng))


def _stand_alike(shop: Shop, rng: np.random.Generator, studio: grounds.Studio, tone: Tone, *, shadow: bool = False) -> HardCase:
    """Stand a package whose colours are close to the ground's, and draw it again until its rim's contrast is in ``RIM``.

    Packages of one tone still have dark caps and coloured prints: without fading them hardly any would do.
    """
    for _ in range(MAX_REDRAWS):
        made = _stand(shop, rng, studio, tone, shadow=0.7 if shadow else None, kept=float(rng.uniform(0.2, 0.7)))
        if bounding_box(made.alpha) is not None and RIM[0] <= rim_contrast(made.image, made.alpha) < RIM[1]:
            return made
    raise AssertionError(f"no package is like a {studio} ground")


def rim_contrast(image: Pixels, alpha: Mask) -> float:
    """Return how different an object and what is beside it are along its rim, in [0, 1].

    It is the mean over the rim of the difference between the mean colours on both sides within a window of 3 % of the image's
    longer side. The border of the picture is no rim.

    Args:
        image: (H, W, 3) uint8.
        alpha: (H, W) uint8, with an object.
    """
    inside = (alpha > OBJECT_ABOVE).astype(np.float32)
    side = max(5, round(0.03 * max(alpha.shape))) | 1
    colours = image.astype(np.float32) / 255

    def mean(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        near = np.maximum(cv2.blur(weight, (side, side)), 1e-6)[..., None]
        return np.asarray(cv2.blur(colours * weight[..., None], (side, side)) / near, np.float32)

    different = np.abs(mean(inside) - mean(1 - inside)).mean(-1)
    window = np.ones((3, 3), np.uint8)
    rim = (cv2.dilate(inside, window) != cv2.erode(inside, window))[1:-1, 1:-1]
    return float(different[1:-1, 1:-1][rim].mean()) if rim.any() else 0.0


def _straight(layer: Layer) -> Layer:
    """Return a premultiplied layer with straight colours."""
    return np.asarray(np.dstack([layer[..., :3] / np.maximum(layer[..., 3:], 1e-6), layer[..., 3]]), np.float32)


def _draw(shop: Shop, rng: np.random.Generator, kind: str, tone: Tone) -> Layer:
    share = float(rng.uniform(0.5, 0.85))
    return shop.draw(kind, int(rng.integers(1 << 31)), tone, draw_pose(kind, rng, upright=True), (share, share))


def _middle(layer: Layer, size: tuple[int, int]) -> tuple[float, float]:
    """Return the top left corner that puts a layer into the middle, slightly below."""
    return (size[1] - layer.shape[1]) / 2, 0.55 * (size[0] - layer.shape[0])


def _ground(shop: Shop, rng: np.random.Generator) -> Any:
    if rng.random() < 0.5:
        return grounds.photo(shop.pictures.material, rng, shop.size)
    return grounds.sweep(_studio(rng), rng, shop.size)


def _studio(rng: np.random.Generator) -> grounds.Studio:
    studios: tuple[grounds.Studio, ...] = ("white", "grey", "coloured")
    return studios[int(rng.integers(3))]


def _tone(rng: np.random.Generator) -> Tone:
    return TONES[int(rng.integers(len(TONES)))]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with objects/ and backgrounds/")
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures/ and hard.parquet")
    parser.add_argument("--items", type=int, default=ITEMS, help="pictures per case")
    options = parser.parse_args()
    print(write_cases(Material.read(options.data).held_out(), options.out, options.items))


if __name__ == "__main__":
    main()
