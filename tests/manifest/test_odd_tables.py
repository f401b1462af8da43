"""Tables as people and their tools write them: what can be used is used, and what cannot be is named."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, FetchError, StorageError
from pipeline.manifest.build import from_folder, from_masks
from pipeline.manifest.items import MAX_COLUMNS
from pipeline.manifest.manifest import open_manifest, read
from pipeline.manifest.table_files import ROWS
from pipeline.storage.files import Files

FILES = Files()


def items_of(path: Path) -> list[dict[str, Any]]:
    manifest = open_manifest(str(path), FILES)
    return [row for fragment in manifest.fragments for table in read(manifest, fragment, FILES) for row in table.to_pylist()]


def written(tmp_path: Path, name: str, text: str) -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_blank_rows_and_columns_of_spreadsheets_are_left_out(tmp_path: Path) -> None:
    text = "image_uri,item_id,,\na.jpg,1,,\n,,,\n  , ,,\nb.jpg,2,,\n,,,\n"
    rows = items_of(written(tmp_path, "m.csv", text))
    assert [(row["item_id"], row["error_code"]) for row in rows] == [("1", None), ("2", None)]
    assert set(rows[0]) == {"item_id", "output_name", "image_uri", "box", "error_code", "error_detail"}


BLANK: dict[str, Any] = {"image_uri": None, "item_id": None, "n": None, "tags": None}


def test_blank_rows_of_other_formats_are_left_out(tmp_path: Path) -> None:
    rows = [BLANK, {"image_uri": "a.jpg", "item_id": "1", "n": 0, "tags": []}, BLANK | {"image_uri": " "}, BLANK | {"n": 4}]
    schema = pa.schema(
        [("image_uri", pa.string()), ("item_id", pa.string()), ("n", pa.int64()), ("tags", pa.list_(pa.string()))]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "m.parquet")
    lines = ["{}", *map(json.dumps, rows), "", "{}"]
    for path in (tmp_path / "m.parquet", written(tmp_path, "m.jsonl", "\n".join(lines))):
        found = items_of(path)
        assert [(row["item_id"], row["error_code"]) for row in found][:1] == [("1", None)]
        assert [row["error_code"] for row in found][1:] == ["item"], "a row with a value but no image is no blank row"


@pytest.mark.parametrize("start", [",,\n", ",,\n,,\n\n", "\n\n , ,\r\n", "\ufeff,,\n", '"","",""\n'])
def test_blank_rows_above_the_names_are_left_out(tmp_path: Path, start: str) -> None:
    rows = items_of(written(tmp_path, "m.csv", f"{start}image_uri,item_id,\na.jpg,1,\nb.jpg,2,\n"))
    assert [row["item_id"] for row in rows] == ["1", "2"]


def test_rows_of_commas_may_be_wider_than_the_table(tmp_path: Path) -> None:
    rows = items_of(written(tmp_path, "m.csv", 'image_uri,item_id\na.jpg,1\n,,,\n" ",,,\nb.jpg,2\n,,,,,,\n'))
    assert [row["item_id"] for row in rows] == ["1", "2"]
    with pytest.raises(ConfigError, match=r"m\.csv: row 3 has 4 columns, the first row has 2; quote values"):
        items_of(written(tmp_path, "m.csv", "image_uri,item_id\na.jpg,1\n,,,x\n"))


LATIN = "caf\xe9.jpg".encode("latin-1")


@pytest.mark.parametrize("blocks", [0, 1])
@pytest.mark.parametrize(
    ("name", "first", "row", "last"),
    [
        ("m.csv", b"image_uri,t\n", b"a.jpg,x\n", LATIN + b",x\nb.jpg,x\n"),
        ("m.jsonl", b"", b'{"image_uri": "a.jpg"}\n', b'{"image_uri": "' + LATIN + b'"}\n'),
    ],
)
def test_the_line_that_is_not_utf8_is_named(
    tmp_path: Path, name: str, first: bytes, row: bytes, last: bytes, blocks: int
) -> None:
    """Also behind the part of the file that is read to find the columns."""
    count = 3 + blocks * 150_000
    (tmp_path / name).write_bytes(first + row * count + last)
    line = count + 1 + bool(first)
    with pytest.raises(ConfigError, match=rf"{name}: line {line} is not UTF-8 \(byte 0xe9\); save the file as UTF-8"):
        items_of(tmp_path / name)


def test_a_character_that_ends_too_early_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"image_uri\na.jpg\ncaf\xc3")
    with pytest.raises(ConfigError, match=r"m\.csv: line 3 is not UTF-8 \(byte 0xc3\)"):
        items_of(tmp_path / "m.csv")


@pytest.mark.parametrize("names", [("",), ("", " "), ("\ufeff", "\t")])
def test_values_without_a_name_are_left_out_and_told(
    tmp_path: Path, names: tuple[str, ...], logged: list[logging.LogRecord]
) -> None:
    row = {"image_uri": "a.jpg", "t": "x"} | dict.fromkeys(names, "lost")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "m.parquet")
    for path in (tmp_path / "m.parquet", written(tmp_path, "m.jsonl", json.dumps(row))):
        logged.clear()
        (found,) = items_of(path)
        assert (Path(found["image_uri"]).name, found["t"]) == ("a.jpg", "x") and "lost" not in found.values()
        assert [one.getMessage() for one in logged] == [f"{path}: columns without a name are left out"]


def test_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    rows = items_of(written(tmp_path, "m.csv", ",,image_uri\n0,x,a.jpg\n1,y,b.jpg\n"))
    assert [Path(row["image_uri"]).name for row in rows] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    "text", ["1,2,30,40", "[1, 2, 30, 40]", "(1 2 30 40)", "1;2;30;40", "1 2 30 40", "'1','2','30','40'", "[1,\t2, 30,40]"]
)
def test_boxes_as_people_write_them(tmp_path: Path, text: str) -> None:
    (row,) = items_of(written(tmp_path, "m.csv", f'image_uri,box\na.jpg,"{text}"\n'))
    assert row["box"] == [1, 2, 30, 40], row["error_detail"]


@pytest.mark.parametrize("text", ["NaN", "nan", "None", "null", "N/A", "[]", ""])
def test_words_for_no_box(tmp_path: Path, text: str) -> None:
    (row,) = items_of(written(tmp_path, "m.csv", f"image_uri,box\na.jpg,{text}\n"))
    assert (row["box"], row["error_code"]) == (None, None)
    (row,) = items_of(written(tmp_path, "c.csv", f"image_uri,x0,y0,x1,y1\na.jpg,{text},{text},{text},{text}\n"))
    assert (row["box"], row["error_code"]) == (None, None)


def test_numbers_that_are_not_a_number_are_no_box(tmp_path: Path) -> None:
    text = '{"image_uri": "a.jpg", "box": NaN}\n{"image_uri": "b.jpg", "box": [1, 2, 30, 40]}\n'
    assert [row["box"] for row in items_of(written(tmp_path, "m.jsonl", text))] == [None, [1, 2, 30, 40]]
    text = '{"image_uri": "a.jpg", "x0": NaN, "y0": NaN, "x1": NaN, "y1": NaN}\n'
    text += '{"image_uri": "b.jpg", "x0": 1, "y0": 2, "x1": 3, "y1": 4}'
    assert [row["box"] for row in items_of(written(tmp_path, "c.jsonl", text))] == [None, [1, 2, 3, 4]]


def test_four_words_for_no_number_are_no_box(tmp_path: Path) -> None:
    (row,) = items_of(written(tmp_path, "m.csv", 'image_uri,box\na.jpg,"[nan, nan, nan, nan]"\n'))
    assert (row["box"], row["error_code"]) == (None, None)


def test_a_box_that_cannot_be_read_is_shown(tmp_path: Path) -> None:
    (row,) = items_of(written(tmp_path, "m.csv", 'image_uri,box\na.jpg,"left 10, top 5, all"\n'))
    assert row["error_detail"] == "box 'left 10, top 5, all' is not four numbers; give x0, y0, x1, y1 in pixels, or no box"


@pytest.mark.parametrize("table", ['image_uri,box\na.jpg,"0.1,0.2,0.8,0.9"', "image_uri,x0,y0,x1,y1\na.jpg,0.1,0.2,0.8,0.9"])
def test_boxes_in_shares_of_the_image_are_noticed(tmp_path: Path, table: str) -> None:
    (row,) = items_of(written(tmp_path, "m.csv", table))
    assert "seems to be shares of the image; give pixels" in row["error_detail"]


def test_half_of_an_emoji_stops_nothing(tmp_path: Path) -> None:
    """A tool has cut a text between the two halves of a surrogate pair."""
    text = '{"image_uri": "a.jpg", "t": "caf\\u00e9 \\ud83d", "n": {"x": ["\\udc00"]}}\n'
    text += '{"image_uri": "b.jpg", "t": "\\ud83d\\ude00"}\n'
    rows = items_of(written(tmp_path, "m.jsonl", text))
    assert [row["t"] for row in rows] == ["café \ufffd", "😀"]
    assert rows[0]["n"] == '{"x": ["\ufffd"]}'


@pytest.mark.parametrize("name", ["shoot [final]", "a*b", "what?"])
def test_a_folder_whose_name_looks_like_a_pattern_is_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "a[1].jpg").write_bytes(b"x")
    assert [row["item_id"] for row in items_of(tmp_path / name)] == ["a[1].jpg"]


def test_folders_that_a_nas_adds_hold_no_items(tmp_path: Path) -> None:
    for folder in ("@eaDir/a.jpg", "#recycle", "__MACOSX", "shelf/@eaDir/b.jpg", "shelf"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "thumb.jpg").write_bytes(b"x")
    assert [row["item_id"] for row in items_of(tmp_path)] == ["shelf/thumb.jpg"]
    assert from_folder(str(tmp_path), FILES)["item_id"].to_pylist() == ["shelf/thumb.jpg"]


def test_names_that_are_not_utf8_fail_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    try:
        with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb") as file:  # noqa: PTH123  pathlib takes no bytes
            file.write(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert from_folder(str(tmp_path), FILES)["item_id"].to_pylist() == ["a.jpg", "caf\\udce9.jpg"]
    rows = items_of(tmp_path)
    assert [row["item_id"] for row in rows] == ["a.jpg", "caf\\udce9.jpg"]
    with pytest.raises(FetchError, match="not UTF-8; rename"):
        FILES.read(rows[1]["image_uri"])
    masks = from_masks(str(tmp_path), str(tmp_path), FILES)["truth_uri"].to_pylist()
    assert masks == [f"{tmp_path}/a.jpg", f"{tmp_path}/caf\\udce9.jpg"]


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        *(("pics\\a.jpg", "pics/a.jpg"), ("pics/has%20space.jpg", "pics/has space.jpg"), ("cafe\u0301.jpg", "caf\xe9.jpg")),
        *(("Pics/A.JPG", "pics/a.jpg"), ("pics/a+b.jpg", "pics/a b.jpg"), ("pics/a%2Bb.jpg", "pics/a+b.jpg")),
        *(
            ("pics/black&amp;white.jpg", "pics/black&white.jpg"),
            ("'pics/a.jpg'", "pics/a.jpg"),
            ('"pics/a.jpg" ', "pics/a.jpg"),
        ),
        *(
            ("pics%2Fa%2520b.jpg", "pics/a b.jpg"),
            ("C:\\Users\\me\\pics\\A.jpg", "pics/a.jpg"),
            ("PICS\\A%20B.jpg", "pics/a b.JPG"),
        ),
        *(("deep%20er/x/CAFE\u0301.jpg", "deep er/X/caf\xe9.jpg"), ("a%20b/c d.jpg", "a%20b/c%20d.jpg")),
    ],
)
def test_another_spelling_of_a_path_is_named(where: Any, asked: str, there: str) -> None:
    if where.kind == "s3" and "\\" in asked:
        pytest.skip("this server reads a backslash as a slash")
    where.put(there, b"x")
    where.put("pics/other/else.jpg", b"x")
    with pytest.raises(FetchError, match=r"it does not exist, but .* does; correct the (path|URI)") as caught:
        where.files.read(f"{where.root}/{asked}")
    assert f"{f'{where.root}/{there}'!a} does" in str(caught.value)


@pytest.mark.parametrize("asked", ["Shop/Photos", "shop/photos%20", "shop/M.CSV"])
def test_another_spelling_of_a_manifest_is_named(where: Any, asked: str) -> None:
    where.put("shop/photos/a.jpg", b"x")
    where.put("shop/m.csv", b"image_uri\nphotos/a.jpg\n")
    with pytest.raises(StorageError, match=r"it does not exist, but '.*/shop/(photos|m\.csv)' does; correct the path"):
        open_manifest(f"{where.root}/{asked}", where.files)


def test_another_spelling_of_a_relative_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "a b.jpg", "x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FetchError, match="a%20b.jpg: it does not exist, but '.*a b.jpg' does"):
        FILES.read("a%20b.jpg")
    for gone in ("gone/a.jpg", "gone.jpg", "../gone/a.jpg"):
        with pytest.raises(FetchError, match="it does not exist; correct the path"):
            FILES.read(gone)


@pytest.mark.parametrize("asked", ["pics/b.jpg", "gone/a.jpg", "pics", "x" * 5000, "pics/" * 200 + "a.jpg"])
def test_names_of_other_files_are_not_suggested(where: Any, asked: str) -> None:
    where.put("pics/a.jpg", b"x")
    with pytest.raises(FetchError) as caught:
        where.files.read(f"{where.root}/{asked}")
    assert "but" not in str(caught.value)


def test_integers_that_a_float_cannot_hold_stay_exact_beside_floats(tmp_path: Path) -> None:
    path = written(tmp_path, "m.jsonl", '{"image_uri": "a.jpg", "n": 9007199254740993}\n{"image_uri": "b.jpg", "n": 0.5}\n')
    assert [row["n"] for row in items_of(path)] == ["9007199254740993", "0.5"]
    path = written(tmp_path, "n.jsonl", '{"image_uri": "a.jpg", "n": 9007199254740993}\n{"image_uri": "b.jpg", "n": 1}\n')
    assert [row["n"] for row in items_of(path)] == [9007199254740993, 1]


@pytest.mark.parametrize("column", ["image_uri", "item_id", "colour"])
def test_parquet_texts_that_are_not_utf8_are_damage(tmp_path: Path, column: str) -> None:
    table = pa.table({"image_uri": ["a.jpg"], "item_id": ["a"], "colour": ["red"]})
    table = table.set_column(table.schema.get_field_index(column), column, pa.array([b"\xf3x"]).view(pa.string()))
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(ConfigError, match="m.parquet is damaged, or not a Parquet file: .*Invalid UTF8"):
        items_of(tmp_path / "m.parquet")


def wide_csv(path: Path, names: list[str]) -> None:
    path.write_text(f"{','.join(names)}\n{','.join('x' for _ in names)}\n")


def wide_parquet(path: Path, names: list[str]) -> None:
    pq.write_table(pa.table({name: ["x"] for name in names}), path)


def wide_json_lines(path: Path, names: list[str]) -> None:
    path.write_text("".join(json.dumps({"image_uri": "a.jpg", name: "x"}) + "\n" for name in names))


@pytest.mark.parametrize(("suffix", "write"), [("csv", wide_csv), ("parquet", wide_parquet), ("jsonl", wide_json_lines)])
def test_the_number_of_columns_is_limited(tmp_path: Path, suffix: str, write: Any) -> None:
    names = ["image_uri", *(f"c{number}" for number in range(MAX_COLUMNS))]
    write(tmp_path / f"1.{suffix}", names[:-1])
    assert len(open_manifest(str(tmp_path / f"1.{suffix}"), FILES).carried) == MAX_COLUMNS - 1
    write(tmp_path / f"2.{suffix}", ["image_uri", *(f"d{number}" for number in range(9))])
    with pytest.raises(ConfigError, match=rf"1\.{suffix}.* has more than 2000 columns \(.*, …\); drop the others"):
        open_manifest(str(tmp_path), FILES)
    write(tmp_path / f"1.{suffix}", names)
    with pytest.raises(ConfigError, match=rf"1\.{suffix} has more than 2000 columns \(.*, …\); drop the others"):
        open_manifest(str(tmp_path / f"1.{suffix}"), FILES)


def test_the_first_cell_of_a_csv_file_may_be_large(tmp_path: Path) -> None:
    """Python's csv takes cells of 131,072 characters."""
    boxes = [[0, 0, 9, 9 + number] for number in range(9_000)]
    assert len(items_of(written(tmp_path, "m.csv", f'image_uri,boxes\na.jpg,"{json.dumps(boxes)}"\n'))) == 9_000
    assert not items_of(written(tmp_path, "n.csv", "image_uri,boxes\n \n,\n"))


