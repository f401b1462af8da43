"""Data sets that Hugging Face ``datasets`` reads."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import DatasetDict, Features, Value, load_dataset
from datasets import Image as ImageFeature
from outputs import Write, mask
from PIL import Image

from pipeline.datasets import hub_parquet, image_folder
from pipeline.datasets.export import Targets, export_dataset
from pipeline.output.output import Output

Load = Callable[..., DatasetDict]

FORMS = ["imagefolder", "parquet"]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """``load_dataset`` without network, with an own cache."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    return lambda *args, **options: load_dataset(*args, cache_dir=str(tmp_path / "cache"), **options)


def export(output: Output, form: str, folder: Path) -> str:
    export_dataset(output, Targets(**{form: str(folder)}))
    return str(folder)


@pytest.mark.parametrize("form", FORMS)
def test_datasets_reads_pictures_and_columns(output: Output, write: Write, load: Load, tmp_path: Path, form: str) -> None:
    masks = {"shelf/a.jpg#1": mask(0, 0, 9, 9, alpha=90), "shelf/a.jpg#2": mask(9, 9, 20, 20), "b.png": mask(1, 1, 2, 2)}
    day = [dt.date(2026, 1, 2), None, dt.date(2026, 1, 3)]
    write(masks, category=["mug", "bowl", None], price=[1.5, float("nan"), None], tags=[["a", "b"], [], None], day=day)
    loaded = load(export(output, form, tmp_path / "set"))["train"]
    assert [row["item_id"] for row in loaded] == ["b.png", "shelf/a.jpg#1", "shelf/a.jpg#2"]
    assert isinstance(loaded.features["image"], ImageFeature) and isinstance(loaded.features["mask"], ImageFeature)
    for row in loaded:
        assert np.array_equal(np.asarray(row["mask"]), masks[row["item_id"]])
        photo = Image.open(tmp_path / "photos" / row["item_id"].partition("#")[0])
        assert np.array_equal(np.asarray(row["image"]), np.asarray(photo))
    assert loaded["category"][:] == ["object", "mug", "bowl"] and loaded["status"][:] == ["ok"] * 3
    assert loaded["quality"][:] == [0.75] * 3 and loaded["price"][1] == 1.5
    assert loaded["tags"][:] == [None, ["a", "b"], []]
    assert str(loaded["day"][1]).startswith("2026-01-02")


@pytest.mark.parametrize("form", FORMS)
def test_splits_are_those_of_the_column(output: Output, write: Write, load: Load, tmp_path: Path, form: str) -> None:
    """Also a name that ``datasets`` does not know, and a photo whose name is one that it knows."""
    splits = ["train", "fold_1", "train", "test"]
    write(
        {"a.jpg": mask(1, 1, 9, 9), "b.jpg": mask(1, 1, 9, 9), "test.jpg": mask(1, 1, 9, 9), "d.jpg": mask(1, 1, 9, 9)},
        split=splits,
    )
    loaded = load(export(output, form, tmp_path / "set"))
    assert {split: rows["item_id"][:] for split, rows in loaded.items()} == {
        "train": ["a.jpg", "test.jpg"],
        "fold_1": ["b.jpg"],
        "test": ["d.jpg"],
    }


def test_imagefolder_reads_a_folder_of_one_split(output: Output, write: Write, load: Load, tmp_path: Path) -> None:
    write({"a.jpg": mask(1, 1, 9, 9), "b.jpg": mask(1, 1, 9, 9)}, split=["train", "validation"])
    folder = export(output, "imagefolder", tmp_path / "set")
    assert {split: len(rows) for split, rows in load("imagefolder", data_dir=folder).items()} == {"train": 1, "validation": 1}
    assert sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()) == [
        "README.md",
        "train/images/a.jpg",
        "train/masks/a.png",
        "train/metadata.jsonl",
        "validation/images/b.jpg",
        "validation/masks/b.png",
        "validation/metadata.jsonl",
    ]


@pytest.mark.parametrize("form", FORMS)
def test_columns_that_mean_something_else_there_are_renamed(
    output: Output, write: Write, load: Load, tmp_path: Path, form: str
) -> None:
    """``imagefolder`` opens what a column ``*_file_name`` names, so a stranger's manifest could name any file."""
    columns = {"file_name": "/etc/hostname", "old_file_name": "../../x", "image": "i", "mask": "m", "mask_": "m_"}
    write({"a.jpg": mask(1, 1, 9, 9)}, **columns, truth_uri="/data/truth/a.png")
    (row,) = load(export(output, form, tmp_path / "set"))["train"]
    assert {name: row[name] for name in ("file_name_", "old_file_name_", "image_", "mask_", "mask__")} == {
        "file_name_": "/etc/hostname",
        "old_file_name_": "../../x",
        "image_": "i",
        "mask_": "m",
        "mask__": "m_",
    }
    assert "truth_uri" not in row, "a path that means nothing elsewhere"


