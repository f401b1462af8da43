"""Manifests whose columns have other names than the usual ones: ``--image-column`` and its like."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.config.columns import Columns
from pipeline.config.job import load_job
from pipeline.errors import ConfigError
from pipeline.manifest.manifest import open_manifest, read
from pipeline.manifest.names import NameTemplate
from pipeline.run.driver import run_job


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def csv(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    texts = [{name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()} for row in rows]
    pyarrow.csv.write_csv(pa.Table.from_pylist(texts), sink)
    return sink.getvalue()


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {"m.parquet": parquet, "m.csv": csv, "m.jsonl": jsonl}
ROWS = [
    {"sku": "A-1", "url": "a.jpg", "bbox": [1, 2, 30, 40], "image_uri": "other", "price": 3},
    {"sku": "A-2", "url": "b.jpg", "bbox": [5, 6, 70, 80], "image_uri": "other", "price": 4},
]


def rows_of(uri: str, where: Any, columns: Columns) -> list[dict[str, Any]]:
    manifest = open_manifest(uri, where.files, chosen=columns)
    return [
        row for fragment in manifest.fragments for table in read(manifest, fragment, where.files) for row in table.to_pylist()
    ]


@pytest.mark.parametrize("name", WRITERS)
def test_columns_are_read_under_their_own_names(where: Any, name: str) -> None:
    found = rows_of(where.put(name, WRITERS[name](ROWS)), where, Columns(image="url", id="sku", box="bbox"))
    assert [row["item_id"] for row in found] == ["A-1", "A-2"]
    assert [row["image_uri"] for row in found] == [f"{where.root}/a.jpg", f"{where.root}/b.jpg"]
    assert [row["box"] for row in found] == [[1, 2, 30, 40], [5, 6, 70, 80]]
    assert [row["sku"] for row in found] == ["A-1", "A-2"]
    assert [row["manifest_image_uri"] for row in found] == ["other", "other"]
    assert {"url", "bbox"}.isdisjoint(found[0])


@pytest.mark.parametrize("name", WRITERS)
def test_four_columns_of_boxes_and_lists_of_boxes(local: Any, name: str) -> None:
    rows = [{"image_uri": "a.jpg", "xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40, "found": [[1, 2, 3, 4], [5, 6, 7, 8]]}]
    uri = local.put(name, WRITERS[name](rows))
    assert [row["box"] for row in rows_of(uri, local, Columns(box="xmin,ymin,xmax,ymax"))] == [[1, 2, 30, 40]]
    found = rows_of(uri, local, Columns(boxes="found"))
    assert [(row["item_id"], row["box"]) for row in found] == [("a.jpg#0", [1, 2, 3, 4]), ("a.jpg#1", [5, 6, 7, 8])]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            Columns(image="link"),
            "no column 'link' \\(--image-column\\); its columns are 'sku', 'url', 'bbox', 'image_uri', 'price'",
        ),
        (Columns(id="ean"), "no column 'ean' \\(--id-column\\); its columns are 'sku', 'url'"),
        (Columns(box="l,t,r,b"), "no column 'l' \\(--box-column\\); its columns are 'sku', 'url'"),
        (Columns(boxes="l"), "no column 'l' \\(--boxes-column\\)"),
    ],
)
def test_a_column_that_does_not_exist(local: Any, name: str, columns: Columns, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_manifest(local.put(name, WRITERS[name](ROWS)), local.files, chosen=columns)


def test_files_are_named_by_the_id_column(local: Any) -> None:
    uri = local.put("m.csv", csv(ROWS))
    manifest = open_manifest(uri, local.files, NameTemplate("{sku}/{image}"), Columns(image="url", id="sku"))
    (rows,) = read(manifest, manifest.fragments[0], local.files)
    assert rows["output_name"].to_pylist() == ["A-1/a", "A-2/b"]


def test_a_column_in_the_name_of_a_folder_can_be_chosen(local: Any) -> None:
    local.put("sku=7/m.csv", b"file\n../a.jpg\n")
    (row,) = rows_of(local.root, local, Columns(image="file", id="sku"))
    assert (row["item_id"], row["sku"]) == ("7", "7")


def test_a_run_and_its_verification(
    matteline: Any, tmp_path: Path, make_photos: Callable[..., list[Path]], fake_preset: str
) -> None:
    photos = make_photos(tmp_path / "pics", 3)
    lines = [f"pics/{photo.name},sku {number}" for number, photo in enumerate(photos)]
    (tmp_path / "shop.csv").write_text("\n".join(["url,sku", *lines]), encoding="utf-8")
    plain = ["run", "-m", "shop.csv", "-o", "out", "-p", fake_preset]
    refused = matteline(*plain)
    assert refused.returncode == 2
    assert "if the column 'url' has the paths or URIs of images, add --image-column url" in " ".join(refused.stderr.split())
    command = [*plain, "--image-column", "url", "--id-column", "sku"]
    done = matteline(*command)
    assert done.returncode == 0, done.stderr
    index = ds.dataset(tmp_path / "out" / "index", format="parquet").to_table(["item_id", "sku", "status"])
    assert sorted(index["sku"].to_pylist()) == sorted(index["item_id"].to_pylist()) == ["sku 0", "sku 1", "sku 2"]
    assert "0 of 3 items to do" in matteline(*command).stderr
    assert matteline("verify", "out").returncode == 0
    assert matteline("verify", "out", "-m", "shop.csv").returncode == 0
    assert matteline("verify", "out", "-m", "shop.csv", "--image-column", "url", "--id-column", "sku").returncode == 0
    other = matteline("verify", "out", "-m", "shop.csv", "--image-column", "link")
    assert other.returncode == 2
    assert "no column 'link' (--image-column); its columns are 'url', 'sku'" in " ".join(other.stderr.split())


def test_workers_on_ray_read_the_same_columns(
    ray_session: None, tmp_path: Path, make_photos: Callable[..., list[Path]], fake_preset: str
) -> None:
    make_photos(tmp_path, 4)
    rows = [{"file": f"photo-{number:03}.jpg", "code": number} for number in range(4)]
    (tmp_path / "m.parquet").write_bytes(parquet(rows))
    where = {"manifest": str(tmp_path / "m.parquet"), "output": str(tmp_path.parent / f"{tmp_path.name}-out")}
    settings = ["columns.image=file", "columns.id=code", "compute.local_items=0"]
    _, record = run_job(load_job(**where, preset=fake_preset, overrides=settings))
    assert (record.ok + record.review, record.failed) == (4, 0)
    assert record.columns == {"image": "file", "id": "code"}
