"""The paths of an output."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import FetchError, WriteError
from pipeline.output.layout import Layout, output_path, part_name, rendition_path
from pipeline.output.output import Output
from pipeline.run.stages.objects import write_output


def test_paths_of_an_output() -> None:
    folder = "s3://bucket/out"
    layout = Layout(folder)
    assert output_path("mask", "shelf/sku 1") == "masks/shelf/sku 1.png"
    assert rendition_path("hero-640", "sku-1", "webp") == "hero-640/sku-1.webp"
    assert layout.outputs("cutout") == f"{folder}/cutouts"
    assert layout.uri("masks/sku-1.png") == f"{folder}/masks/sku-1.png"
    assert layout.recipe == f"{folder}/_matteline/recipe.json"
    assert layout.run("r1") == f"{folder}/_matteline/runs/r1.json"
    assert layout.progress("r1") == f"{folder}/_matteline/progress/r1.json"
    assert re.fullmatch(rf"{folder}/index/part-[0-9a-f]{{16}}\.parquet", layout.part(["b", "a"]))


def test_the_name_of_a_part_depends_on_its_items_only() -> None:
    assert part_name(["b", "a"]) == part_name(["a", "b"])
    assert len({part_name(ids) for ids in (["a", "b"], ["ab"], ["a", "b", ""], ["a"], [])}) == 5


@pytest.mark.parametrize("path", ["../../x", "masks/../../x", "/etc/hostname", "..", "masks/.."])
def test_a_path_that_leads_out_of_the_output_is_not_read(local: Any, path: str) -> None:
    root, output = local.root, Output.at(f"{local.root}/one/out", local.files)
    for place in (f"{root}/x", f"{root}/one/x", f"{root}/one/out/masks/x"):
        output.files.write(place, b"secret")
    with pytest.raises(FetchError, match="not a path inside the output; run matteline verify"):
        output.read(path)
    assert output.read("masks/x") == b"secret"


def test_an_object_outside_the_output_is_not_written(stage_context: Callable[..., Any], tmp_path: Path) -> None:
    """Derived files get the ``output_name`` of the index, which others may have changed."""
    context = stage_context()
    with pytest.raises(WriteError, match="is not a path inside the output; correct the item's output_name in the index"):
        write_output(context, "a", "../../x", "mask", b"data")
    assert not (tmp_path.parent / "x.png").exists()
    assert write_output(context, "a", "x..y/z", "mask", b"data")["mask_path"] == "masks/x..y/z.png"
