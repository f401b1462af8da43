"""Manifests of every format, on a local disk and on S3, and what is refused before a run starts."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.job import Storage
from pipeline.errors import ConfigError, Refused, StorageError
from pipeline.manifest.id_set import hash_ids
from pipeline.manifest.listing import list_sources
from pipeline.manifest.manifest import Manifest, open_manifest, read, scan
from pipeline.manifest.table_files import ROWS as MAX_ROWS
from pipeline.schema import ITEM
from pipeline.storage.files import Files

ROWS: list[dict[str, Any]] = [
    {"item_id": "00123", "image_uri": "photos/a.jpg", "box": [1, 2, 30, 40], "sku": "007", "price": 1.5},
    {"item_id": "b/ü", "image_uri": "s3://elsewhere/b.jpg", "box": None, "sku": "8", "price": None},
    {"item_id": "c", "image_uri": "/abs/c.jpg", "box": [5, 5, 1, 1], "sku": None, "price": 3.0},
]


def parquet(rows: list[dict[str, Any]], **how: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **how)
    return sink.getvalue()


def csv_text(rows: list[dict[str, Any]]) -> bytes:
    def cell(value: Any) -> str:
        return "" if value is None else f'"{value}"' if isinstance(value, list) else str(value)

    return "\n".join([",".join(rows[0]), *(",".join(cell(value) for value in row.values()) for row in rows)]).encode()


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


WRITERS = {
    "m.parquet": parquet,
    "m.csv": csv_text,
    "m.CSV.gz": lambda rows: gzip.compress(csv_text(rows)),
    "m.jsonl": jsonl,
    "m.ndjson": jsonl,
    "m.json": jsonl,
    "m.jsonl.gz": lambda rows: gzip.compress(jsonl(rows)),
}


def read_all(uri: str, files: Files) -> tuple[Manifest, list[dict[str, Any]]]:
    """Read all items of a manifest by fragments and through pickles, as workers do."""
    manifest: Manifest = pickle.loads(pickle.dumps(open_manifest(uri, files)))
    rows = []
    for fragment in manifest.fragments:
        for table in read(dataclasses.replace(manifest, fragments=()), fragment, files):
            assert table.schema.names == [*ITEM.names, *manifest.carried.names]
            assert table.num_rows <= MAX_ROWS
            table.validate(full=True)
            rows += table.to_pylist()
    return manifest, rows


def values(items: list[dict[str, Any]], column: str) -> list[Any]:
    return [item[column] for item in items]


def allowing(files: Files, *roots: str) -> Files:
    return Files(files.storage.model_copy(update={"allow_roots": roots}))


@pytest.mark.parametrize("name", WRITERS)
def test_all_formats_give_the_same_items(where: Any, name: str) -> None:
    uri = where.put(f"set/{name}", WRITERS[name](ROWS))
    files = allowing(where.files, "s3://elsewhere", "/abs")
    manifest, items = read_all(uri, files)
    assert values(items, "item_id") == ["00123", "b/ü", "c"]
    assert values(items, "image_uri") == [f"{where.root}/set/photos/a.jpg", "s3://elsewhere/b.jpg", "/abs/c.jpg"]
    assert values(items, "box") == [[1, 2, 30, 40], None, None]
    assert values(items, "error_code") == [None, None, "item"]
    assert values(items, "sku") == ["007", "8", None]
    assert values(items, "price") == (["1.5", None, "3.0"] if "csv" in name.lower() else [1.5, None, 3.0])
    result = scan(manifest, files)
    assert (result.rows, result.with_box, result.refused) == (3, 1, 1)
    assert result.ids.tobytes() == np.sort(hash_ids(pa.array(["00123", "b/ü", "c"]))).tobytes()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_folder_or_a_pattern_is_one_manifest(where: Any, suffix: str) -> None:
    write = WRITERS[f"m{suffix}"]
    where.put(f"set/part/1{suffix}", write([{"image_uri": "1.jpg", "a": 1}, {"image_uri": "", "a": 2}]))
    where.put(f"set/part/2{suffix}", write([{"image_uri": "../2.jpg", "a": 3, "b": "x"}, {"image_uri": "", "a": 2, "b": ""}]))
    where.put("set/part/_SUCCESS", b"")
    where.put("set/part/README.txt", b"")
    manifest, items = read_all(f"{where.root}/set", allowing(where.files, where.root))
    assert values(items, "image_uri") == [f"{where.root}/set/1.jpg", None, f"{where.root}/2.jpg", None]
    assert values(items, "item_id") == ["1.jpg", f"part/1{suffix}#row-2", "../2.jpg", f"part/2{suffix}#row-2"]
    assert manifest.carried.names == ["a", "b"]
    assert items[0]["b"] is None
    assert scan(manifest, where.files).rows == 4
    manifest, items = read_all(f"{where.root}/set/*/2{suffix}", allowing(where.files, where.root))
    assert values(items, "image_uri") == [f"{where.root}/2.jpg", None]
    manifest, items = read_all(f"{where.root}/set/part/[12]{suffix}", where.files)
    assert (len(items), manifest.base) == (4, f"{where.root}/set/part")


def test_a_folder_of_images_is_a_manifest(where: Any) -> None:
    for name in ("b.JPG", "a/1.png", "a/x y #1%20?.webp", "notes.txt", ".hidden.jpg", "a/.thumbs/1.png", "label.json"):
        where.put(f"photos/{name}", b"x")
    manifest, items = read_all(f"{where.root}/photos/", where.files)
    assert sorted((row["item_id"], row["image_uri"]) for row in items) == [
        ("a/1.png", f"{where.root}/photos/a/1.png"),
        ("a/x y #1%20?.webp", f"{where.root}/photos/a/x y #1%20?.webp"),
        ("b.JPG", f"{where.root}/photos/b.JPG"),
    ]
    assert scan(manifest, where.files).rows == 3
    assert manifest.kind == "images"


def test_many_images_are_several_fragments(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.manifest.folder.ROWS", 4)
    for number in range(10):
        local.put(f"{number}.jpg", b"")
    manifest, items = read_all(local.root, local.files)
    assert len(manifest.fragments) == 3
    assert values(items, "item_id") == [f"{number}.jpg" for number in range(10)]


def test_a_file_name_that_is_not_utf_8_fails_alone(local: Any) -> None:
    local.put("good.jpg", b"x")
    with open(os.fsencode(local.root) + b"/b\xe9d.jpg", "wb"):  # noqa: PTH123  the name is bytes
        pass
    _, items = read_all(local.root, local.files)
    assert values(items, "item_id") == ["b\\udce9d.jpg", "good.jpg"]


def test_row_groups_become_fragments_with_row_numbers(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.manifest.tables.FRAGMENT_ROWS", 250)
    uri = local.put("m.parquet", parquet([{"image_uri": "", "n": 1} for _ in range(1000)], row_group_size=100))
    manifest, items = read_all(uri, local.files)
    assert [fragment.row_groups for fragment in manifest.fragments] == [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9,)]
    assert values(items, "item_id") == [f"m.parquet#row-{number}" for number in range(1, 1001)]


def test_files_longer_than_one_table(local: Any) -> None:
    rows = [{"image_uri": f"{number}.jpg", "n": number} for number in range(MAX_ROWS + 100)]
    for name, write in WRITERS.items():
        _, items = read_all(local.put(name, write(rows)), local.files)
        assert values(items, "item_id") == [row["image_uri"] for row in rows], name
        assert [int(row["n"]) for row in items] == [row["n"] for row in rows], name


def test_csv_quirks(local: Any) -> None:
    text = '\ufeff\r\n image_uri ,"item_id", title,box,note\r\n'
    text += ' a.jpg , 00123 ,"two\nlines, ""quoted""","[1, 2, 3, 4]",\r\n\r\n'
    text += 'b.jpg,, spaced ,,""\r\nNA,null,NaN,"1,2,3",nan'
    _, items = read_all(local.put("m.csv", text.encode()), local.files)
    assert values(items, "item_id") == ["00123", "b.jpg", "null"]
    assert values(items, "image_uri") == [f"{local.root}/{name}" for name in ("a.jpg", "b.jpg", "NA")]
    assert values(items, "title") == ['two\nlines, "quoted"', " spaced ", "NaN"]
    assert values(items, "note") == [None, "", "nan"]
    assert values(items, "box") == [[1, 2, 3, 4], None, None]
    assert values(items, "error_code") == [None, None, "item"]