def test_a_row_that_lacks_a_corner_fails_alone(tmp_path: Path) -> None:
    """Rows are read in tables, and in the last one no row has the key."""
    whole = [json.dumps({"image_uri": f"{number}.jpg", "x0": 0, "y0": 0, "x1": 9, "y1": 9}) for number in range(ROWS)]
    lines = [*whole, json.dumps({"image_uri": "last.jpg", "x0": 0, "y0": 0, "x1": 9})]
    found = items_of(written(tmp_path, "m.jsonl", "\n".join(lines)))
    assert [row["error_code"] for row in found] == [*[None] * ROWS, "item"]
    assert found[0]["box"] == [0, 0, 9, 9]


@pytest.mark.parametrize("line", ['{"image_uri": "a.jpg", "new": 1}', '{"image_uri": "a.jpg", "n": "text"}'])
def test_json_lines_that_change_after_opening_are_told(tmp_path: Path, line: str) -> None:
    path = written(tmp_path, "m.jsonl", '{"image_uri": "a.jpg", "n": 1}')
    manifest = open_manifest(str(path), FILES)
    path.write_text(line)
    with pytest.raises(ConfigError, match=r"m\.jsonl was changed after the run began \(column '(n|new)'\); run again"):
        list(read(manifest, manifest.fragments[0], FILES))


def test_the_command_for_a_list_of_images_is_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "a shoot; rm x"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    for name in ("1.csv", "2.csv"):
        written(folder, name, "image_uri\na.jpg\n")
    with pytest.raises(ConfigError, match=rf"matteline manifest '{folder}' -o images\.csv"):
        open_manifest(str(folder), FILES)
