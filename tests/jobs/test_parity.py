"""The published models through the command line: golden weights in, the publishers' own masks out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image

TESTS = Path(__file__).resolve().parents[1]
GOLDENS = TESTS / "goldens"
MATTELINE = str(Path(sys.executable).with_name("matteline"))

pytestmark = [pytest.mark.study, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, golden_weights: ModuleType) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    return {
        "finegrain-box": golden_weights.write_weights("finegrain", folder / "finegrain.safetensors"),
        "ben2-base": golden_weights.write_weights("ben2", folder / "ben2.pth"),
    }


def cut_out(folder: Path, manifest: str, preset: str, *settings: str) -> dict[str, dict[str, object]]:
    (folder / "manifest.csv").write_text(manifest)
    chosen = ["recipe.refiner=none", "recipe.precision=fp32", "compute.batch_size=1", *settings]
    command = [MATTELINE, "run", "-m", "manifest.csv", "-o", "out", "-p", preset, "--allow-root", str(GOLDENS)]
    done = subprocess.run(
        [*command, *(part for setting in chosen for part in ("--set", setting))],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {row["item_id"]: row for row in ds.dataset(folder / "out" / "index", format="parquet").to_table().to_pylist()}


def test_finegrain_box_masks(tmp_path: Path, weights: dict[str, Path], bars: Any) -> None:
    """Upstream truncates where we round: half a level on average."""
    rows = [
        "image_uri,item_id,x0,y0,x1,y1",
        f"{GOLDENS}/photo1.png,photo1.nobox,,,,",
        f"{GOLDENS}/photo1.png,photo1.box,300,150,820,610",
        f"{GOLDENS}/photo1.png,photo1.edgebox,0,500,700,830",
        f"{GOLDENS}/photo2.png,photo2.box,40,200,600,1500",
    ]
    index = cut_out(tmp_path, "\n".join(rows), "finegrain-box", f"recipe.weights={weights['finegrain-box']}")
    for item_id, row in index.items():
        golden = np.asarray(Image.open(GOLDENS / f"finegrain.{item_id}.mask.png").convert("L")).astype(int)
        ours = np.asarray(Image.open(tmp_path / "out" / str(row["mask_path"]))).astype(int)
        off = np.abs(ours - golden)
        bars.at_most(f"finegrain through the command line: mask of {item_id}, mean of 255", off.mean(), 0.6)
        bars.at_most(f"finegrain through the command line: mask of {item_id}, 99.9th percentile", np.percentile(off, 99.9), 3)


def test_ben2_whole_inference_with_its_stretch(tmp_path: Path, weights: dict[str, Path], bars: Any) -> None:
    """Against BEN2's own alpha."""
    rows = ["image_uri,item_id", f"{GOLDENS}/photo1.png,photo1", f"{GOLDENS}/photo2.png,photo2"]
    index = cut_out(tmp_path, "\n".join(rows), "ben2-base", f"recipe.weights={weights['ben2-base']}", "recipe.stretch=true")
    for item_id, row in index.items():
        golden = np.asarray(Image.open(GOLDENS / f"ben2_base.{item_id}.alpha.png")).astype(int)
        ours = np.asarray(Image.open(tmp_path / "out" / str(row["mask_path"]))).astype(int)
        bars.at_most(f"ben2 through the command line: {item_id} stretched, mean of 255", np.abs(ours - golden).mean(), 1)
