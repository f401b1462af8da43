"""Fit the calibrations of the bundled models anew: ``python -m pipeline.evaluate.bundled --data FOLDER`` (``make calibrate``).

Every photo comes without a box, with a tight and with a loose one, with one of the other boxes, and as one corrupted copy
without a box. What a model gives for them is kept in the folder of results, so only new weights are run.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config.job import load_job
from pipeline.config.recipe import ESTIMATOR_SHA256, fingerprint_of
from pipeline.errors import ConfigError
from pipeline.evaluate.calibrate import CalibrationResult, calibrate
from pipeline.evaluate.driver import EvaluateOptions, evaluate
from pipeline.evaluate.measure import read_rows
from pipeline.evaluate.tables import markdown_table, ranking_table, score_table
from pipeline.imaging.corruptions import KINDS
from pipeline.imaging.rough_boxes import BoxKind
from pipeline.log import set_up_logging
from pipeline.manifest.box_copies import with_rough_boxes
from pipeline.manifest.build import write_manifest
from pipeline.manifest.corruptions import MARK, with_corruptions
from pipeline.manifest.unpack import from_hub
from pipeline.output.output import Output
from pipeline.paths import CONFIGS, WEIGHTS
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files

MODELS = ("mvanet-lite", "u2netp")

ALWAYS: tuple[BoxKind, ...] = ("none", "tight", "loose")
IN_TURN: tuple[BoxKind, ...] = ("whole", "shifted", "cut", "beside")
"""Boxes of every photo, and those of which a photo has one."""

SETTINGS = {
    "recipe.calibration": "",
    "recipe.outputs": ["mask"],
    "budget.max_failed_share": 1,
    "compute.local_items": 100_000,
}
"""Signals do not depend on the calibration, so its next version can be fitted on the same results."""

Kind = TypeVar("Kind", bound=str)


def make_manifest(photos: str, folder: Path, every: int = 1) -> Path:
    """Write the manifest of one in so many photos and its pictures below a folder; a finished one is kept.

    Args:
        photos: Parquet file with ``item_id``, ``image``, ``mask`` and ``source``, the kind of photo.
        folder: For ``manifest.parquet``, ``photos/`` and ``copies/``.
        every: 2 takes half of the photos.

    Raises:
        ConfigError: The file is no such data set.
    """
    path, files = folder / "manifest.parquet", Files()
    if path.exists():
        return path
    allowlist = AllowList((str(folder / "photos"),))
    table = from_hub(photos, str(folder / "photos"), files)
    if not {"source", "truth_uri"} <= set(table.column_names):
        raise ConfigError(f"{photos} has no column source or mask; both are needed")
    table = table.take(np.arange(0, table.num_rows, every)).select(["item_id", "image_uri", "truth_uri", "source"])
    sources = pa.array([[source] for source in table["source"].to_pylist()], pa.list_(pa.string()))
    table = table.append_column("tags", sources).append_column("box", pa.nulls(table.num_rows, pa.list_(pa.float64())))
    parts = []
    for box in IN_TURN:
        if (some := _turn(table, IN_TURN, box)).num_rows:
            parts.append(with_rough_boxes(some, (*ALWAYS, box), allowlist, files)[0])
    for kind in KINDS:
        if (some := _turn(table, KINDS, kind)).num_rows:
            parts.append(with_corruptions(some, (kind,), str(folder / "copies"), allowlist, files)[0])
    rows = pa.concat_tables(parts, promote_options="permissive")
    write_manifest(rows.filter(pc.match_substring(rows["item_id"], MARK)), str(path), files)
    return path


def _turn(table: pa.Table, kinds: Sequence[Kind], kind: Kind) -> pa.Table:
    """Return the photos whose turn it is, by a hash of their ids."""
    hashes = [int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) for name in table["item_id"].to_pylist()]
    return table.filter(pa.array([kinds[number % len(kinds)] == kind for number in hashes], pa.bool_()))


def measured(model: str, manifest: Path, folder: Path) -> Output:
    """Run a model without calibration on a manifest and measure its masks, unless that is done; return its output."""
    job = load_job(manifest=str(manifest), output=str(folder), preset=model, overrides=SETTINGS)
    facts = job.recipe.facts() | {"estimator_sha256": ESTIMATOR_SHA256}
    root = folder / f"recipe-{fingerprint_of(facts)[:8]}"
    output = Output.at(str(root / job.recipe.name), Files(job.storage))
    parts = list(output.files.list(output.layout.evaluation, suffixes=(".parquet",)))
    rows = sum(read_rows(part.uri, output.files, ["item_id"]).num_rows for part in parts)
    if rows != pq.read_metadata(manifest).num_rows:
        evaluate(
            [job.model_copy(update={"output": job.output.model_copy(update={"uri": str(root)})})], EvaluateOptions(tags="tags")
        )
    return output


def install(model: str, result: CalibrationResult, weights: Path = WEIGHTS, configs: Path = CONFIGS) -> None:
    """Write a calibration into the package, and its hash into the preset.

    A preset without a calibration gets the lines that name it, at its end, where the recipe is.

    Raises:
        ConfigError: The preset has several ``calibration_sha256``.
    """
    data = result.calibration.as_json()
    sha256, preset = hashlib.sha256(data).hexdigest(), configs / f"{model}.yaml"
    text = preset.read_text(encoding="utf-8")
    if "calibration_sha256" not in text:
        text += f"  # Fitted and written by make calibrate.\n  calibration: bundled:{model}.calibration.json\n"
        text += f"  calibration_sha256: {sha256}\n"
    text, count = re.subn(r"(calibration_sha256: )[0-9a-f]{64}", rf"\g<1>{sha256}", text)
    if count != 1:
        raise ConfigError(f"{preset} has {count} lines calibration_sha256; it must have one")
    (weights / f"{model}.calibration.json").write_bytes(data)
    preset.write_text(text, encoding="utf-8")


def report(model: str, result: CalibrationResult) -> str:
    """Return the tables of a calibration as Markdown."""
    tables = [ranking_table(list(result.rankings.items())), score_table("The score by tag", result.by_tag)]
    parts = [f"# {model}", *(f"## {title}\n\n{markdown_table(header, rows)}" for title, header, rows in tables)]
    return "\n\n".join([*parts, result.threshold.describe() if result.threshold else "no threshold"]) + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with eval/photos.parquet")
    parser.add_argument("--out", type=Path, default=Path("out/calibrate"))
    parser.add_argument("--every", type=int, default=1, help="2 takes half of the photos")
    parser.add_argument("--models", nargs="+", default=MODELS, help="presets; u2net, too, where its weights can be downloaded")
    options = parser.parse_args()
    set_up_logging()
    photos = (options.data / "eval" / "photos.parquet").resolve()
    with photos.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    folder = (options.out / f"every-{options.every}-{content[:8]}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    manifest = make_manifest(str(photos), folder, options.every)
    for model in options.models:
        result = calibrate([measured(model, manifest, folder)])
        install(model, result)
        text = report(model, result)
        (folder / f"{model}.md").write_text(text, encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
