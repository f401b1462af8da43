"""Folders with images and tables: what are the items? Image folders of Hugging Face datasets, and outputs of img2dataset."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.columns import Columns
from pipeline.errors import ConfigError
from pipeline.manifest.manifest import open_manifest, read, scan

FOUND = [
    {"key": "000000000", "url": "http://shop.example/a", "status": "success", "caption": "a shoe"},
    {"key": "000000001", "url": "http://shop.example/b", "status": "failed_to_download", "caption": "a hat"},
    {"key": "000000002", "url": "http://shop.example/c", "status": "success", "caption": None},
]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def rows_of(uri: str, where: Any, **chosen: str) -> list[dict[str, Any]]:
    manifest = open_manifest(uri, where.files, chosen=Columns(**chosen))
    assert scan(manifest, where.files).rows
    rows = [row for one in manifest.fragments for table in read(manifest, one, where.files) for row in table.to_pylist()]
    return [row | {"image_uri": row["image_uri"] and row["image_uri"].removeprefix(f"{where.root}/")} for row in rows]


def refusal(uri: str, where: Any, **chosen: str) -> str:
    with pytest.raises(ConfigError) as refused:
        open_manifest(uri, where.files, chosen=Columns(**chosen))
    return str(refused.value)


def said(logged: list[logging.LogRecord]) -> str:
    return "\n".join(record.getMessage() for record in logged)


def put_images(where: Any, *paths: str) -> None:
    for path in paths:
        where.put(path, b"")


def test_the_only_table_with_images_beside_them(where: Any, logged: list[logging.LogRecord]) -> None:
    put_images(where, "in/a.jpg", "in/b.jpg")
    where.put("in/photos.csv", b"image_uri,item_id\na.jpg,shoe\n")
    where.put("in/prices.csv", b"sku,price\n1,2\n")
    (row,) = rows_of(f"{where.root}/in", where)
    assert (row["item_id"], row["image_uri"]) == ("shoe", "in/a.jpg")
    assert "the rows of photos.csv are the items" in said(logged)


def test_tables_without_images_are_left_out(local: Any, logged: list[logging.LogRecord]) -> None:
    put_images(local, "in/a.jpg")
    local.put("in/prices.csv", b"sku,file\n1,a.jpg\n")
    local.put("in/empty.csv", b"")
    local.put("in/damaged.parquet", b"x")
    (row,) = rows_of(f"{local.root}/in", local)
    assert row["item_id"] == "a.jpg"
    assert "its images are the items; 3 tables in it are left out, for lack of a column image_uri" in said(logged)
    assert f"--manifest {local.root}/in/damaged.parquet --image-column NAME" in said(logged)


def test_a_chosen_column_chooses_the_table(local: Any) -> None:
    put_images(local, "in/a.jpg")
    local.put("in/prices.csv", b"sku,file\n1,a.jpg\n")
    local.put("in/m.csv", b"image_uri\nb.jpg\n")
    (row,) = rows_of(f"{local.root}/in", local, image="file", id="sku")
    assert (row["item_id"], row["image_uri"]) == ("1", "in/a.jpg")
    assert "no table in it has a column 'link' (--image-column)" in refusal(f"{local.root}/in", local, image="link")


def test_several_tables_with_images_are_refused(local: Any) -> None:
    put_images(local, "in/a.jpg")
    for name in ("old.csv", "new.csv"):
        local.put(f"in/{name}", b"image_uri\na.jpg\n")
    refused = refusal(f"{local.root}/in", local)
    assert f"2 tables that name images ({local.root}/in/new.csv, {local.root}/in/old.csv)" in refused
    assert f"such as --manifest {local.root}/in/new.csv" in refused


METADATA = {
    "csv": b"file_name,text\n1.jpg,one\nsub/2.jpg,two\n",
    "jsonl": b'{"file_name": "1.jpg", "text": "one"}\n{"file_name": "sub/2.jpg", "text": "two"}\n',
    "parquet": parquet([{"file_name": "1.jpg", "text": "one"}, {"file_name": "sub/2.jpg", "text": "two"}]),
}


@pytest.mark.parametrize("kind", METADATA)
def test_an_image_folder_of_hugging_face(where: Any, kind: str) -> None:
    put_images(where, "in/train/1.jpg", "in/train/sub/2.jpg", "in/test/1.jpg", "in/test/sub/2.jpg")
    for split in ("train", "test"):
        where.put(f"in/{split}/metadata.{kind}", METADATA[kind])
    rows = rows_of(f"{where.root}/in", where)
    ids = ["test/1.jpg", "test/sub/2.jpg", "train/1.jpg", "train/sub/2.jpg"]
    assert sorted(row["item_id"] for row in rows) == ids
    assert sorted(row["image_uri"] for row in rows) == [f"in/{item_id}" for item_id in ids]
    assert {row["text"] for row in rows} == {"one", "two"}
    assert {row["file_name"] for row in rows} == {"1.jpg", "sub/2.jpg"}
    (first, _) = rows_of(f"{where.root}/in/train/metadata.{kind}", where)
    assert (first["item_id"], first["image_uri"]) == ("1.jpg", "in/train/1.jpg")


def test_names_of_metadata_stay_within_the_allowed_roots(local: Any) -> None:
    names = ["../../secret.jpg", "/etc/passwd", "https://shop.example/a.jpg", "", None, "ok.jpg"]
    local.put("in/metadata.jsonl", b"".join(json.dumps({"file_name": name, "n": 1}).encode() + b"\n" for name in names))
    rows = rows_of(f"{local.root}/in/metadata.jsonl", local)
    assert [row["error_code"] for row in rows] == ["item"] * 5 + [None]
    assert [row["image_uri"] for row in rows] == [None] * 5 + ["in/ok.jpg"]


def test_metadata_without_file_names_is_left_out(local: Any, logged: list[logging.LogRecord]) -> None:
    put_images(local, "in/a.jpg")
    local.put("in/metadata.csv", b"about\nmy photos\n")
    (row,) = rows_of(f"{local.root}/in", local)
    assert row["item_id"] == "a.jpg"
    assert "1 table in it is left out" in said(logged)


def test_an_output_of_img2dataset(where: Any) -> None:
    for shard in ("00000", "00001"):
        rows = [row | {"key": f"{shard}{row['key'][5:]}"} for row in FOUND]
        where.put(f"i2d/{shard}.parquet", parquet(rows))
        for row in (rows[0], rows[2]):
            put_images(where, f"i2d/{shard}/{row['key']}.png", f"i2d/{shard}/{row['key']}.txt")
    expected = ["000000000", "000000002", "000010000", "000010002"]
    found = rows_of(f"{where.root}/i2d", where)
    assert sorted(row["item_id"] for row in found) == expected
    assert sorted(row["image_uri"] for row in found) == [f"i2d/{key[:5]}/{key}.png" for key in expected]
    assert [row["key"] for row in found] == [row["item_id"] for row in found]
    assert [row["caption"] for row in found] == ["a shoe", None] * 2
    (first, _) = rows_of(f"{where.root}/i2d/00001.parquet", where)
    assert (first["item_id"], first["image_uri"]) == ("000010000", "i2d/00001/000010000.png")
    (first, _) = rows_of(f"{where.root}/i2d/00001.parquet", where, id="url")
    assert (first["item_id"], first["image_uri"]) == ("http://shop.example/a", "i2d/00001/000010000.png")


def test_a_list_of_urls(local: Any) -> None:
    local.put("list.parquet", parquet(FOUND))
    assert "add --image-column url" in refusal(f"{local.root}/list.parquet", local)
    rows = rows_of(f"{local.root}/list.parquet", local, image="url", id="key")
    assert [row["item_id"] for row in rows] == [row["key"] for row in FOUND]
    assert {row["error_code"] for row in rows} == {"item"}  # web servers are outside the allowed roots
