"""Label photos that have no masks: with the mean of two models' masks, where these agree.

``python -m pipeline.training.pseudo_labels -m photos -o out/labels`` runs two models over a manifest and writes
``out/labels/manifest.parquet`` for ``matteline train``. Photos on which the models do not agree are left out. Such masks have
the errors that both models share, and no finer details than theirs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import run
from pipeline.config.presets import load_preset
from pipeline.errors import ConfigError, ItemError, PipelineError
from pipeline.imaging.png import encode_mask
from pipeline.imaging.validate import decode_mask
from pipeline.log import log, set_up_logging
from pipeline.manifest.build import write_manifest
from pipeline.models.cascade import agreement, mean_mask
from pipeline.output.index import read_index
from pipeline.output.output import Output
from pipeline.storage import uris
from pipeline.storage.files import Files
from pipeline.training.crops import OBJECT_ABOVE

MODELS = ("mvanet-lite", "u2net")
AGREE_FROM = 0.95
"""Dice of two masks from which on they agree."""

INDEX_COLUMNS = ["item_id", "output_name", "image_uri", "box", "mask_path", "video_facts"]

LABELS = pa.schema(
    [
        pa.field("item_id", pa.string()),
        pa.field("image_uri", pa.string()),
        pa.field("box", pa.list_(pa.float64())),
        pa.field("truth_uri", pa.string()),
        pa.field("agreement", pa.float32()),
    ]
)
"""Columns of the manifest that is written. ``agreement`` is the Dice of both masks."""


def label(
    manifest: str,
    output: str,
    models: Sequence[str] = MODELS,
    *,
    agree_from: float = AGREE_FROM,
    allow_roots: Sequence[str] = (),
) -> str:
    """Run two models over a manifest and keep what they agree on; the same call continues a stopped one.

    Args:
        manifest: As for ``matteline run``.
        output: Folder or prefix: for a folder per model, ``labels/`` and ``manifest.parquet``.
        models: Two presets. Those whose licence restricts commercial use are refused.
        agree_from: Dice of two masks from which on they agree, in (0, 1].
        allow_roots: As for ``matteline run``.

    Returns:
        Path or URI of the new manifest.

    Raises:
        ConfigError: The models are not two different ones, ``agree_from`` is out of range, or no masks agree.
        PipelineError: A run was refused or stopped.
    """
    names = [load_preset(model).recipe.name for model in models]
    if len(set(names)) != 2 or len(names) != 2:
        raise ConfigError(f"--models are {', '.join(models)}; give two different models")
    if not 0 < agree_from <= 1:
        raise ConfigError(f"--agree-from is {agree_from:g}; give a Dice above 0 and up to 1")
    root, files = uris.absolute(output), Files()
    folders = [uris.join(root, name) for name in names]
    for model, folder in zip(models, folders, strict=True):
        run(manifest, folder, preset=model, settings={"recipe.outputs": ["mask"]}, allow_root=allow_roots)
    first, other = (Output.at(folder, files) for folder in folders)
    return write_labels(first, other, root, agree_from=agree_from)


def write_labels(first: Output, other: Output, root: str, *, agree_from: float = AGREE_FROM) -> str:
    """Write the mean masks of the pictures that two outputs agree on, and their manifest; return its path or URI.

    Raises:
        ConfigError: There are none.
        StorageError: An index cannot be read.
        WriteError: A file cannot be written.
    """
    others = {row["item_id"]: row["mask_path"] for row in _pictures(other)}
    kept, seen = [], 0
    for row in _pictures(first):
        path = others.get(row["item_id"])
        seen += 1
        try:
            masks = None if path is None else (first.load(row["mask_path"], decode_mask), other.load(path, decode_mask))
        except ItemError as error:
            log.warning(f"skipped: {row['item_id']}: {error}")
            continue
        # Two masks without an object agree, too, and teach to find nothing.
        if masks is None or masks[0].shape != masks[1].shape or min(mask.max() for mask in masks) <= OBJECT_ABOVE:
            continue
        alike = agreement(*masks)
        if alike >= agree_from:
            truth_uri = uris.join(root, "labels", f"{row['output_name']}.png")
            first.write(truth_uri, encode_mask(mean_mask(*masks)))
            own = {name: row[name] for name in ("item_id", "image_uri", "box")}
            kept.append(own | {"truth_uri": truth_uri, "agreement": alike})
    if not kept:
        raise ConfigError(f"the models agree on none of {seen} pictures; lower --agree-from, or give other models")
    target = uris.join(root, "manifest.parquet")
    write_manifest(pa.Table.from_pylist(kept, LABELS), target, first.files)
    agreements = np.array([one["agreement"] for one in kept])
    log.info(f"{len(kept)} of {seen} pictures are labelled in {target}; median agreement {np.median(agreements):.3f}")
    return target


def _pictures(output: Output) -> Iterator[dict[str, Any]]:
    """Yield the index rows of pictures that have a mask."""
    for rows in read_index(output, INDEX_COLUMNS):
        for row in rows.to_pylist():
            if row["mask_path"] is not None and row["video_facts"] is None:
                yield row


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--manifest", required=True, help="photos: a folder or a table, as for matteline run")
    parser.add_argument("-o", "--output", required=True, help="folder or prefix for masks and manifest.parquet")
    parser.add_argument("--models", nargs=2, default=MODELS, help="two presets (default: mvanet-lite u2net)")
    parser.add_argument("--agree-from", type=float, default=AGREE_FROM, help="Dice of both masks (default: 0.95)")
    parser.add_argument("--allow-root", action="append", default=[], help="allow photos below this folder or prefix as well")
    options = parser.parse_args()
    set_up_logging()
    try:
        label(options.manifest, options.output, options.models, agree_from=options.agree_from, allow_roots=options.allow_root)
    except PipelineError as error:
        log.error(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