def test_manifests_of_several_types_become_one_column(output: Output, write: Write, load: Load, tmp_path: Path) -> None:
    write({"a.jpg": mask(1, 1, 9, 9)}, sku=7, price=1)
    write({"b.jpg": mask(1, 1, 9, 9)}, sku="B-7", price=2.5)
    write({"c.jpg": mask(1, 1, 9, 9)})
    loaded = load(export(output, "parquet", tmp_path / "set"))["train"]
    assert loaded["sku"][:] == ["7", "B-7", None] and loaded["price"][:] == [1.0, 2.5, None]


def test_the_schema_names_the_features(output: Output, write: Write, tmp_path: Path) -> None:
    write({"a.jpg": mask(1, 1, 9, 9)}, weight=[1.5])
    folder = export(output, "parquet", tmp_path / "set")
    schema = pq.read_schema(f"{folder}/data/train-00000.parquet")
    features = Features.from_arrow_schema(schema)
    assert (
        features["image"] == ImageFeature()
        and features["weight"] == Value("float64")
        and features["quality"] == Value("float32")
    )
    assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert json.loads(schema.metadata[b"huggingface"])["info"]["features"]["mask"] == {"_type": "Image"}


def test_large_sets_are_several_files_of_small_row_groups(
    output: Output, write: Write, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({f"{number:02}.jpg": mask(1, 1, 9, 9) for number in range(10)})
    monkeypatch.setattr(hub_parquet, "ROW_GROUP_ROWS", 2)
    monkeypatch.setattr(hub_parquet, "ROW_GROUP_BYTES", 10_000)
    monkeypatch.setattr(hub_parquet, "FILE_BYTES", 15_000)
    folder = Path(export(output, "parquet", tmp_path / "set"))
    files = [pq.ParquetFile(path) for path in sorted((folder / "data").iterdir())]
    assert len(files) > 1 and sum(file.metadata.num_rows for file in files) == 10
    assert {file.metadata.row_group(group).num_rows for file in files for group in range(file.num_row_groups)} == {2}
    assert load(str(folder))["train"]["item_id"][:] == [f"{number:02}.jpg" for number in range(10)]


def test_parquet_holds_the_files_as_they_are(output: Output, write: Write, tmp_path: Path) -> None:
    write({"shelf/a.jpg": mask(1, 1, 9, 9, alpha=77)})
    folder = export(output, "parquet", tmp_path / "set")
    (row,) = pq.read_table(f"{folder}/data/train-00000.parquet").to_pylist()
    assert row["image"] == {"bytes": (tmp_path / "photos/shelf/a.jpg").read_bytes(), "path": "shelf/a.jpg"}
    assert row["mask"]["path"] == "shelf/a.png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"]))), mask(1, 1, 9, 9, alpha=77))


def test_one_row_per_object_and_a_name_per_mask(output: Output, write: Write, load: Load, tmp_path: Path) -> None:
    """If any image has several masks, all names end in a number, so ``a-1`` and the second mask of ``a`` stay apart."""
    write(
        {"a.jpg#0": mask(0, 0, 5, 5), "a.jpg#1": mask(5, 5, 9, 9), "a-1.jpg": mask(9, 9, 12, 12), "a-2.jpg": mask(1, 1, 2, 2)}
    )
    folder = export(output, "imagefolder", tmp_path / "set")
    names = sorted(path.name for path in Path(folder, "train/masks").iterdir())
    assert names == ["a-1-1.png", "a-1.png", "a-2-1.png", "a-2.png"]
    loaded: Any = load(folder)["train"]
    assert [int((np.asarray(row["mask"]) > 0).sum()) for row in loaded] == [9, 1, 25, 16]


@pytest.mark.parametrize(
    "columns", [{"note": [None, "x", None]}, {"sizes": [[1, 2], None, []]}, {"day": [None, dt.date(2026, 1, 2), None]}]
)
def test_a_column_that_one_split_lacks_has_a_type(
    output: Output, write: Write, load: Load, tmp_path: Path, columns: dict[str, Any]
) -> None:
    """``datasets`` compares the types of all splits, and JSON has none for null."""
    masks = {"a.jpg": mask(1, 1, 9, 9), "b.jpg": mask(1, 1, 9, 9), "c.jpg": mask(1, 1, 9, 9)}
    write(masks, split=["train", "val", "val"], **columns)
    folder = export(output, "imagefolder", tmp_path / "set")
    assert not list(Path(folder).rglob("*.jsonl"))
    loaded = load(folder)
    (name, values), *_ = columns.items()
    expected = [value.isoformat() if isinstance(value, dt.date) else value for value in values]
    assert [*loaded["train"][name][:], *loaded["val"][name][:]] == expected


def test_a_column_without_values_at_the_beginning_has_a_type(
    output: Output, write: Write, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_folder, "READ_AT_ONCE", 300)
    write({f"{number}.jpg": mask(1, 1, 9, 9) for number in range(3)}, note=[None, None, "x"])
    folder = Path(export(output, "imagefolder", tmp_path / "set"))
    assert (folder / "train/metadata.parquet").exists()
    assert load(str(folder))["train"]["note"][:] == [None, None, "x"]
