"""For ``make evaluate``: the bundled models on the evaluation photos, with and without boxes, corrupted, in pairs; hard cases.

The tags are the photos' sources and their corruptions.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.presets import load_preset
from pipeline.errors import WeightsError
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import fetch_weights
from pipeline.training.crops import Photo, bounding_box, side_by_side
from pipeline.training.material import Material
from pipeline.training.products.hard_cases import write_cases

MODELS = ("mvanet-lite", "u2netp")
FULL = "u2net"
"""The full U²-Net, in the tables of ``plain`` and ``boxed`` where its weights are on this machine or can be downloaded."""

PAIRS = 100
MANIFESTS = {
    "plain": "Photos without boxes",
    "boxed": "Photos cropped to their boxes",
    "unboxed": "Photos and corrupted copies, without boxes",
    "pairs": "Photos beside another one, without boxes",
    "boxed-pairs": "Photos beside another one, cropped to the box of one object",
    "loose": "Photos cropped to loose boxes",
    "hard": "Hard cases, rendered from designs, photos and drawings held out of training",
}


@pytest.fixture(scope="session")
def out(results: Callable[[str], Path]) -> Path:
    """Folder for manifests and outputs."""
    return results("evaluate")


@pytest.fixture(scope="session")
def run(matteline: str) -> Callable[..., None]:
    """``run("evaluate", …)``: run a command, and print what it prints."""
    return lambda *arguments: subprocess.run([matteline, *arguments], check=True, timeout=7000) and None


@pytest.fixture(scope="session")
def manifests(data: Path, out: Path, run: Callable[..., None]) -> dict[str, Path]:
    """The manifests of ``MANIFESTS``."""
    paths = {kind: out / f"{kind}.parquet" for kind in MANIFESTS} | {"hard": out / "cases" / "hard.parquet"}
    photos, everything = data / "eval" / "photos.parquet", out / "corrupted.parquet"
    run("manifest", str(photos), "--unpack", str(out / "photos"), "--corruptions", "all", "-o", str(everything))
    rows = pq.read_table(everything)
    sources, tags = rows["source"].to_pylist(), rows["tags"].to_pylist()
    tags = [[source, *(cell or ["photo"])] for source, cell in zip(sources, tags, strict=True)]
    rows = rows.set_column(rows.schema.get_field_index("tags"), "tags", pa.array(tags, pa.list_(pa.string())))
    pq.write_table(rows.drop_columns(["box"]), paths["unboxed"])
    originals = rows.filter(pc.equal(rows["item_id"], rows["group"]))
    pq.write_table(originals, paths["boxed"])
    pq.write_table(originals.drop_columns(["box"]), paths["plain"])
    pairs = pa.Table.from_pylist(make_pairs(read_rows(paths["boxed"]), out))
    pq.write_table(pairs, paths["boxed-pairs"])
    pq.write_table(pairs.drop_columns(["box"]), paths["pairs"])
    run("manifest", str(photos), "--unpack", str(out / "photos"), "--boxes", "loose", "-o", str(out / "boxes.parquet"))
    boxes = pq.read_table(out / "boxes.parquet")
    loose = boxes.filter(pc.ends_with(boxes["item_id"], "@loose"))
    tags = [[source, *cell] for source, cell in zip(loose["source"].to_pylist(), loose["tags"].to_pylist(), strict=True)]
    tagged = loose.set_column(loose.schema.get_field_index("tags"), "tags", pa.array(tags, pa.list_(pa.string())))
    pq.write_table(tagged, paths["loose"])
    assert write_cases(Material.read(data).held_out(), out / "cases") == paths["hard"]
    return paths


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    """A model's name."""
    return str(request.param)


@pytest.fixture(scope="session")
def photos(manifests: dict[str, Path]) -> list[dict[str, Any]]:
    """Manifest rows of the photos with their boxes."""
    return read_rows(manifests["boxed"])


def read_rows(manifest: Path) -> list[dict[str, Any]]:
    """Return a manifest's rows with absolute paths."""
    rows = pq.read_table(manifest).to_pylist()
    return [row | {name: str(manifest.parent / row[name]) for name in ("image_uri", "truth_uri")} for row in rows]


def make_pairs(rows: list[dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Write pictures of two photos, whose ground truth and box are of one of the objects, and return their rows."""
    rng, pairs = np.random.default_rng(0), []
    folder = out / "pairs-of-photos"
    folder.mkdir(exist_ok=True)
    for number, place in enumerate(rng.permutation(len(rows))[:PAIRS]):
        row, other = rows[place], rows[(place + int(rng.integers(1, len(rows)))) % len(rows)]
        pair = side_by_side(read_photo(row), read_photo(other), rng)
        names = {"image_uri": f"{folder.name}/{number:03}.jpg", "truth_uri": f"{folder.name}/{number:03}.png"}
        Image.fromarray(pair.image).save(out / names["image_uri"], quality=95)
        Image.fromarray(pair.alpha).save(out / names["truth_uri"])
        box = list(bounding_box(pair.alpha) or ())
        pairs.append({"item_id": f"pair-{number:03}", **names, "box": box, "tags": [row["source"]], "group": row["item_id"]})
    return pairs


def read_photo(row: dict[str, Any]) -> Photo:
    image = np.asarray(Image.open(row["image_uri"]).convert("RGB"))
    truth = Image.open(row["truth_uri"]).convert("L").resize(image.shape[1::-1], Image.Resampling.NEAREST)
    return Photo(image, np.asarray(truth))


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether there are weights of the full U²-Net."""
    recipe = load_preset(FULL).recipe
    try:
        fetch_weights(recipe.weights, recipe.weights_sha256, Files())
    except WeightsError as error:
        print(f"\n{FULL} is not on this machine, so it has no rows: {error}")
        return False
    return True


@pytest.fixture(scope="session")
def evaluated(
    manifests: dict[str, Path], out: Path, run: Callable[..., None], full: bool
) -> Callable[[str], dict[str, dict[str, Any]]]:
    """``evaluated("boxed")``: evaluate all models on a manifest, once; by model, an entry of ``evaluation.json``."""
    known: dict[str, dict[str, dict[str, Any]]] = {}

    def evaluate(kind: str) -> dict[str, dict[str, Any]]:
        if kind not in known:
            print(f"\n\n{MANIFESTS[kind]}\n", flush=True)
            shutil.rmtree(out / kind, ignore_errors=True)
            names = (*MODELS, FULL) if full and kind in ("plain", "boxed") else MODELS
            models = [part for model in names for part in ("-p", model)]
            settings = ["--tags", "tags", "--set", "recipe.outputs=[mask]"]
            run("evaluate", "-m", str(manifests[kind]), "-o", str(out / kind), *models, *settings)
            found = json.loads((out / kind / "evaluation.json").read_text(encoding="utf-8"))["models"]
            known[kind] = {one["model"]: one for one in found}
        return known[kind]

    return evaluate
