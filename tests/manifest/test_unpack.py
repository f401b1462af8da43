"""Pictures of Parquet data sets are unpacked: below the target folder, each once, and what is left out is told."""

from __future__ import annotations

import io
import json
import logging
import os
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.manifest.build import write_manifest
from pipeline.manifest.manifest import open_manifest, read
from pipeline.manifest.unpack import from_hub
from pipeline.storage.files import Files

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(level: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.full((6, 8), level, np.uint8)).save(sink, "PNG")
    return sink.getvalue()


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_of_the_hub_is_unpacked(tmp_path: Path, struct: bool) -> None:
    def cell(data: bytes, name: str) -> Any:
        return {"bytes": data, "path": name} if struct else data

    rows = [
        {"image": cell(png(n), f"{n}.png"), "mask": cell(png(255), "m.png"), "box": [0, 0, 4, n + 1], "source": f"s{n}"}
        for n in range(20)
    ]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "train-0.parquet")
    for source in (tmp_path / "data", tmp_path / "data" / "train-0.parquet"):
        table = from_hub(str(source), str(tmp_path / "out"), Files())
        assert table.column_names == ["item_id", "image_uri", "truth_uri", "box", "source"]
        assert table["item_id"].to_pylist() == [f"train-0-{n:06}" for n in range(20)]
        assert Path(table["image_uri"][7].as_py()).read_bytes() == png(7)
        assert Path(table["truth_uri"][7].as_py()).read_bytes() == png(255)
        assert table["box"][7].as_py() == [0, 0, 4, 8]


@pytest.mark.parametrize("name", ["image", "image_uri", "jpg"])
def test_images_without_masks_are_unpacked(tmp_path: Path, name: str) -> None:
    rows = [{"label": 3, name: {"bytes": png(7), "path": None}, "thumb": png(1)}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    table = from_hub(str(tmp_path / "a.parquet"), str(tmp_path / "out"), Files())
    assert table.column_names == ["item_id", "image_uri", "label"]
    assert Path(table["image_uri"][0].as_py()).read_bytes() == png(7)


def test_a_row_group_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [os.urandom(500_000) for _ in range(100)]
    how: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_batch_size": 1}
    pq.write_table(pa.table({"image": pictures}), tmp_path / "a.parquet", **how)
    before, used = pa.total_allocated_bytes(), list[int]()
    real = Files.write
    monkeypatch.setattr(Files, "write", lambda *given: (used.append(pa.total_allocated_bytes()), real(*given))[1])
    table = from_hub(str(tmp_path / "a.parquet"), str(tmp_path / "out"), Files())
    assert Path(table["image_uri"][99].as_py()).read_bytes() == pictures[99]
    assert max(used) - before < 30_000_000


def test_files_of_both_suffixes_are_unpacked(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.pq"):
        pq.write_table(pa.table({"image": [png(1)]}), tmp_path / name)
    assert from_hub(str(tmp_path), str(tmp_path / "out"), Files())["item_id"].to_pylist() == ["a-000000", "b-000000"]


def test_hostile_ids_stay_below_the_folder(tmp_path: Path) -> None:
    ids = ["../../escape", "/etc/passwd", "a/b", "x" * 500, "nul"]
    rows = [{"item_id": item, "image": png(1), "mask": b"not an image"} for item in ids]
    pq.write_table(pa.Table.from_pylist([*rows, {"item_id": "none", "image": png(1), "mask": None}]), tmp_path / "a.parquet")
    table = from_hub(str(tmp_path / "a.parquet"), str(tmp_path / "out"), Files())
    assert table["item_id"].to_pylist() == [*ids, "none"]
    for column in ("image_uri", "truth_uri"):
        for uri in table[column].to_pylist()[:-1]:
            assert Path(uri).resolve().is_relative_to(tmp_path / "out")
            assert Path(uri).is_file()
    assert table["truth_uri"][-1].as_py() is None
    assert len(list((tmp_path / "out").rglob("*.*"))) == 11


def test_files_of_one_name_in_two_folders_have_their_own_images(tmp_path: Path) -> None:
    for folder, level in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"image": [png(level)], "mask": [png(level)]}), tmp_path / folder / "train.parquet")
    table = from_hub(str(tmp_path), str(tmp_path / "out"), Files())
    assert table["item_id"].to_pylist() == ["a/train-000000", "b/train-000000"]
    for column in ("image_uri", "truth_uri"):
        assert [Path(uri).read_bytes() for uri in table[column].to_pylist()] == [png(1), png(2)]


def test_an_id_given_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["x", "y"], "image": [png(1), png(2)]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"item_id": ["z", "x"], "image": [png(3), png(4)]}), tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r"'x' is given twice: by row 1 of a\.parquet, and by row 2 of b\.parquet"):
        from_hub(str(tmp_path), str(tmp_path / "out"), Files())