def test_csv_with_a_list_of_boxes(local: Any) -> None:
    text = 'image_uri,boxes\na.jpg,"[[1,2,3,4],[5,6,7,8]]"\nb.jpg,\nc.jpg,oops\n'
    _, items = read_all(local.put("m.csv", text.encode()), local.files)
    assert values(items, "item_id") == ["a.jpg#0", "a.jpg#1", "b.jpg", "c.jpg#0"]
    assert values(items, "box") == [[1, 2, 3, 4], [5, 6, 7, 8], None, None]
    assert items[3]["error_code"] == "item"


def test_json_lines_columns_get_one_type(local: Any) -> None:
    lines = [
        {"image_uri": "a", "item_id": 1, "n": 1, "f": 1, "t": True, "mixed": 1, "nested": {"k": [1]}, "big": 2**70, "x0": ""},
        {"image_uri": "b", "item_id": "01", "n": None, "f": 2.5, "t": None, "mixed": "1", "nested": None, "y0": "", "x1": ""},
        {"image_uri": 7, "item_id": 1.5, " late ": "x", "x0": 1, "y0": "2", "x1": 3.5, "y1": 4},
    ]
    uri = local.put("m.jsonl", b"\xef\xbb\xbf" + jsonl(lines[:2]) + b"\n  \n" + jsonl(lines[2:]).rstrip())
    manifest, items = read_all(uri, local.files)
    kinds = {field.name: str(field.type) for field in manifest.carried}
    assert kinds == {
        **{"n": "int64", "f": "double", "t": "bool", "mixed": "string", "nested": "string", "big": "string", "late": "string"}
    }
    assert values(items, "item_id") == ["1", "01", "1.5"]
    assert values(items, "mixed") == ["1", '"1"', None]
    assert values(items, "f") == [1.0, 2.5, None]
    assert [json.loads(row["nested"] or "null") for row in items] == [{"k": [1]}, None, None]
    assert items[0]["big"] == str(2**70)
    assert values(items, "late") == [None, None, "x"]
    assert values(items, "error_code") == [None, None, "item"]
    assert items[2]["box"] == [1, 2, 3.5, 4]


