"""Results that follow from an item's mask and cutout, without the model: further outputs, renditions, and the status."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.recipe import Recipe
from pipeline.output.index import read_index, read_part, write_part
from pipeline.output.layout import OUTPUTS
from pipeline.output.output import Output
from pipeline.schema import INDEX

COLUMNS = ("status", "recipe", *(f"{output}_path" for output in OUTPUTS), "renditions")
"""Columns that ``lacking`` needs."""


def lacking(rows: pa.Table, recipe: Recipe) -> npt.NDArray[np.bool_]:
    """Return for each row whether it lacks an output or rendition of the recipe that can be made from its mask or cutout.

    Args:
        rows: Index rows with ``COLUMNS``.
        recipe: With all hashes known.
    """
    usable = pc.and_(pc.not_equal(rows["status"], "failed"), pc.equal(rows["recipe"], recipe.fingerprint()))
    has_source = pc.or_(pc.is_valid(rows["mask_path"]), pc.is_valid(rows["cutout_path"]))
    has_outputs = np.ones(rows.num_rows, np.bool_)
    for output in recipe.outputs:
        has_outputs &= _numpy(pc.is_valid(rows[f"{output}_path"]))
    complete = has_outputs & (_wanted_entries(rows["renditions"], recipe) == len(wanted_files(recipe)))
    return np.asarray(_numpy(pc.and_(usable, has_source)) & ~complete, np.bool_)


def wanted_files(recipe: Recipe) -> dict[str, str]:
    """Return the fingerprint of the rendition that each file of the recipe's renditions is of, by the file's name."""
    return {file.name: one.fingerprint() for one in recipe.renditions for file in one.files}


def unwanted_columns(recipe: Recipe) -> list[str]:
    """Return the index columns of outputs that the recipe does not have."""
    return [f"{output}_{fact}" for output in OUTPUTS if output not in recipe.outputs for fact in ("path", "bytes", "sha256")]


def count_lacking(output: Output, recipe: Recipe) -> int:
    """Return the number of items that lack something; see ``lacking``.

    Raises:
        StorageError: A part cannot be read, or is damaged.
    """
    return sum(int(lacking(rows, recipe).sum()) for rows in read_index(output, COLUMNS))


def adjust_index(output: Output, recipe: Recipe) -> int:
    """Remove outputs and renditions that the recipe no longer has from the rows, and set the status by its threshold.

    Items that lack something keep their mask and cutout until that is made from them. The objects that were removed from the
    rows are garbage afterwards (``matteline gc``).

    Returns:
        The number of parts that were rewritten.

    Raises:
        StorageError: A part cannot be read or written.
    """
    changed = 0
    for part in list(output.parts()):
        before = read_part(part, output.files, None)
        after = _adjusted(before, recipe)
        if not after.equals(before):
            write_part(output, after)  # the items are the same, and so is the part's name
            changed += 1
    return changed


def rename_recipe(output: Output, before: str, now: str) -> None:
    """Give the rows of one recipe the fingerprint of another one, which has the same results.

    Raises:
        StorageError: A part cannot be read or written.
    """
    for part in list(output.parts()):
        rows = read_part(part, output.files, None)
        old = pc.fill_null(pc.equal(rows["recipe"], before), False)
        if pc.any(old).as_py():
            at = rows.schema.get_field_index("recipe")
            write_part(output, rows.set_column(at, rows.schema.field(at), pc.if_else(old, now, rows["recipe"])))


def _adjusted(rows: pa.Table, recipe: Recipe) -> pa.Table:
    wanted, lacks = wanted_files(recipe), pa.array(lacking(rows, recipe))
    below = pc.less(pc.cast(rows["quality"], pa.float64()), recipe.review_below)
    status = pc.if_else(pc.equal(rows["status"], "failed"), "failed", pc.if_else(below, "review", "ok"))
    columns: dict[str, Any] = {"status": status}
    for name in unwanted_columns(recipe):
        columns[name] = pc.if_else(lacks, rows[name], pa.scalar(None, rows[name].type))
    kept = [
        None if not wanted or entries is None else [one for one in entries if wanted.get(one["name"]) == one["recipe"]]
        for entries in rows["renditions"].to_pylist()
    ]
    columns["renditions"] = pa.array(kept, INDEX.field("renditions").type)
    for name, values in columns.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), values)
    return rows


def _wanted_entries(renditions: pa.ChunkedArray, recipe: Recipe) -> npt.NDArray[np.int64]:
    """Return the number of entries per row that are files of the recipe's renditions."""
    wanted = pa.array([f"{name}/{recipe}" for name, recipe in wanted_files(recipe).items()], pa.string())
    lists = renditions.combine_chunks()
    entries = pc.list_flatten(lists)
    keys = pc.binary_join_element_wise(pc.struct_field(entries, "name"), pc.struct_field(entries, "recipe"), "/")
    found = _numpy(pc.is_in(keys, wanted))
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    return np.bincount(rows[found].astype(np.int64), minlength=len(lists))


def _numpy(flags: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.array(pc.fill_null(flags, False).to_pylist(), np.bool_)
