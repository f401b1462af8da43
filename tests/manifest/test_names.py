"""How the files of items are named: by id, by image, or by a template."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.config.job import Storage
from pipeline.errors import ConfigError
from pipeline.manifest.manifest import open_manifest, read, scan
from pipeline.manifest.names import NameTemplate, image_name, name_keys, object_names
from pipeline.storage.files import Files
from pipeline.storage.object_names import collision_key, object_name


def rows_of(where: Any, uri: str, template: str | None = None) -> list[dict[str, Any]]:
    manifest = open_manifest(uri, where.files, NameTemplate(template))
    return [row for one in manifest.fragments for table in read(manifest, one, where.files) for row in table.to_pylist()]


def names_of(where: Any, uri: str, template: str | None = None) -> list[str]:
    return [row["output_name"] for row in rows_of(where, uri, template)]


def scan_names(where: Any, uri: str, template: str | None = None) -> Any:
    return scan(open_manifest(uri, where.files, NameTemplate(template)), where.files)


def jsonl(where: Any, *rows: dict[str, Any]) -> str:
    return where.put("m.jsonl", "\n".join(json.dumps(row) for row in rows).encode())


def test_files_of_a_folder_are_named_by_path(where: Any) -> None:
    for name in ("a.JPG", "shelf/b.tar.png", "shelf/größe 2.webp", "shelf/.x.jpg"):
        where.put(f"photos/{name}", b"x")
    assert sorted(names_of(where, f"{where.root}/photos")) == ["a", "shelf/b.tar", "shelf/größe 2"]


def test_the_id_is_the_name_where_the_manifest_has_one(local: Any) -> None:
    given_ids = local.put("m.csv", b"item_id,image_uri\nSKU/1.jpg,photos/a.jpg\n00:7,b.jpg\n")
    assert names_of(local, given_ids) == ["SKU/1.jpg", "00%3A7"]
    some = local.put("n.csv", b"item_id,image_uri\nx,photos/a.jpg\n,photos/b.jpg\n")
    assert names_of(local, some) == ["x", "photos/b"]


def test_without_ids_the_image_is_the_name(local: Any) -> None:
    text = f"image_uri\nphotos/a.jpg\n{local.root}/photos/b.png\n/elsewhere/c.JPEG\ns3://shop/d/e.webp\n"
    text += "https://cdn.example.com/f.jpg?v=2&X-Amz-Signature=abc\nhttps://cdn.example.com/g.jpg?token=secret\n"
    assert names_of(local, local.put("m.csv", text.encode())) == [
        *("photos/a", "photos/b", "elsewhere/c", "shop/d/e", "cdn.example.com/f.jpg%3Fv=2", "cdn.example.com/g"),
    ]


@pytest.mark.parametrize(
    ("uri", "base", "expected"),
    [
        ("/shop/photos/shelf/a.JPG", "/shop/photos", ("shelf/a", "jpg")),
        ("/shop/photos2/a.jpg", "/shop/photos", ("shop/photos2/a", "jpg")),
        ("s3://shop/photos/a.jpeg", "s3://shop/photos/", ("a", "jpeg")),
        ("s3://shop/photos/a.jpg", "s3://shop/other", ("shop/photos/a", "jpg")),
        ("/a.jpg", "/", ("a", "jpg")),
        ("/shop/a", "/shop", ("a", "")),
        ("/shop/a.txt", "/shop", ("a.txt", "")),
        ("/shop/.jpg", "/shop", (".jpg", "")),
    ],
)
def test_the_name_of_an_image(uri: str, base: str, expected: tuple[str, str]) -> None:
    assert image_name(uri, base) == expected


def test_several_boxes_of_an_image_get_several_names(local: Any) -> None:
    boxes = jsonl(local, {"image_uri": "a.jpg", "boxes": [[1, 2, 3, 4], [5, 6, 7, 8]]}, {"image_uri": "b.jpg"})
    assert names_of(local, boxes) == ["a-0", "a-1", "b"]
    assert names_of(local, boxes, "{suffix}/{image}") == ["jpg/a-0", "jpg/a-1", "jpg/b"]
    apart = jsonl(
        local,
        {"image_uri": "a.jpg", "box": [1, 2, 30.5, 40]},
        {"image_uri": "a.jpg", "box": [5, 6, 7, 8]},
        {"image_uri": "a.jpg"},
        {"image_uri": "a.jpg", "item_id": "given", "box": [5, 6, 7, 8]},
    )
    assert names_of(local, apart) == ["a-1-2-30.5-40", "a-5-6-7-8", "a", "given"]


def test_a_template_takes_columns_image_and_suffix(local: Any) -> None:
    uri = jsonl(
        local,
        {"item_id": "1", "image_uri": "p/a.JPG", "sku": "R/d", "size": 40},
        {"item_id": "2", "image_uri": "b.png", "sku": "50%", "size": 41},
    )
    assert names_of(local, uri, "{sku}/{size}-{item_id}") == ["R/d/40-1", "50%25/41-2"]
    assert names_of(local, uri, "{image}.{suffix}") == ["p/a.jpg", "b.png"]
    assert names_of(local, uri, "{{x}}{image}") == ["{x}p/a", "{x}b"]


def test_a_folder_takes_a_template_too(local: Any) -> None:
    local.put("photos/shelf/a.JPG", b"x")
    assert names_of(local, f"{local.root}/photos", "{image}-{suffix}") == ["shelf/a-jpg"]
    assert names_of(local, f"{local.root}/photos", "{item_id}") == ["shelf/a.JPG"]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{sku}/{colour}", "output.name '{sku}/{colour}' needs a column 'colour'; .*m.csv has item_id, image, suffix, .*sku"),
        ("{sku", "is not a template .*; write for instance {sku}"),
        ("{}", "needs a column ''"),
        ("{sku:>5}", "which is not supported; write {sku}"),
        ("{sku!r}", "has a format"),
        ("all", "is the same for all items; use a field such as {item_id}"),
        ("", "is the same for all items"),
    ],
)
def test_unusable_templates_are_refused(local: Any, template: str, words: str) -> None:
    uri = local.put("m.csv", b"item_id,image_uri,sku\n1,a.jpg,x\n")
    with pytest.raises(ConfigError, match=words):
        open_manifest(uri, local.files, NameTemplate(template))


@pytest.mark.parametrize("cell", ['""', "null"])
def test_a_row_with_an_empty_field_fails_alone(local: Any, cell: str) -> None:
    first, second = rows_of(
        local,
        local.put("m.jsonl", f'{{"image_uri": "a.jpg", "sku": {cell}}}\n{{"image_uri": "b.jpg", "sku": "x"}}'.encode()),
        "{sku}",
    )
    assert (first["error_code"], first["output_name"]) == ("item", "a")
    assert first["error_detail"] == "output.name needs the column 'sku', which is empty here; fill it"
    assert (second["error_code"], second["output_name"]) == (None, "x")


def test_a_row_keeps_the_message_about_its_image(local: Any) -> None:
    (row,) = rows_of(local, jsonl(local, {"image_uri": "ftp://x/a.jpg", "item_id": "1", "sku": None}), "{sku}")
    assert "outside the allowed roots" in row["error_detail"]


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("one", "other"), [("Photo", "photo"), (COMPOSED, DECOMPOSED), ("GRÖSSE", "größe")])
def test_names_that_a_file_system_may_not_tell_apart_are_refused(local: Any, one: str, other: str) -> None:
    uri = jsonl(local, *({"image_uri": "a.jpg", "item_id": item_id} for item_id in ("x", one, other)))
    words = f"the items {one!r} and {other!r} would share .* {one!r} and {other!r}, which some file systems do not tell apart"
    with pytest.raises(ConfigError, match=f"{words}; give them different ids, or set output.name"):
        scan_names(local, uri)


def test_two_items_of_one_name_are_refused(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.manifest.folder.ROWS", 1)  # in different tables
    for name in ("a.jpg", "a.png", "b.jpg"):
        local.put(f"photos/{name}", b"x")
    with pytest.raises(ConfigError, match=r"the items 'a.jpg' and 'a.png' would share the file name 'a'; .*{image}-{suffix}"):
        scan_names(local, f"{local.root}/photos")
    assert scan_names(local, f"{local.root}/photos", "{image}-{suffix}").rows == 3
    uri = jsonl(local, *({"image_uri": "a.jpg", "item_id": item_id, "sku": "s"} for item_id in ("x", "y")))
    with pytest.raises(ConfigError, match="the items 'x' and 'y' would share the file name 's'"):
        scan_names(local, uri, "{sku}")


def test_a_collision_of_hashes_is_not_a_collision_of_names(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.manifest.manifest.name_keys", lambda names: np.zeros(len(names), np.uint64))
    assert scan_names(local, jsonl(local, *({"image_uri": f"{name}.jpg"} for name in "abc"))).rows == 3


def test_a_signed_address_does_not_reach_the_name(local: Any) -> None:
    files = Files(Storage(http=True))
    uri = jsonl(local, {"image_uri": "https://h/a.jpg?X-Amz-Signature=abc"})
    manifest = open_manifest(uri, files, NameTemplate("{image}"))
    (table,) = read(manifest, manifest.fragments[0], files)
    assert table["output_name"].to_pylist() == ["h/a"]


TEXTS = st.text(alphabet="aAzZ09_-/.% conéß", max_size=12)


@given(st.lists(TEXTS, max_size=8))
@example(["con", "a/con/b", "CON", "a/CON"])
@example(["x" * 100, "x" * 101, "/a", "a/", "a//b", ""])
def test_columns_and_single_texts_are_named_alike(texts: list[str]) -> None:
    assert object_names(pa.array(texts, pa.string())).to_pylist() == [object_name(text) for text in texts]


@given(st.lists(TEXTS, min_size=2, max_size=8))
@example(["A", "a"])
@example(["É", "e\u0301"])
def test_equal_keys_have_equal_hashes(names: list[str]) -> None:
    hashes = name_keys(pa.chunked_array([pa.array(names[:1], pa.string()), pa.array(names[1:], pa.string())]))
    for name, found in zip(names, hashes, strict=True):
        same = [collision_key(name) == collision_key(other) for other in names]
        assert [found == other for other in hashes] == same