def test_boxes_in_json_lines(local: Any) -> None:
    lines = [
        '{"image_uri": "a", "box": [1, 2, 3, 4]}',
        '{"image_uri": "b", "box": [NaN, 2, 3, 4]}',
        '{"image_uri": "c", "box": "5,6,7,8"}',
        '{"image_uri": "d", "box": {"x": 1}}',
        '{"image_uri": "e", "box": null}',
        '{"image_uri": "f"}',
        '{"image_uri": "g", "box": [1, 2, 3, 1' + "0" * 400 + "]}",
    ]
    _, items = read_all(local.put("m.jsonl", "\n".join(lines).encode()), local.files)
    assert values(items, "box") == [[1, 2, 3, 4], None, [5, 6, 7, 8], None, None, None, None]
    assert values(items, "error_code") == [None, "item", None, "item", None, None, "item"]
    assert "[" not in items[2]["item_id"]


def test_parquet_files_with_different_types_are_unified_or_refused(local: Any) -> None:
    narrow = pa.table({"image_uri": ["a"], "n": pa.array([1], pa.int16()), "d": pa.array(["x"]).dictionary_encode()})
    wide = pa.table({"image_uri": pa.array(["b"], pa.large_string()), "n": pa.array([2**40], pa.int64()), "d": ["y"]})
    for name, table in (("1", narrow), ("2", wide)):
        Path(local.root).mkdir(exist_ok=True)
        pq.write_table(table, f"{local.root}/{name}.parquet")
    manifest, items = read_all(local.root, local.files)
    assert [str(field.type) for field in manifest.carried] == ["int64", "string"]
    assert [(row["n"], row["d"]) for row in items] == [(1, "x"), (2**40, "y")]
    pq.write_table(pa.table({"image_uri": ["c"], "n": ["text"]}), f"{local.root}/3.parquet")
    with pytest.raises(ConfigError, match="incompatible columns.*n"):
        open_manifest(local.root, local.files)


def test_hostile_ids_are_unchanged(where: Any) -> None:
    ids = ["../../etc/passwd", "a/b\\c", "ünï\u0000cøde\n", "x" * 500, "<b>", "' OR 1=1", "\u202e", "s3://k"]
    uri = where.put("m.parquet", parquet([{"item_id": item_id, "image_uri": "a.jpg"} for item_id in ids]))
    manifest, items = read_all(uri, where.files)
    assert values(items, "item_id") == ids
    assert scan(manifest, where.files).rows == len(ids)


def refusal(uri: str, files: Files) -> str:
    with pytest.raises(Refused) as refused:
        scan(open_manifest(uri, files), files)
    assert refused.value.exit_code == 2
    return str(refused.value)


