"""A page of crops at 1:1, before and after refinement, on white, black and green."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import methods
import numpy as np
from PIL import Image

from pipeline import Segmenter
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.frame import to_mask
from pipeline.paths import EXAMPLES
from pipeline.training.scenes import FINISHES, KINDS, make_scene
from pipeline.types import Alpha, Mask, Pixels, as_alpha

GROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "green": (0, 200, 60)}
CROP_PX = 256


class Sample(NamedTuple):
    """An image with two or more alphas."""

    name: str
    image: Pixels
    before: Alpha
    """8 bits, enlarged; shown with the photo's own colours."""
    after: dict[str, Alpha]
    """Alpha by refiner."""


def scenes(material: Any) -> Iterator[Sample]:
    """Yield a held-out scene of every kind, at 4x."""
    for number, kind in enumerate(KINDS):
        scene = make_scene(material, 100, kind, FINISHES[number % len(FINISHES)], 4, split="held_out")
        after = {name: methods.refine(scene, refiner) for name, refiner in methods.refiners().items()}
        yield Sample(f"{kind}, {scene.finish}, {scene.factor}x", scene.image, methods.eight_bits(scene), after)


def photos() -> Iterator[Sample]:
    """Yield some bundled photos with u2netp's alpha; they have no ground truth."""
    segmenters = {refiner: Segmenter("u2netp", refiner=refiner) for refiner in ("none", *methods.refiners())}
    for path in sorted(EXAMPLES.glob("*.jpg"))[:6]:
        image = np.asarray(Image.open(path).convert("RGB"))
        alphas = {refiner: as_alpha(segmenter(image).alpha) for refiner, segmenter in segmenters.items()}
        yield Sample(f"{path.stem}, u2netp", image, alphas.pop("none"), alphas)


def largest_change(sample: Sample) -> tuple[slice, slice]:
    """Return the square in which guided changes the most."""
    change = cv2.boxFilter(np.abs(sample.after["guided"] - sample.before), -1, (CROP_PX // 2, CROP_PX // 2))
    centre = np.unravel_index(int(change.argmax()), change.shape)
    top, left = (
        int(np.clip(at - CROP_PX // 2, 0, max(0, length - CROP_PX))) for at, length in zip(centre, change.shape, strict=True)
    )
    return slice(top, top + CROP_PX), slice(left, left + CROP_PX)


def composite(colours: Pixels, mask: Mask, ground: tuple[int, int, int]) -> Pixels:
    alpha = as_alpha(mask)[..., None]
    return np.rint(alpha * colours + (1 - alpha) * np.array(ground)).astype(np.uint8)


def crops(sample: Sample) -> Iterator[tuple[str, Pixels]]:
    """Yield the photo, and every alpha with its composites."""
    part = largest_change(sample)
    yield "photo", sample.image[part]
    for when, alpha in {"before": sample.before, **sample.after}.items():
        mask = to_mask(alpha)
        colours = sample.image if when == "before" else estimate_foreground(sample.image, mask, "multilevel")
        yield f"{when}: alpha", np.repeat(mask[part][..., None], 3, 2)
        for name, ground in GROUNDS.items():
            yield f"{when}: on {name}", composite(colours[part], mask[part], ground)


def write_page(material: Any, out: Path) -> Path:
    """Write ``index.html`` and its pictures."""
    (out / "crops").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, sample in enumerate([*scenes(material), *photos()]):
        cells = []
        for place, (name, pixels) in enumerate(crops(sample)):
            file, caption = f"crops/{number:02}-{place}.png", html.escape(name)
            Image.fromarray(pixels).save(out / file)
            cells.append(f'<figure><img src="{file}" alt="{caption}"><figcaption>{caption}</figcaption></figure>')
        rows.append(f"<h2>{html.escape(sample.name)}</h2><div>{''.join(cells)}</div>")
    page = out / "index.html"
    page.write_text(PAGE.format(rows="\n".join(rows)), encoding="utf-8")
    return page


PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Before and after the refiner</title>
<style>
  body {{ font: 14px sans-serif; margin: 2em; background: #ddd }}
  div {{ display: flex; flex-wrap: wrap; gap: 6px }}
  figure {{ margin: 0 }}
  img {{ display: block; image-rendering: pixelated }}
</style>
<h1>Before and after the refiner, at 1:1</h1>
<p>Before: the base alpha at 8 bits, enlarged, with the photo's own colours. guided, cgm: that <code>refiner</code>, and
<code>foreground: multilevel</code>. Each crop is where guided changes the most.</p>
{rows}
"""
