"""Manifests in every format, as ``open_manifest`` and ``scan`` read them, and COCO files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from kinds import Kind, Wrong
from mutations import ODD_VALUES, damage, damage_json, damage_table

from pipeline.manifest.coco_masks import from_coco_masks
from pipeline.manifest.manifest import open_manifest, read, scan
from pipeline.manifest.names import NameTemplate
from pipeline.storage.files import Files

FILES = Files()

BOXED = [
    {"image_uri": f"photos/{at}.jpg", "item_id": f"i{at}", "box": [10.0, 20.0, 30.0 + at, 40.5], "sku": f"s-{at}"}
    for at in range(9)
]
CORNERS = [{"image_uri": f"s3://shop/{at}.png", "x0": 1, "y0": 2, "x1": 30, "y1": at + 40, "price": at / 3} for at in range(9)]
MANY = [{"image_uri": f"{at}.webp", "boxes": [[0, 0, 9, 9], [1, 1, 5, 5 + at]], "tags": ["a", "b"]} for at in range(9)]
PLAIN = [{"image_uri": f"https://shop.example/{at}.jpg?sig=1", "new": at % 2 == 0, "note": None} for at in range(9)]
ROWS: dict[str, list[dict[str, Any]]] = {"boxed": BOXED, "corners": CORNERS, "many": MANY, "plain": PLAIN}


def read_manifest(suffix: str, name: str, data: bytes) -> None:
    """Scan a manifest twice, once with a template for names, and compare the scan with its items."""
    path = Path(f"manifest.{suffix}")
    path.write_bytes(data)
    manifest = open_manifest(str(path), FILES)
    found = scan(manifest, FILES)
    tables = [table for fragment in manifest.fragments for table in read(manifest, fragment, FILES)]
    rows = pa.concat_tables(tables)
    rows.validate(full=True)
    usable = rows["error_code"].null_count
    if rows.num_rows != found.rows or usable != found.rows - found.refused or not np.all(found.ids[1:] != found.ids[:-1]):
        raise Wrong(f"{found.rows} rows, {found.refused} refused, {rows.num_rows} items")
    for row in rows.to_pylist():
        if (row["error_code"] is None) != (row["error_detail"] is None) or not row["item_id"]:
            raise Wrong(f"the item {row}")
    if not found.refused and found.rows == len(BOXED) and "sku" in rows.column_names:
        scan(open_manifest(str(path), FILES, NameTemplate("{sku}")), FILES)


def parquet(table: pa.Table, rng: random.Random) -> bytes:
    sink = io.BytesIO()
    options: dict[str, Any] = {"compression": rng.choice(("zstd", "snappy", "none")), "row_group_size": rng.choice((3, 1000))}
    pq.write_table(table, sink, **options, use_dictionary=rng.random() < 0.7, store_schema=rng.random() < 0.7)
    return sink.getvalue()


def csv_text(rows: list[dict[str, Any]]) -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, list(rows[0]))
    writer.writeheader()
    writer.writerows({key: json.dumps(cell) if isinstance(cell, list) else cell for key, cell in row.items()} for row in rows)
    return sink.getvalue().encode()


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def odd_rows(rng: random.Random, name: str) -> list[dict[str, Any]]:
    """Return the rows of a sample with some odd cells."""
    rows = [dict(row) for row in ROWS[name]]
    for _ in range(rng.randint(1, 4)):
        row = rng.choice(rows)
        row[rng.choice([*row, "image_uri", "other"])] = rng.choice(ODD_VALUES)
    return rows


def parquet_kind() -> Kind:
    tables = {name: pa.Table.from_pylist(rows) for name, rows in ROWS.items()}
    samples = {name: parquet(table, random.Random(name)) for name, table in tables.items()}

    def damaged_table(rng: random.Random, name: str) -> bytes:
        while True:
            try:
                return parquet(damage_table(rng, tables[name]), rng)
            except (pa.ArrowException, UnicodeError):  # Arrow cannot write every table
                continue

    return Kind(samples, partial(read_manifest, "parquet"), {"table": damaged_table})


def odd_csv(rng: random.Random, name: str) -> bytes:
    rows = odd_rows(rng, name)
    names = list(dict.fromkeys(key for row in rows for key in row))
    cells = [names, *([str(row.get(key, "")) for key in names] for row in rows)]
    rng.choice(cells).insert(0, "x") if rng.random() < 0.2 else None
    sink = io.StringIO(newline="")
    csv.writer(sink, delimiter=rng.choice(",,,,;\t"), lineterminator=rng.choice(("\n", "\r\n", "\r"))).writerows(cells)
    return sink.getvalue().encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")), "surrogatepass")


def csv_kind() -> Kind:
    tokens = (
        b",",
        b'"',
        b"\n",
        b"\r\n",
        b"\xef\xbb\xbf",
        b"\x00",
        b",,,,",
        b"image_uri",
        b"box",
        b"x0",
        b"\xff\xfe",
        b'""',
        b"[",
    )
    return _text_kind("csv", {name: csv_text(rows) for name, rows in ROWS.items()}, {"cells": odd_csv}, tokens)


def json_lines_kind() -> Kind:
    def values(rng: random.Random, name: str) -> bytes:
        rows: list[Any] = list(ROWS[name])
        lines = [json.dumps(row).encode() for row in rows]
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(rows))
            lines[at] = damage_json(rng, rows[at])
        return b"\n".join(lines)

    samples = {name: json_lines(rows) for name, rows in ROWS.items()}
    return _text_kind(
        "jsonl", samples, {"values": values}, (b"{", b"}", b"[", b'"', b"\n", b"null", b"1e999", b"NaN", b"\\ud800", b":")
    )


def _text_kind(suffix: str, samples: dict[str, bytes], damages: dict[str, Any], tokens: tuple[bytes, ...]) -> Kind:
    """Return a kind of text files, half of them compressed: ``.gz`` in the name of a sample."""
    packed = {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in samples.items()}

    def inside(rng: random.Random, name: str) -> bytes:
        """Damage the text of a compressed file."""
        text = samples[name.removesuffix(".gz")]
        damaged = damage(rng, text, list(samples.values()), tokens)
        return gzip.compress(damaged, mtime=0) if name.endswith(".gz") else damaged

    def known(way: Any, rng: random.Random, name: str) -> bytes:
        damaged = way(rng, name.removesuffix(".gz"))
        return gzip.compress(damaged, mtime=0) if name.endswith(".gz") else damaged

    def read_one(name: str, data: bytes) -> None:
        read_manifest(f"{suffix}.gz" if name.endswith(".gz") else suffix, name, data)

    ways = {way: partial(known, damages[way]) for way in damages}
    return Kind(samples | packed, read_one, ways | {"text": inside}, tokens)


COCO = {
    "images": [{"id": at, "file_name": f"{at}.jpg", "height": 90, "width": 120} for at in range(3)],
    "categories": [{"id": 1, "name": "cup"}],
    "annotations": [
        {
            "id": at,
            "image_id": at % 3,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [1, 2, 30, 40],
            "area": 900,
            "segmentation": {"size": [90, 120], "counts": [95, 30, 10675]} if at % 2 else [[1, 2, 30, 2, 30, 40]],
        }
        for at in range(6)
    ],
}


def coco_kind() -> Kind:
    def read_one(name: str, data: bytes) -> None:
        Path("coco.json").write_bytes(data)
        here = Path.cwd()
        table = from_coco_masks(str(here / "coco.json"), str(here / "photos"), str(here / "masks"), FILES)
        if not table.num_rows or table["x0"].null_count:
            raise Wrong("no objects, or one without a box")

    samples = {"coco": json.dumps(COCO).encode()}
    return Kind(samples, read_one, {"values": lambda rng, _: damage_json(rng, COCO)})


KINDS = {
    "Parquet manifests": parquet_kind,
    "CSV manifests": csv_kind,
    "JSON Lines manifests": json_lines_kind,
    "COCO files": coco_kind,
}