def test_rows_without_an_id_are_named_by_their_place(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["x", None, "", None], "image": [png(n) for n in range(4)]}), tmp_path / "a.parquet")
    table = from_hub(str(tmp_path / "a.parquet"), str(tmp_path / "out"), Files())
    assert table["item_id"].to_pylist() == ["x", "a-000001", "a-000002", "a-000003"]
    assert [Path(uri).read_bytes() for uri in table["image_uri"].to_pylist()] == [png(n) for n in range(4)]


def test_other_files_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"photo": ["x"], "mask": [b"x"]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    for name, words in (
        ("a.parquet", "has no column with the bytes of images; its columns are photo, mask"),
        ("b.parquet", "is damaged, or not a Parquet file"),
        ("nowhere", "no Parquet file at or below"),
    ):
        with pytest.raises(ConfigError, match=words):
            from_hub(str(tmp_path / name), str(tmp_path / "out"), Files())


def unpacked(tmp_path: Path, columns: dict[str, Any]) -> pa.Table:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    return from_hub(str(tmp_path / "a.parquet"), str(tmp_path / "out"), Files())


def told(logged: list[logging.LogRecord]) -> str:
    return "\n".join(one.getMessage() for one in logged)


def test_pictures_without_bytes_are_named_by_their_paths(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "b.png").write_bytes(png(2))
    values = [{"bytes": png(1), "path": "x"}, {"bytes": None, "path": "pics/b.png"}, {"bytes": None, "path": None}, None]
    table = unpacked(tmp_path, {"image": pa.array(values, PICTURE), "mask": pa.array([values[1]] * 4, PICTURE)})
    assert table["image_uri"].to_pylist()[1:] == [str(tmp_path / "pics" / "b.png"), None, None]
    assert table["truth_uri"].to_pylist() == [str(tmp_path / "pics" / "b.png")] * 4
    assert "a.parquet: 5 of its pictures are named by a path, and are not in the file" in told(logged)
    assert "a.parquet: 2 of 4 rows have no picture, and their items will fail" in told(logged)


def test_columns_of_lists_of_pictures_are_told(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    several = pa.array([[{"bytes": png(1), "path": "a"}]], pa.list_(PICTURE))
    table = unpacked(tmp_path, {"more": several, "photo": pa.array([png(2)]), "thumb": pa.array([png(3)]), "n": [1]})
    assert Path(table["image_uri"][0].as_py()).read_bytes() == png(2) and table.column_names == ["item_id", "image_uri", "n"]
    assert "left out, since they hold files or have names of the manifest: more, thumb" in told(logged)
    with pytest.raises(ConfigError, match="'images' has several pictures per row: write one row per picture"):
        unpacked(tmp_path, {"images": several, "n": [1]})


@pytest.mark.parametrize("name", ["m.parquet", "m.csv", "m.jsonl"])
def test_nested_columns_go_along_and_their_boxes_are_told(tmp_path: Path, name: str, logged: list[logging.LogRecord]) -> None:
    objects = [{"bbox": [[0, 0, 4, 4], [1, 1, 2, 2]], "category": [1, 2]}]
    columns = {"objects": objects, "boxes": [[[0, 0, 4, 4], [1, 1, 3, 3]]], "day": [date(2026, 11, 30)], "mask": ["none"]}
    table = unpacked(tmp_path, {"image": [png(1)]} | {key: values for key, values in columns.items() if key != "boxes"})
    assert "no boxes are used. If objects.bbox has boxes, write them to a column boxes" in told(logged)
    table = unpacked(tmp_path, {"image": [png(1)]} | columns)
    assert table.drop_columns(["item_id", "image_uri"]).to_pylist()[0] == {key: values[0] for key, values in columns.items()}
    write_manifest(table, str(tmp_path / name), Files())
    manifest = open_manifest(str(tmp_path / name), Files())
    (items,) = read(manifest, manifest.fragments[0], Files())
    assert items["box"].to_pylist() == [[0, 0, 4, 4], [1, 1, 3, 3]]
    carried = items["objects"][0].as_py()
    assert (json.loads(carried) if isinstance(carried, str) else carried) == objects[0]


def test_columns_of_folders_go_along(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "split=train"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"image": [png(1)]}), folder / "a.parquet")
    for source in (tmp_path / "set", folder, folder / "a.parquet"):
        assert from_hub(str(source), str(tmp_path / "out"), Files())["split"].to_pylist() == ["train"]


def test_files_of_other_columns_are_refused(tmp_path: Path) -> None:
    for name, values in (("a", [1]), ("b", ["x"])):
        pq.write_table(pa.table({"image": [png(1)], "n": values}), tmp_path / f"{name}.parquet")
    with pytest.raises(ConfigError, match="have incompatible columns"):
        from_hub(str(tmp_path), str(tmp_path / "out"), Files())
