"""What finished items lack, and what becomes of their rows when outputs, renditions or the threshold change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config.presets import load_preset
from pipeline.config.recipe import Recipe
from pipeline.output.derived import adjust_index, count_lacking, lacking
from pipeline.output.index import read_index, write_part
from pipeline.output.output import Output
from pipeline.schema import INDEX

SMALL: dict[str, Any] = {"name": "small", "size_px": [64]}
SIZES: dict[str, Any] = {"name": "sizes", "size_px": [64, 128]}
Make = Callable[..., Recipe]


@pytest.fixture
def make(fake_preset: str) -> Make:
    """``make(renditions=[…], outputs=[…])``: a recipe."""
    return lambda **settings: load_preset(fake_preset, settings).recipe


def row(recipe: Recipe, item_id: str, outputs: Sequence[str] = ("mask", "cutout"), **columns: Any) -> dict[str, Any]:
    """An index row of an item with these outputs and all files of the recipe's renditions."""
    made: dict[str, Any] = {"item_id": item_id, "output_name": item_id, "status": "ok", "quality": 0.9}
    made["recipe"] = recipe.fingerprint()
    for output in outputs:
        made |= {f"{output}_path": f"{output}s/{item_id}.png", f"{output}_bytes": 1, f"{output}_sha256": "0" * 64}
    entries = [(file.name, one) for one in recipe.renditions for file in one.files]
    made["renditions"] = [
        {"name": name, "path": f"{name}/{item_id}.png", "recipe": one.fingerprint()} for name, one in entries
    ] or None
    return made | columns


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), INDEX)


def test_an_item_lacks_what_the_recipe_has_and_its_row_has_not(make: Make) -> None:
    plain, grown = make(), make(outputs=["mask", "cutout", "trimap"])
    rows = table(
        row(plain, "complete"),
        row(plain, "no cutout", ["mask"]),
        row(plain, "no mask", ["cutout"]),
        row(plain, "no source", ["trimap"]),
        row(plain, "failed", [], status="failed"),
        row(make(frame_px=96), "other recipe", ["mask"]),
    )
    assert lacking(rows, plain).tolist() == [False, True, True, False, False, False]
    assert lacking(rows, grown).tolist() == [True, True, True, False, False, False]
    assert lacking(rows.slice(1, 2), plain).tolist() == [True, True]
    assert lacking(rows.slice(0, 0), plain).tolist() == []


def test_every_file_of_every_rendition_is_needed(make: Make) -> None:
    plain, wanted = make(), make(renditions=[SMALL, SIZES])
    whole = row(wanted, "whole")
    unwritten = [entry | {"path": None, "note": "the mask is empty"} for entry in whole["renditions"]]
    rows = table(
        row(plain, "without"),
        whole,
        row(wanted, "one file is missing", renditions=whole["renditions"][1:]),
        row(wanted, "none", renditions=[]),
        row(wanted, "explained", renditions=unwritten),
    )
    assert lacking(rows, wanted).tolist() == [True, False, True, True, False]
    assert lacking(rows.slice(1, 3), wanted).tolist() == [False, True, True]
    assert not lacking(rows, plain).any(), "more files than the recipe wants are no lack"
    assert plain.fingerprint() == wanted.fingerprint()


def test_a_rendition_of_the_same_name_and_other_settings_is_lacking(make: Make) -> None:
    before, after = make(renditions=[SMALL]), make(renditions=[SMALL | {"trim": 0.1}])
    assert lacking(table(row(before, "a")), after).tolist() == [True]


def indexed(output: Output) -> dict[str, dict[str, Any]]:
    return {row["item_id"]: row for part in read_index(output) for row in part.to_pylist()}


@pytest.fixture
def output(where: Any) -> Output:
    return Output.at(f"{where.root}/out", where.files)


def test_removed_and_changed_renditions_leave_the_rows(make: Make, output: Output) -> None:
    before, after = make(renditions=[SMALL, SIZES]), make(renditions=[SMALL, SIZES | {"trim": 0.1}])
    write_part(output, table(row(before, "a"), row(before, "b", status="failed", quality=None, renditions=None)))
    write_part(output, table(row(before, "c")))
    assert adjust_index(output, before) == 0, "nothing has changed"
    assert adjust_index(output, after) == 2
    found = indexed(output)
    for item_id in ("a", "c"):
        assert [entry["name"] for entry in found[item_id]["renditions"]] == ["small"]
        assert found[item_id]["renditions"][0]["path"] == f"small/{item_id}.png"
    assert found["b"]["renditions"] is None
    assert count_lacking(output, after) == 2 and count_lacking(output, before) == 2
    assert adjust_index(output, make()) == 2
    assert all(one["renditions"] is None for one in indexed(output).values())
    assert count_lacking(output, make()) == 0
    assert len(list(output.parts())) == 2


def test_the_threshold_sets_the_status(make: Make, output: Output) -> None:
    recipe, qualities = make(), {"a": 0.5, "b": 0.85, "c": 1.0}
    rows = [row(recipe, item_id, quality=quality) for item_id, quality in qualities.items()]
    write_part(output, table(*rows, row(recipe, "d", [], status="failed", quality=None, error_code="fetch")))
    for threshold, statuses in (
        (0.0, ["ok", "ok", "ok", "failed"]),
        (0.85, ["review", "ok", "ok", "failed"]),
        (0.86, ["review", "review", "ok", "failed"]),
        (1.0, ["review", "review", "ok", "failed"]),
        (0.5, ["ok", "ok", "ok", "failed"]),
    ):
        adjust_index(output, make(review_below=threshold))
        assert [one["status"] for one in indexed(output).values()] == statuses
    assert [one["quality"] for one in indexed(output).values()] == [0.5, pytest.approx(0.85), 1.0, None]
    assert adjust_index(output, make(review_below=0.5)) == 0


def test_an_output_that_is_no_longer_wanted_leaves_the_rows(make: Make, output: Output) -> None:
    recipe = make(outputs=["mask", "cutout", "trimap"])
    write_part(output, table(row(recipe, "a", ["mask", "cutout", "trimap"])))
    assert adjust_index(output, make(outputs=["cutout"])) == 1
    (found,) = indexed(output).values()
    for gone in ("mask", "trimap"):
        assert [found[f"{gone}_{fact}"] for fact in ("path", "bytes", "sha256")] == [None, None, None]
    assert found["cutout_path"] == "cutouts/a.png" and found["cutout_bytes"] == 1


@pytest.mark.parametrize(("before", "after"), [("mask", "cutout"), ("cutout", "mask")])
def test_the_source_of_what_is_lacking_stays(make: Make, output: Output, before: str, after: str) -> None:
    """A cutout that replaces the mask is made from the mask."""
    write_part(output, table(row(make(), "a", [before]), row(make(), "b", ["mask", "cutout"])))
    adjust_index(output, make(outputs=[after]))
    found = indexed(output)
    assert found["a"][f"{before}_path"] is not None and found["b"][f"{before}_path"] is None
    assert count_lacking(output, make(outputs=[after])) == 1