def test_a_missing_manifest(where: Any) -> None:
    assert "m.csv: it does not exist" in refusal(f"{where.root}/m.csv", where.files)
    assert "no file matches" in refusal(f"{where.root}/*.csv", where.files)


EMPTY = {
    "m.parquet": parquet([{"image_uri": "a"}])[:0],
    "none.parquet": None,
    "m.csv": b"",
    "header.csv": b"image_uri,item_id",
    "line.csv": b"image_uri,item_id\n\n",
    "m.csv.gz": gzip.compress(b""),
    "m.jsonl": b"",
    "blank.jsonl": b"\n \n",
    "objects.jsonl": b"{}\n{}\n",
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_manifest(local: Any, name: str) -> None:
    data = EMPTY[name]
    if data is None:
        sink = io.BytesIO()
        pq.write_table(pa.table({"image_uri": pa.array([], pa.string())}), sink)
        data = sink.getvalue()
    message = refusal(local.put(name, data), local.files)
    assert "is empty" in message or "is damaged, or not a Parquet file" in message


def test_an_empty_folder(local: Any) -> None:
    local.put("in/readme.txt", b"")
    assert "contains neither images nor a manifest" in refusal(f"{local.root}/in", local.files)


@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_image_uri_column(where: Any, name: str) -> None:
    message = refusal(where.put(name, WRITERS[name]([{"url": "a.jpg", "sku": 1}])), where.files)
    assert "no column image_uri; if the column 'url' has the paths or URIs of images, add --image-column url" in message


@pytest.mark.parametrize("name", WRITERS)
def test_duplicate_ids_are_refused_and_listed(where: Any, name: str) -> None:
    rows = [{"item_id": f"id-{number % 60}", "image_uri": f"{number}.jpg"} for number in range(65)]
    message = refusal(where.put(name, WRITERS[name](rows)), where.files)
    assert "5 item ids occur more than once" in message
    assert "'id-0', 'id-1', 'id-2', …" in message
    one = refusal(where.put(name, WRITERS[name](rows[:61])), where.files)
    assert "1 item id occurs more than once" in one
    assert "'id-0';" in one


def test_rows_with_the_same_image_need_ids_or_boxes(local: Any) -> None:
    rows = [{"image_uri": "a.jpg", "box": None}, {"image_uri": "a.jpg", "box": None}]
    assert "'a.jpg'; give each row a unique item_id" in refusal(local.put("m.jsonl", jsonl(rows)), local.files)
    rows[0]["box"] = [1, 2, 3, 4]
    assert scan(open_manifest(local.put("m.jsonl", jsonl(rows)), local.files), local.files).rows == 2


def test_duplicates_across_files(local: Any) -> None:
    for part in ("1", "2"):
        local.put(f"{part}.csv", b"image_uri,item_id\na.jpg,same\n")
    assert "'same'" in refusal(local.root, local.files)


def test_mixed_folders_and_other_files_are_refused(local: Any) -> None:
    local.put("a/1.jpg", b"")
    local.put("b/m.csv", b"image_uri\n1.jpg\n")
    local.put("b/m.parquet", parquet([{"image_uri": "a"}]))
    assert "contains csv and parquet files; a manifest must be of one kind" in refusal(f"{local.root}/b", local.files)
    assert "not all of one supported kind" in refusal(f"{local.root}/b/m.*", local.files)
    assert "give their folder" in refusal(f"{local.root}/a/*.jpg", local.files)
    assert f"is one image: matteline cut {local.root}/a/1.jpg" in refusal(f"{local.root}/a/1.jpg", local.files)
    said = refusal("https://cdn.example.com/x.JPG?w=1&key=secret", local.files)
    assert "is one image: matteline cut https://cdn.example.com/x.JPG;" in said and "secret" not in said
    assert "is not a manifest" in refusal(local.put("x.xlsx", b""), local.files)


DAMAGED = {
    "cut.parquet": (parquet(ROWS)[:-50], "damaged, or not a Parquet file"),
    "csv.parquet": (b"image_uri\na.jpg\n", "damaged, or not a Parquet file"),
    "latin.csv": ("image_uri\ngröße.jpg\n".encode("latin-1"), "line 2 is not UTF-8 (byte 0xf6); save the file as UTF-8"),
    "latin-late.csv": (b"image_uri\n" + b"a.jpg\n" * 300_000 + b"gr\xf6.jpg\n", "line 300002 is not UTF-8"),
    "wide.csv": (b"image_uri,a\n1,2\n1,2?X-Amz-Signature=abc,3\n", "row 3 has 3 columns, the first row has 2"),
    "semicolon.csv": (b"image_uri;a\n1;2\n", "not separated by commas"),
    "plain.csv.gz": (b"image_uri\na.jpg\n", "damaged, or not a CSV"),
    "cut.jsonl.gz": (gzip.compress(jsonl(ROWS) * 1000)[:-20], "damaged, or not a JSON Lines file"),
    "list.json": (json.dumps(ROWS).encode(), "line 1 is not a JSON object; write one object per line, not a list"),
    "pretty.json": (json.dumps(ROWS, indent=1).encode(), "line 1 is not JSON; write one object per line, not a list"),
    "broken.jsonl": (jsonl(ROWS) + b'{"image_uri": "x?X-Amz-Signature=abc\n', "line 4 is not JSON"),
    "deep.jsonl": (b'{"image_uri": ' + b"[" * 100_000 + b"\n", "line 1 is nested deeper than 100 levels"),
    "nested.jsonl": (b'{"a": "\\ud83d", "b": ' + b"[" * 600 + b"]" * 600 + b"}\n", "line 1 is nested deeper than 100 levels"),
    "duplicate.csv": (b"image_uri, image_uri\na,b\n", "two columns named 'image_uri'"),
    "bytes.csv": (bytes(range(256)) * 10, "line 2 is not UTF-8 (byte 0x80)"),
    "bytes.jsonl": (bytes(range(256)) * 10, "line 1 is not JSON"),
    "latin.jsonl": ('{"image_uri": "größe.jpg"}'.encode("latin-1"), "line 1 is not UTF-8 (byte 0xf6)"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(local: Any, name: str) -> None:
    data, words = DAMAGED[name]
    message = refusal(local.put(name, data), local.files)
    assert words in message
    assert name in message
    assert "abc" not in message
    assert len(message) < 600


def test_a_file_that_is_deleted_after_opening(where: Any) -> None:
    for name in ("m.parquet", "m.csv", "m.jsonl"):
        uri = where.put(name, WRITERS[name](ROWS))
        manifest = open_manifest(uri, where.files)
        where.files.delete(uri)
        with pytest.raises(Refused, match=f"{name}: it does not exist"):
            scan(manifest, where.files)


def test_errors_of_s3(s3: Any, remote: Any) -> None:
    uri = remote.put("m.csv", csv_text(ROWS))
    wrong = Files(Storage(**(s3.settings | {"secret": "wrong-secret-value"})))
    with pytest.raises(StorageError, match="credentials were refused") as refused:
        open_manifest(uri, wrong)
    assert "wrong-secret-value" not in str(refused.value)
    for name in ("m.csv", "*.csv"):
        with pytest.raises(StorageError, match="no bucket"):
            open_manifest(f"s3://no-such-bucket-of-ours/{name}", remote.files)
    with pytest.raises(StorageError, match="images only"):
        open_manifest("https://example.org/m.csv", Files(Storage(http=True)))


def test_a_read_only_s3_user_can_scan(s3: Any, remote: Any) -> None:
    uri = remote.put("m.parquet", parquet(ROWS))
    reader = Files(Storage(**(s3.settings | {"key": s3.reader_key, "secret": s3.reader_secret})))
    assert scan(open_manifest(uri, reader), reader).rows == 3


def test_a_bracket_in_an_existing_name_is_not_a_pattern(local: Any) -> None:
    uri = local.put("set [1]/m.csv", b"image_uri\na.jpg\n")
    assert scan(open_manifest(uri, local.files), local.files).rows == 1


def test_a_pattern_in_a_folder_with_brackets(where: Any) -> None:
    for name in ("t [x]/1.csv", "t [x]/[b]*/2.csv", "t x/3.csv"):
        where.put(name, b"image_uri\na.jpg\n")
    manifest, items = read_all(f"{where.root}/t [x]/*.csv", where.files)
    assert (len(items), manifest.base) == (1, f"{where.root}/t [x]")
    assert len(read_all(f"{where.root}/t [x]/[[]b]*/*.csv", where.files)[1]) == 1
    assert len(read_all(f"{where.root}/t [x]/**/*.csv", where.files)[1]) == 2
    assert [info.uri for info in list_sources(f"{where.root}/t [x]/[[]b]*/*.csv", where.files)] == [
        f"{where.root}/t [x]/[b]*/2.csv"
    ]
    with pytest.raises(StorageError, match="does not exist"):
        open_manifest(f"{where.root}/t [x]/4.csv", where.files)
