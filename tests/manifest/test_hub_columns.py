"""Splits and classes that Hugging Face data sets keep in folders, file names and metadata become columns."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.manifest.hub_columns import MAX_CLASSES, class_names, folders_of, split_of, splits_of
from pipeline.manifest.manifest import open_manifest, read

PICTURE = b"\xff\xd8\xff\xe0"


def features(**columns: Any) -> dict[bytes, bytes]:
    """The metadata that ``datasets`` writes."""
    return {b"huggingface": json.dumps({"info": {"features": columns}}).encode()}


def labels(*names: str) -> dict[str, Any]:
    return {"names": list(names), "_type": "ClassLabel"}


def parquet(metadata: dict[bytes, bytes] | None = None, **columns: Any) -> bytes:
    count = len(next(iter(columns.values()))) if columns else 2
    table = pa.table({"image": pa.array([PICTURE] * count), **columns}).replace_schema_metadata(metadata)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def rows_of(uri: str, where: Any) -> list[dict[str, Any]]:
    manifest = open_manifest(uri, where.files)
    rows = [row for one in manifest.fragments for table in read(manifest, one, where.files) for row in table.to_pylist()]
    assert all(set(manifest.carried.names) <= set(row) for row in rows)
    return rows


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row.get(name) for row in rows]


@pytest.mark.parametrize("names", [("data/train-00000-of-00001", "data/test-00000-of-00001"), ("train/0", "test/0")])
def test_parquet_files_are_of_the_split_in_their_name(where: Any, names: tuple[str, str]) -> None:
    for name in names:
        where.put(f"hub/{name}.parquet", parquet())
    assert sorted(column(rows_of(f"{where.root}/hub", where), "split")) == ["test", "test", "train", "train"]


def test_a_column_split_wins_and_one_file_alone_has_none(where: Any) -> None:
    where.put("hub/data/train-0.parquet", parquet(split=["a", "b"]))
    assert column(rows_of(f"{where.root}/hub", where), "split") == ["a", "b"]
    uri = where.put("one/train.parquet", parquet())
    assert column(rows_of(uri, where), "split") == [None, None]
    where.put("mixed/data/train-0.parquet", parquet())
    where.put("mixed/data/extra.parquet", parquet())
    assert set(column(rows_of(f"{where.root}/mixed", where), "split")) == {None}


def test_class_labels_have_names(where: Any) -> None:
    metadata = features(image={"_type": "Image"}, label=labels("cat", "dog"), other=labels("x", "y"))
    uri = where.put("a.parquet", parquet(metadata, label=[1, 0, -1, 2, None], other=[0, 0, 0, 0, 0]))
    rows = rows_of(uri, where)
    assert column(rows, "category") == ["dog", "cat", None, None, None]
    assert column(rows, "label") == [1, 0, -1, 2, None]
    uri = where.put("b.parquet", parquet(metadata, label=[1], category=["own"]))
    assert column(rows_of(uri, where), "category") == ["own"]


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {b"huggingface": b"{"},
        {b"huggingface": b"[" * 100_000},
        {b"huggingface": b'{"info": {"features": []}}'},
        features(label={"_type": "ClassLabel", "names": "cat"}),
        features(label={"_type": "ClassLabel", "names": [1, 2]}),
        features(label=labels(*["x"] * (MAX_CLASSES + 1))),
        features(label=labels()),
        features(label=labels("x" * 1001)),
        features(label=labels("\ud800")),
        features(a=labels("x"), b=labels("y")),
        features(elsewhere=labels("x")),
    ],
)
def test_metadata_without_usable_names(where: Any, metadata: dict[bytes, bytes] | None) -> None:
    uri = where.put("a.parquet", parquet(metadata, label=[0], a=[0], b=[0]))
    (row,) = rows_of(uri, where)
    assert "category" not in row and row["error_code"] is None


def test_class_labels_of_text_columns_are_left_alone(where: Any) -> None:
    uri = where.put("a.parquet", parquet(features(label=labels("cat")), label=["cat"]))
    assert "category" not in rows_of(uri, where)[0]
    assert class_names(features(label=labels("cat"))) == {"label": ("cat",)}


def test_image_folders_of_splits_and_classes(where: Any) -> None:
    for path in ("train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg"):
        where.put(f"in/{path}", b"")
    found = {row["item_id"]: (row["split"], row["category"]) for row in rows_of(f"{where.root}/in", where)}
    assert found == {
        "train/cat/1.jpg": ("train", "cat"),
        "train/dog/2.jpg": ("train", "dog"),
        "val/cat/3.jpg": ("validation", "cat"),
    }


@pytest.mark.parametrize(
    ("paths", "columns"),
    [
        (["train/1.jpg", "test/2.jpg"], ["split"]),
        (["train/cat/1.jpg", "test/cat/2.jpg"], ["split"]),
        (["train/cat/1.jpg", "train/dog/deep/2.jpg"], ["split"]),
        (["data/train/cat/1.jpg", "data/train/dog/2.jpg"], ["split", "category"]),
        (["train/cat/1.jpg", "2.jpg"], []),
        (["shelf/cat/1.jpg", "shelf/dog/2.jpg"], []),
        (["cat/1.jpg", "dog/2.jpg"], []),
    ],
)
def test_only_what_all_images_have_is_a_column(where: Any, paths: list[str], columns: list[str]) -> None:
    for path in paths:
        where.put(f"in/{path}", b"")
    assert open_manifest(f"{where.root}/in", where.files).carried.names == columns


def test_metadata_tables_of_image_folders_have_the_split_of_their_folder(where: Any) -> None:
    for split in ("train", "test"):
        where.put(f"in/{split}/metadata.csv", b"file_name,text\n1.jpg,x\n")
        where.put(f"in/{split}/1.jpg", b"")
    found = {row["item_id"]: row["split"] for row in rows_of(f"{where.root}/in", where)}
    assert found == {"train/1.jpg": "train", "test/1.jpg": "test"}


def test_names_of_splits() -> None:
    assert split_of("a/Train/b.parquet") == "train" and split_of("dev_0.parquet") == "validation"
    assert split_of("testimonials/0.parquet") is None and split_of("train2.parquet") is None
    assert splits_of(["train.parquet"]) is None and splits_of(["train.parquet", "x.parquet"]) is None
    assert splits_of(["train.parquet", "eval.parquet"]) == ["train", "test"]
    assert folders_of("train/1.jpg") == ("train", None) and folders_of("1.jpg") == (None, None)
