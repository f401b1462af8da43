"""Ground truth from COCO annotations and from Parquet; nothing is written outside the target folder."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco

from pipeline.errors import ConfigError
from pipeline.manifest.ground_truth import from_coco_masks, from_hub
from pipeline.storage.files import Files


def png(level: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.full((6, 8), level, np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def coco_manifest(tmp_path: Path, segmentations: list[Any], **image: Any) -> pa.Table:
    entry = {"image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 30], "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 100, "width": 120} | image],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [entry | {"id": number, "segmentation": one} for number, one in enumerate(segmentations)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return from_coco_masks(str(tmp_path / "coco.json"), "/photos", str(tmp_path / "masks"), Files())


def test_polygons_and_run_lengths_become_masks(tmp_path: Path) -> None:
    square = np.zeros((100, 120), np.uint8)
    square[20:50, 10:40] = 1
    packed = coco.encode(np.asfortranarray(square))
    compressed = {"size": packed["size"], "counts": packed["counts"].decode()}
    runs = np.flatnonzero(np.diff(square.T.reshape(-1), prepend=0, append=1))
    plain = {"size": [100, 120], "counts": np.diff(runs, prepend=0).tolist()}
    table = coco_manifest(tmp_path, [[[10, 20, 40, 20, 40, 50, 10, 50]], compressed, plain])
    assert table["item_id"].to_pylist() == ["a.jpg#0", "a.jpg#1", "a.jpg#2"]
    assert table["x1"].to_pylist() == [40, 40, 40]
    for uri in table["truth_uri"].to_pylist():
        assert Path(uri).parent == tmp_path / "masks"
        assert np.array_equal(np.asarray(Image.open(uri)), square * 255)


def test_unusable_segmentations_give_no_ground_truth(tmp_path: Path) -> None:
    bad: list[Any] = [None, [], [[1, 2, 3]], "text", {"size": [9, 9], "counts": [81]}, {"size": [100, 120], "counts": [5]}, {}]
    assert coco_manifest(tmp_path, bad)["truth_uri"].to_pylist() == [None] * len(bad)
    huge = coco_manifest(tmp_path, [[[0, 0, 9, 0, 9, 9]]], height=10**6, width=10**6)
    assert huge["truth_uri"].to_pylist() == [None]


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
