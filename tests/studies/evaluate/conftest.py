"""For ``make evaluate``: the models at hand on the evaluation photos, whole, with harder copies, with boxes, and in pairs.

The tags are the photos' sources and what the copies are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.training.crops import Photo, side_by_side

ROOT = Path(__file__).resolve().parents[3]
MODELS = ("mvanet-lite", "u2netp")
PAIRS = 100
SHOWN = {
    "boxed": "cut to their boxes",
    "whole": "without boxes, and their copies",
    "pairs": "side by side with another, without boxes",
    "boxed pairs": "side by side with another, cut to the box of one",
}


@pytest.fixture(scope="session")
def eval_photos() -> Path:
    """``data/eval/photos.parquet`` in ``DATA``."""
    return Path(os.environ.get("DATA") or ROOT.parent / "shared") / "data" / "eval" / "photos.parquet"


@pytest.fixture(scope="session")
def out() -> Path:
    """Where what a person looks at goes."""
    folder = ROOT / "out" / "evaluate"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def matteline(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "jobs.main", *arguments], cwd=ROOT, check=True, timeout=7000)


@pytest.fixture(scope="session")
def manifests(eval_photos: Path, out: Path) -> dict[str, Path]:
    """Whole photos and their harder copies; photos with their boxes; pairs of photos."""
    found = {kind: out / f"{kind.replace(' ', '-')}.parquet" for kind in SHOWN}
    copied = out / "copied.parquet"
    matteline("manifest", str(eval_photos), "--unpack", str(out / "photos"), "--copies", "all", "-o", str(copied))
    rows = pq.read_table(copied)
    tags = [
        [source, *(tags or ["photo"])]
        for source, tags in zip(rows["source"].to_pylist(), rows["tags"].to_pylist(), strict=True)
    ]
    rows = rows.set_column(rows.schema.get_field_index("tags"), "tags", pa.array(tags, pa.list_(pa.string())))
    pq.write_table(rows.drop_columns(["box"]), found["whole"])
    pq.write_table(rows.filter(pc.equal(rows["item_id"], rows["group"])), found["boxed"])
    pairs = pa.Table.from_pylist(photo_pairs(read_rows(found["boxed"]), out))
    pq.write_table(pairs, found["boxed pairs"])
    pq.write_table(pairs.drop_columns(["box"]), found["pairs"])
    return found


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    """A model's name."""
    return str(request.param)


@pytest.fixture(scope="session")
def rows_of(manifests: dict[str, Path]) -> Callable[[str], list[dict[str, Any]]]:
    """The rows of a kind's manifest."""
    return lambda kind: read_rows(manifests[kind])


def read_rows(manifest: Path) -> list[dict[str, Any]]:
    """Its rows, the photos' paths from here."""
    rows = pq.read_table(manifest).to_pylist()
    return [row | {name: str(manifest.parent / row[name]) for name in ("image_uri", "truth_uri")} for row in rows]


def photo_pairs(rows: list[dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Pictures of two photos, of which the truth and the box are the object of one."""
    rng, found = np.random.default_rng(0), []
    folder = out / "pairs-of-photos"
    folder.mkdir(exist_ok=True)
    for number, place in enumerate(rng.permutation(len(rows))[:PAIRS]):
        row, other = rows[place], rows[(place + int(rng.integers(1, len(rows)))) % len(rows)]
        pair = side_by_side(opened(row), opened(other), rng)
        names = {"image_uri": f"{folder.name}/{number:03}.jpg", "truth_uri": f"{folder.name}/{number:03}.png"}
        Image.fromarray(pair.image).save(out / names["image_uri"], quality=95)
        Image.fromarray(pair.alpha).save(out / names["truth_uri"])
        across, down = (np.flatnonzero((pair.alpha > 127).any(axis)) for axis in (0, 1))
        box = [int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1]
        found.append({"item_id": f"pair-{number:03}", **names, "box": box, "tags": [row["source"]], "group": row["item_id"]})
    return found


def opened(row: dict[str, Any]) -> Photo:
    image = np.asarray(Image.open(row["image_uri"]).convert("RGB"))
    truth = Image.open(row["truth_uri"]).convert("L").resize(image.shape[1::-1], Image.Resampling.NEAREST)
    return Photo(image, np.asarray(truth))


@pytest.fixture(scope="session")
def evaluated(manifests: dict[str, Path], out: Path) -> Callable[[str], dict[str, dict[str, Any]]]:
    """Masks made anew and measured, the tables printed as they come: by model, one entry of ``evaluation.json``."""
    known: dict[str, dict[str, dict[str, Any]]] = {}

    def evaluate(kind: str) -> dict[str, dict[str, Any]]:
        if kind not in known:
            print(f"\n\nPhotos {SHOWN[kind]}\n", flush=True)
            to = out / kind.replace(" ", "-")
            shutil.rmtree(to, ignore_errors=True)
            models = [part for model in MODELS for part in ("-p", model)]
            asked = ["--tags", "tags", "--set", "recipe.outputs=[mask]"]
            matteline("evaluate", "-m", str(manifests[kind]), "-o", str(to), *models, *asked)
            found = json.loads((to / "evaluation.json").read_text(encoding="utf-8"))["models"]
            known[kind] = {one["model"]: one for one in found}
        return known[kind]

    return evaluate
