"""Tables in folders named by columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pipeline.manifest.manifest import open_manifest, read
from pipeline.manifest.partitions import partition_of
from pipeline.storage.files import Files

ROWS = pa.table(
    {"image_uri": ["a.jpg", "b.jpg", "c.jpg"], "colour": ["red", "däisy/1=2", None], "year": [2025, 2026, 2026], "n": [1, 2, 3]}
)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_columns_of_folders_are_carried(tmp_path: Path, kind: str) -> None:
    pyarrow.dataset.write_dataset(ROWS, tmp_path, format=kind, partitioning=["year", "colour"], partitioning_flavor="hive")
    manifest = open_manifest(str(tmp_path), Files())
    rows = pa.concat_tables(table for fragment in manifest.fragments for table in read(manifest, fragment, Files()))
    found = {row["item_id"]: (row["year"], row["colour"], int(row["n"])) for row in rows.to_pylist()}
    assert found == {"a.jpg": ("2025", "red", 1), "b.jpg": ("2026", "däisy/1=2", 2), "c.jpg": ("2026", None, 3)}


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize(
    "given", ["year=2026/colour=red/part-0.{}", "year=2026/colour=red", "year=2026", "year=2026/colour=red/*.{}", "."]
)
def test_a_part_has_the_columns_that_it_has_in_its_folder(tmp_path: Path, kind: str, given: str) -> None:
    folder = tmp_path / "year=2026" / "colour=red"
    folder.mkdir(parents=True)
    table = pa.table({"image_uri": ["a.jpg"], "n": ["1"]})
    if kind == "parquet":
        pq.write_table(table, folder / "part-0.parquet")
    else:
        text = "image_uri,n\na.jpg,1\n" if kind == "csv" else '{"image_uri": "a.jpg", "n": "1"}\n'
        (folder / f"part-0.{kind}").write_text(text)
    manifest = open_manifest(str(tmp_path / given.format(kind)), Files())
    (rows,) = read(manifest, manifest.fragments[0], Files())
    (row,) = rows.to_pylist()
    assert (row["item_id"], row["year"], row["colour"], row["n"]) == ("a.jpg", "2026", "red", "1")


def test_json_lines_in_some_partitions(tmp_path: Path) -> None:
    (tmp_path / "shop=b").mkdir()
    (tmp_path / "m.jsonl").write_text('{"image_uri": "a.jpg"}\n')
    (tmp_path / "shop=b" / "m.jsonl").write_text('{"image_uri": "b.jpg"}\n')
    manifest = open_manifest(str(tmp_path), Files())
    rows = pa.concat_tables(table for fragment in manifest.fragments for table in read(manifest, fragment, Files()))
    assert dict(zip(rows["item_id"].to_pylist(), rows["shop"].to_pylist(), strict=True)) == {"a.jpg": None, "b.jpg": "b"}


def test_a_column_of_the_file_wins(tmp_path: Path) -> None:
    (tmp_path / "n=7").mkdir()
    (tmp_path / "n=7" / "m.csv").write_text("image_uri,n\na.jpg,5\n")
    manifest = open_manifest(str(tmp_path), Files())
    (rows,) = read(manifest, manifest.fragments[0], Files())
    assert rows["n"].to_pylist() == ["5"]


def test_only_folders_below_the_manifest_count() -> None:
    assert partition_of("/data/run=3/shop/a.csv", "/data/run=3/shop") == ()
    assert partition_of("s3://b/shop/x=1/=2/y=/a=b.csv", "s3://b/shop") == (("x", "1"), ("y", ""))
