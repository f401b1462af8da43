"""Parquet files with pictures in their cells, as on the Hugging Face hub: read without unpacking them."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.columns import Columns
from pipeline.config.job import load_job
from pipeline.errors import ConfigError
from pipeline.manifest.manifest import open_manifest, read, scan
from pipeline.run.driver import run_job

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(seed: int, kind: str = "JPEG") -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), np.uint8)).save(sink, kind)
    return sink.getvalue()


def structs(contents: list[bytes | None], paths: list[str | None] | None = None) -> pa.Array:
    return pa.array(
        [{"bytes": one, "path": path} for one, path in zip(contents, paths or [None] * len(contents), strict=True)], STRUCT
    )


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def rows_of(uri: str, where: Any, **chosen: str) -> list[dict[str, Any]]:
    manifest = open_manifest(uri, where.files, chosen=Columns(**chosen))
    assert scan(manifest, where.files).rows
    return [row for one in manifest.fragments for table in read(manifest, one, where.files) for row in table.to_pylist()]


PICTURES = [picture(seed) for seed in range(7)]


@pytest.mark.parametrize("column", [structs(PICTURES), pa.array(PICTURES), pa.array(PICTURES, pa.large_binary())])
@pytest.mark.parametrize("name", ["image", "jpg", "image_uri"])
def test_pictures_are_items(where: Any, name: str, column: pa.Array) -> None:
    uri = where.put("data/train.parquet", parquet({name: column, "label": range(7)}, row_group_size=3))
    rows = rows_of(uri, where)
    assert [row["item_id"] for row in rows] == [f"train-{number:06}" for number in range(7)]
    assert [row["image_uri"] for row in rows] == [f"{uri}#row={number}&column={name}" for number in range(7)]
    assert [where.files.read(row["image_uri"]) for row in rows] == PICTURES
    assert [row["label"] for row in rows] == list(range(7))
    assert {row["error_code"] for row in rows} == {None}


def test_the_rows_of_several_files(where: Any) -> None:
    for name in ("train/0.parquet", "train/1.parquet", "test/0.parquet"):
        where.put(f"hub/{name}", parquet({"image": structs(PICTURES[:2])}))
    ids = [row["item_id"] for row in rows_of(f"{where.root}/hub", where)]
    assert ids == ["test/0-000000", "test/0-000001", "train/0-000000", "train/0-000001", "train/1-000000", "train/1-000001"]


def test_fragments_count_rows_as_the_file_does(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.manifest.tables.FRAGMENT_ROWS", 2)
    monkeypatch.setattr("pipeline.manifest.tables.NESTED_ROWS", 1)
    uri = local.put("a.parquet", parquet({"image": structs(PICTURES)}, row_group_size=2))
    assert len(open_manifest(uri, local.files).fragments) == 4
    assert [row["image_uri"] for row in rows_of(uri, local)] == [f"{uri}#row={number}&column=image" for number in range(7)]


def test_columns_are_chosen(local: Any) -> None:
    columns = {"before": pa.array(PICTURES[:2]), "after": pa.array(PICTURES[2:4]), "sku": ["a", "b"], "x": [[0, 0, 9, 9]] * 2}
    uri = local.put("a.parquet", parquet(columns))
    assert local.files.read(rows_of(uri, local)[0]["image_uri"]) == PICTURES[0]
    (first, _) = rows_of(uri, local, image="after", id="sku", box="x")
    assert local.files.read(first["image_uri"]) == PICTURES[2]
    assert (first["item_id"], first["sku"], first["box"]) == ("a", "a", [0, 0, 9, 9])
    with pytest.raises(ConfigError, match="no column 'photo'"):
        open_manifest(uri, local.files, chosen=Columns(image="photo"))


def test_other_bytes_are_no_pictures(local: Any, logged: list[logging.LogRecord]) -> None:
    uri = local.put("a.parquet", parquet({"hash": pa.array([b"\0\1", b"\2"]), "photo": pa.array([None, PICTURES[0]])}))
    rows = rows_of(uri, local)
    assert [row["image_uri"].partition("#")[2] for row in rows] == ["row=0&column=photo", "row=1&column=photo"]
    assert "bytes are not carried into the index: 'hash'" in logged[0].getMessage()


def test_a_column_of_uris_comes_first(local: Any) -> None:
    uri = local.put("a.parquet", parquet({"image_uri": ["a.jpg"], "image": structs(PICTURES[:1])}))
    assert rows_of(uri, local)[0]["image_uri"] == f"{local.root}/a.jpg"


def test_structs_with_paths_only(local: Any) -> None:
    paths = ["a.jpg", "sub/b.jpg", None, "/etc/passwd", "../up.jpg"]
    uri = local.put("in/a.parquet", parquet({"image": structs([None] * 5, paths)}))
    rows = rows_of(uri, local)
    assert [row["image_uri"] for row in rows] == [f"{local.root}/in/a.jpg", f"{local.root}/in/sub/b.jpg", None, None, None]
    assert [row["error_code"] for row in rows] == [None, None, "item", "item", "item"]


def test_masks_are_ground_truth(local: Any) -> None:
    masks = [picture(seed, "PNG") for seed in range(2)]
    uri = local.put("a.parquet", parquet({"image": structs(PICTURES[:2]), "mask": structs(masks)}))
    rows = rows_of(uri, local)
    assert [local.files.read(row["truth_uri"]) for row in rows] == masks


def test_ids_that_collide_are_told(local: Any) -> None:
    uri = local.put("a.parquet", parquet({"image": structs(PICTURES[:2]), "item_id": ["a", "a"]}))
    with pytest.raises(ConfigError, match="1 item id occurs more than once"):
        rows_of(uri, local)


def test_a_large_row_group_is_not_read_to_open_and_scan_it(local: Any) -> None:
    big = [bytes(2**20) for _ in range(150)]
    uri = local.put("a.parquet", parquet({"image": structs(big)}, use_dictionary=False, compression="zstd"))
    before = pa.total_allocated_bytes()
    manifest = open_manifest(uri, local.files, chosen=Columns(image="image"))
    pool = pa.default_memory_pool()
    assert scan(manifest, local.files).rows == 150
    assert pool.bytes_allocated() - before < 2**20
    assert local.files.read(f"{uri}#row=149&column=image") == big[0]


def test_a_run_on_ray_and_a_change(
    ray_session: None, tmp_path: Path, make_photos: Callable[..., list[Path]], fake_preset: str
) -> None:
    photos = [path.read_bytes() for path in make_photos(tmp_path / "photos", 6)]
    path = tmp_path / "hub" / "train.parquet"
    path.parent.mkdir()
    path.write_bytes(parquet({"image": structs([*photos[:5], b"no picture"])}, row_group_size=2))
    where = {"manifest": str(path), "output": str(tmp_path / "out"), "preset": fake_preset}
    job = load_job(**where, overrides=["compute.local_items=0", "compute.rows_per_block=2"])
    _, record = run_job(job)
    assert (record.ok + record.review, record.failures["decode"]["count"]) == (5, 1)
    path.write_bytes(parquet({"image": structs([*photos[:4], photos[0], photos[5]])}, row_group_size=2))
    _, record = run_job(job.with_run(changed=True, retry=("decode",)))
    assert (record.items, record.done_before, record.ok + record.review) == (6, 4, 2)
    index = ds.dataset(tmp_path / "out" / "index", format="parquet").to_table(["item_id", "image_sha256"]).to_pylist()
    digests = {row["item_id"]: row["image_sha256"] for row in index}
    assert len(digests) == 6
    assert digests["train-000004"] == digests["train-000000"]
