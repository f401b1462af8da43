"""Draw a sheet of scenes with their ground truth outlined: ``python -m pipeline.training.products.sheet --data FOLDER``."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from pipeline.training.material import PERMISSIVE, Material
from pipeline.training.products.scene import ProductScene, draw_size, make_product_scene
from pipeline.types import Pixels

SCENES, COLUMNS = 48, 8
CELL_PX = 320


def draw_sheet(material: Material, seed: int, scenes: int = SCENES, columns: int = COLUMNS) -> Pixels:
    """Draw scenes in rows: the ground truth outlined in magenta, the box in green."""
    cells = []
    for number in range(scenes):
        rng = np.random.default_rng([seed, number])
        cells.append(_cell(make_product_scene(material, rng, draw_size(rng))))
    cells += [np.full_like(cells[0], 255)] * (-scenes % columns)
    return np.concatenate([np.concatenate(cells[start : start + columns], 1) for start in range(0, len(cells), columns)])


def _cell(scene: ProductScene) -> Pixels:
    """Draw one scene into the middle of a white square."""
    image = scene.image.copy()
    outlines, _ = cv2.findContours((scene.alpha > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, outlines, -1, (255, 0, 255), 2)
    if scene.box:
        cv2.rectangle(image, scene.box[:2], scene.box[2:], (0, 255, 0), 2)
    height, width = image.shape[:2]
    scale = (CELL_PX - 8) / max(height, width)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cell = np.full((CELL_PX, CELL_PX, 3), 255, np.uint8)
    top, left = (CELL_PX - small.shape[0]) // 2, (CELL_PX - small.shape[1]) // 2
    cell[top : top + small.shape[0], left : left + small.shape[1]] = small
    return cell


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with objects/ and backgrounds/")
    parser.add_argument("--out", type=Path, default=Path("out/products.jpg"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet = draw_sheet(Material.read(options.data, licences=PERMISSIVE), options.seed)
    cv2.imwrite(str(options.out), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
