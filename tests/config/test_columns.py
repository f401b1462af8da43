"""The settings that name columns of a manifest."""

from __future__ import annotations

import pytest

from pipeline.config.columns import Columns
from pipeline.config.job import load_job
from pipeline.config.sections import build
from pipeline.errors import ConfigError


def test_chosen_columns_get_the_usual_names_and_displace_others() -> None:
    columns = Columns(image="url", id="sku", box="left, top,right,bottom")
    names = ["url", "sku", "left", "bottom", "image_uri", "box", "price"]
    renamed = ["image_uri", "item_id", "x0", "y1", "manifest_image_uri", "manifest_box", "price"]
    assert [columns.rename(name) for name in names] == renamed
    assert [columns.original(name) for name in renamed] == names
    assert [Columns().rename(name) for name in names] == names


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"box": "a", "boxes": "b"}, "two forms of boxes"),
        ({"box": "a,b"}, "must name one column or four"),
        ({"box": "a,,b,c"}, "the name of a column is empty"),
        ({"image": " "}, "the name of a column is empty"),
        ({"image": "a", "id": "a"}, "the column 'a' is named twice"),
        ({"picture": "a"}, "picture: Extra inputs are not permitted"),
    ],
)
def test_columns_that_exclude_each_other(given: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(Columns, given, "the command line")


def test_a_job_file_and_the_command_line_name_columns(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "job.yaml"
    path.write_text("manifest: m.csv\noutput: out\ncolumns: {image: url, id: sku}\n", encoding="utf-8")
    job = load_job(job_file=str(path), overrides=['columns.id="no"'])
    assert job.columns == Columns(image="url", id="no")
