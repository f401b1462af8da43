"""The rows of a report page, and the columns of the manifest beside them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError
from pipeline.output.index import write_part
from pipeline.output.output import Output
from pipeline.review.entries import MAX_CELL_CHARS, MAX_SHOWN, cell_text, find_rows, list_rows, shown_columns
from pipeline.schema import INDEX
from pipeline.storage.files import Files

MakeOutput = Callable[..., None]


def index_with(output: Output, columns: dict[str, pa.Array], first: int = 0) -> None:
    """Write a part of two items with these columns of a manifest."""
    rows = [{"item_id": f"i{first + number}", "output_name": f"{first + number}", "status": "ok"} for number in range(2)]
    table = pa.Table.from_pylist(rows, INDEX)
    for name, values in columns.items():
        table = table.append_column(name, values)
    write_part(output, table)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output.at(str(tmp_path / "out"), Files())


def test_rows_come_worst_first_and_by_id(tmp_path: Path, make_output: MakeOutput) -> None:
    output = Output.at(str(tmp_path / "out"), Files())
    make_output(output)
    rows, total = list_rows(output)
    assert total == 61 and [row["item_id"] for row in rows[:3]] == ["bad", "i0", "i1"]
    assert [row["item_id"] for row in find_rows(output, ["i7", "nobody", "i3"])] == ["i7", "i3"]


def test_the_first_columns_of_the_manifest_are_shown(output: Output) -> None:
    index_with(output, {"sku": pa.array(["A-1", None]), "tags": pa.array(["x", "y"]), "sizes": pa.array([[1], [2]])})
    index_with(output, {"manifest_status": pa.array([1.5, 2.0]), **{f"c{at}": pa.array([at, at]) for at in range(9)}}, first=2)
    found = shown_columns(output, None)
    assert len(found) == MAX_SHOWN and set(found) <= {"sku", "manifest_status", *(f"c{at}" for at in range(9))}
    assert shown_columns(output, []) == {}
    chosen = shown_columns(output, ["sku", "status", "sizes", "width"])
    assert chosen == {"sku": "sku", "manifest_status": "status", "sizes": "sizes", "width": "width"}, "the manifest's status"
    rows = {row["item_id"]: row["shown"] for row in list_rows(output, list(chosen))[0]}
    assert rows == {"i0": ["A-1", "", "1", ""], "i1": ["", "", "2", ""], "i2": ["", "1.5", "", ""], "i3": ["", "2", "", ""]}
    with pytest.raises(ConfigError, match="--show price: there is no such column; columns of the manifest: .*sku"):
        shown_columns(output, ["price"])


def test_a_manifest_without_further_columns_shows_none(tmp_path: Path, make_output: MakeOutput) -> None:
    output = Output.at(str(tmp_path / "out"), Files())
    make_output(output)
    assert shown_columns(output, None) == {}
    with pytest.raises(ConfigError, match="columns of the manifest: none"):
        shown_columns(output, ["sku"])


def test_values_become_short_texts() -> None:
    values = [None, float("nan"), b"x", 19.9, 0.1 + 0.2, 7, True, "M", date(2026, 1, 31), ["a", 1], "x" * 999]
    assert [cell_text(value) for value in values[:-1]] == ["", "", "", "19.9", "0.3", "7", "True", "M", "2026-01-31", "a, 1"]
    assert len(cell_text(values[-1])) == MAX_CELL_CHARS
