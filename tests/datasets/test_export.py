"""Data sets by image: COCO annotations as pycocotools reads them, and palette PNGs."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outputs import SIZE, Write, mask
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pipeline.datasets import rows
from pipeline.datasets.classes import MAX_LABEL
from pipeline.datasets.export import Choices, DatasetReport, Targets, export_dataset
from pipeline.datasets.rows import LabelColumns
from pipeline.errors import ConfigError, StorageError
from pipeline.imaging.png import encode_mask
from pipeline.output import buckets
from pipeline.output.index import write_part
from pipeline.output.layout import output_path
from pipeline.output.output import Output
from pipeline.schema import INDEX
from pipeline.storage.files import Files


def test_objects_are_grouped_by_image(output: Output, write: Write, tmp_path: Path) -> None:
    write({"b/two.jpg#1": mask(10, 5, 30, 20, alpha=200), "a.jpg": mask(0, 0, 40, 30)})
    write({"b/two.jpg#0": mask(0, 0, 20, 10), "b/two.jpg#10": mask(39, 29, 40, 30), "c.png": mask(0, 0, 9, 9, alpha=127)})
    target, folder = tmp_path / "coco.json", tmp_path / "labels"
    report = export_dataset(output, Targets(coco=str(target), indexed=str(folder)))
    assert report == DatasetReport(images=3, objects=4, empty=1, written=[str(target), str(folder)])

    coco = COCO(str(target))
    images = coco.loadImgs(coco.getImgIds())
    assert [(image["file_name"], image["height"], image["width"]) for image in images] == [
        (name, *SIZE) for name in ("a.jpg", "b/two.jpg", "c.png")
    ]
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    assert [one["item_id"] for one in annotations] == ["b/two.jpg#0", "b/two.jpg#1", "b/two.jpg#10"]
    first = annotations[0]
    assert np.array_equal(coco.annToMask(first), mask(0, 0, 20, 10) // 255)
    assert (first["bbox"], first["area"], first["score"], first["iscrowd"]) == ([0, 0, 20, 10], 200, 0.75, 0)
    assert coco_mask.area(first["segmentation"]) == 200
    assert [kind["name"] for kind in coco.loadCats(coco.getCatIds())] == ["object"]

    labels = Image.open(folder / "b" / "two.png")
    assert labels.mode == "P"
    expected = np.zeros(SIZE, int)
    expected[5:20, 10:30], expected[0:10, 0:20], expected[29, 39] = 2, 1, 3
    assert np.array_equal(np.asarray(labels), expected), "where two objects overlap, the more opaque one wins"
    assert not np.asarray(Image.open(folder / "c.png")).any()


def test_annotations_may_be_polygons(output: Output, write: Write, tmp_path: Path) -> None:
    write({"a.jpg#1": mask(5, 5, 20, 20), "a.jpg#2": np.maximum(mask(0, 0, 10, 10), mask(20, 15, 38, 28))})
    export_dataset(output, Targets(coco=str(tmp_path / "c.json")), Choices(coco_polygons=True))
    coco = COCO(str(tmp_path / "c.json"))
    first, second = coco.loadAnns(coco.getAnnIds())
    assert (len(first["segmentation"]), len(second["segmentation"])) == (1, 2)
    assert (first["area"], first["bbox"]) == (225, [5, 5, 15, 15])
    assert (coco.annToMask(first) != mask(5, 5, 20, 20) // 255).sum() <= 4


def test_the_same_index_in_other_parts_gives_the_same_bytes(output: Output, tmp_path: Path, write: Write) -> None:
    masks = {f"photo-{number % 3}.jpg#{number}": mask(number, 0, number + 9, 20) for number in range(12)}
    write(masks)
    export_dataset(output, Targets(coco=str(tmp_path / "one.json")))
    next(Path(output.layout.index).glob("*.parquet")).unlink()
    for item_id in reversed(masks):
        write({item_id: masks[item_id]})
    export_dataset(output, Targets(coco=str(tmp_path / "other.json")))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()
    assert json.loads((tmp_path / "one.json").read_text())["annotations"][-1]["id"] == 12


def test_an_index_of_several_ranges_gives_the_same_bytes(
    output: Output, tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large index is sorted on disk, by ranges of its images' addresses."""
    for number in range(12):
        write({f"photo-{number * 7 % 12}.jpg#{item}": mask(number, 0, number + 9, 20) for item in range(3)}, sku=f"S-{number}")
    export_dataset(output, Targets(coco=str(tmp_path / "one.json")))
    monkeypatch.setattr(buckets, "INDEX_BYTES", 20_000)
    monkeypatch.setattr(buckets, "FLUSH_BYTES", 2_000)
    monkeypatch.setattr(rows, "SAMPLE", 2)
    assert buckets.bucket_count(output.parts()) > 3
    spilled = set()
    real = buckets.Buckets._path
    monkeypatch.setattr(buckets.Buckets, "_path", lambda self, number: spilled.add(number) or real(self, number))
    export_dataset(output, Targets(coco=str(tmp_path / "other.json")))
    assert len(spilled) > 3
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()


def test_classes_and_custom_columns_are_in_the_annotations(output: Output, tmp_path: Path, write: Write) -> None:
    masks = {"a.jpg#1": mask(0, 0, 9, 9), "a.jpg#2": mask(9, 9, 19, 19), "b.jpg": mask(0, 0, 9, 9)}
    write(masks, category=["mug", "bowl", None], sku=["S-1", None, "S-3"], price=[1.5, float("nan"), 3.0], truth_uri="/t.png")
    export_dataset(output, Targets(coco=str(tmp_path / "coco.json")))
    coco = COCO(str(tmp_path / "coco.json"))
    assert {kind["id"]: kind["name"] for kind in coco.loadCats(coco.getCatIds())} == {1: "bowl", 2: "mug", 3: "object"}
    found = [(one["category_id"], one.get("attributes")) for one in coco.loadAnns(coco.getAnnIds())]
    assert found == [(2, {"sku": "S-1", "price": 1.5}), (1, None), (3, {"sku": "S-3", "price": 3.0})]


def test_a_split_has_its_own_file(output: Output, tmp_path: Path, write: Write) -> None:
    write({f"{number}.jpg": mask(0, 0, 9, 9) for number in range(4)}, split=["train", "val", "train", "val"], category="mug")
    report = export_dataset(output, Targets(coco=str(tmp_path / "c.json"), indexed=str(tmp_path / "labels")))
    assert report.written == [str(tmp_path / name) for name in ("c_train.json", "c_val.json", "labels")]
    val = COCO(report.written[1])
    assert [image["file_name"] for image in val.loadImgs(val.getImgIds())] == ["1.jpg", "3.jpg"]
    assert [one["id"] for one in val.loadAnns(val.getAnnIds())] == [1, 2], "ids begin at 1 in each file"
    assert sorted(str(path.relative_to(tmp_path / "labels")) for path in (tmp_path / "labels").rglob("*.png")) == [
        "train/0.png",
        "train/2.png",
        "val/1.png",
        "val/3.png",
    ]


def test_classes_and_splits_may_be_in_columns_of_other_names(output: Output, tmp_path: Path, write: Write) -> None:
    write(
        {"a.jpg": mask(0, 0, 9, 9), "b.jpg": mask(0, 0, 9, 9)}, **{"class": [3, 7], "subset": ["one", "two"]}, category="x", n=1
    )
    labels = LabelColumns("class", "subset")
    report = export_dataset(output, Targets(coco=str(tmp_path / "c.json")), Choices(labels=labels))
    assert report.written == [str(tmp_path / name) for name in ("c_one.json", "c_two.json")]
    one = COCO(report.written[0])
    assert {kind["name"] for kind in one.loadCats(one.getCatIds())} >= {"3"}
    (annotation,) = one.loadAnns(one.getAnnIds())
    assert annotation["attributes"] == {"n": 1}
    with pytest.raises(
        ConfigError, match=r"no column 'klass' \(--category-column\); those of the manifest are: class, n, subset"
    ):
        export_dataset(output, Targets(coco=str(tmp_path / "d.json")), Choices(labels=LabelColumns("klass")))


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (["train", None], "some items have no split; fill the column split"),
        (["train", "  "], "some items have no split; fill the column split"),
        (["train", "../x"], "the split '../x' is no name"),
        (["train", "a b"], "the split 'a b' is no name"),
        (["train", "Train"], "differ by case only"),
        (["train", "val"], r"a\.jpg' is in the splits train and val; the column split must have one value per image"),
    ],
)
def test_splits_that_cannot_be_files_are_refused(
    output: Output, tmp_path: Path, write: Write, splits: list[str | None], words: str
) -> None:
    write({"a.jpg#1": mask(0, 0, 9, 9), "a.jpg#2": mask(0, 0, 9, 9)}, split=splits)
    with pytest.raises(ConfigError, match=words):
        export_dataset(output, Targets(coco=str(tmp_path / "c.json")))
    assert not list(tmp_path.glob("c*.json"))


def test_file_names_are_paths_below_the_manifests_folder(output: Output, tmp_path: Path, write: Write) -> None:
    """They do not depend on the other images, and are relative."""
    write({"shelf/b/a.jpg": mask(0, 0, 9, 9)})
    write({"web": mask(0, 0, 9, 9), "other": mask(0, 0, 9, 9)}, image_uri=["https://host/i/7.jpg?w=9", "/elsewhere/c.jpg"])
    export_dataset(output, Targets(coco=str(tmp_path / "c.json")))
    names = [image["file_name"] for image in json.loads((tmp_path / "c.json").read_text())["images"]]
    assert names == ["elsewhere/c.jpg", "shelf/b/a.jpg", "host/i/7.jpg?w=9"]


def test_images_of_one_file_name_are_told(output: Output, tmp_path: Path, write: Write) -> None:
    write({"bucket/a.jpg": mask(0, 0, 9, 9)})
    write({"other": mask(0, 0, 9, 9)}, image_uri="s3://bucket/a.jpg")
    with pytest.raises(ConfigError, match="several images have the file name 'bucket/a.jpg'"):
        export_dataset(output, Targets(coco=str(tmp_path / "c.json")))
    export_dataset(output, Targets(indexed=str(tmp_path / "labels")))
    assert len(list((tmp_path / "labels").rglob("*.png"))) == 2


def test_images_of_the_same_stem_keep_their_suffix(output: Output, tmp_path: Path, write: Write) -> None:
    write({"a.jpg": mask(0, 0, 9, 9), "a.webp": mask(9, 9, 19, 19), "b.jpg": mask(0, 0, 9, 9)})
    export_dataset(output, Targets(indexed=str(tmp_path / "labels")))
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["a.jpg.png", "a.webp.png", "b.png"]


HOSTILE = [
    "http://host/photos/f?p=/../../../../escape.jpg",
    "http://host/photos/../../up.jpg",
    "/photos/x/../../../../../../tmp/abs.jpg",
    "/photos/./a.jpg",
    "/photos/A.jpg",
    "/photos/a.jpg.tif",
    "/photos/a.jpg/a.png",
    "/photos/a.txt/a.png",
    "/photos/a.webp",
    "/photos/a.jpg",
    "/photos/con.jpg",
    "/photos/images/../images/a.jpg",
    "/photos/new\nline\x1b[31m.jpg",
    "/photos/" + "x" * 400 + ".jpg",
    "s3://bucket//photos//.hidden.jpg",
]
ITEM_IDS = st.text(max_size=20) | st.sampled_from(["../../up", "/etc/x", "a/../../b", "", "\x00", "a.png", "A.png"])


class Photos(Files):
    """Every address has the same photo."""

    def read(self, uri: str, **options: Any) -> bytes:
        return super().read(uri, **options) if "/out/masks/" in uri or "/out/index/" in uri else PHOTO


def png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", SIZE[::-1]).save(data, "PNG")
    return data.getvalue()


PHOTO = png()


@given(
    st.sets(
        st.sampled_from(HOSTILE) | st.text(min_size=1, max_size=30).map(lambda text: f"/photos/{text}"), min_size=2, max_size=12
    ),
    st.lists(ITEM_IDS, min_size=12, max_size=12),
    st.booleans(),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_all_files_stay_in_their_folder_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uris: set[str], ids: list[str], several: bool
) -> None:
    uris = {uri for uri in uris if uri.encode("utf-8", "replace").decode() == uri}
    monkeypatch.setattr("pipeline.storage.allowlist.AllowList.allows", lambda *_: True)
    monkeypatch.setattr("pipeline.storage.allowlist.AllowList.real_path", lambda _, uri: uri)
    folder = tmp_path / secrets.token_hex(8)
    output = Output.at(str(folder / "out"), Photos())
    path = output_path("mask", "one")
    output.write(output.layout.uri(path), encode_mask(mask(0, 0, 9, 9)))
    row = {"status": "ok", "quality": 0.5, "finished_at": 1, "image_sha256": hashlib.sha256(PHOTO).hexdigest()}
    row |= {"height": SIZE[0], "width": SIZE[1], "mask_path": path, "image_bytes": 1}
    rows = [
        row | {"item_id": f"{number}{item_id}", "output_name": item_id, "image_uri": uri}
        for uri, item_id in zip(sorted(uris), ids, strict=False)
        for number in range(1 + several)
    ]
    write_part(output, pa.Table.from_pylist(rows, INDEX))
    before = {path for path in folder.rglob("*") if path.is_file()}
    forms = {name: str(folder / name) for name in ("indexed", "yolo", "imagefolder", "parquet")}
    report = export_dataset(output, Targets(**forms))
    assert not report.without_photo
    made = {path for path in folder.rglob("*") if path.is_file()} - before
    assert all(path.resolve().is_relative_to(folder) and path.relative_to(folder).parts[0] in forms for path in made)
    assert {path for path in tmp_path.iterdir() if path.name.startswith(("up", "escape", "abs"))} == set()
    counts = Counter((path.relative_to(folder).parts[0], path.suffix) for path in made)
    objects = len(uris) * (1 + several)
    assert counts["indexed", ".png"] == len(uris)
    assert counts["yolo", ".png"] == counts["yolo", ".txt"] == len(uris)
    assert counts["imagefolder", ".png"] == len(uris) + objects
    for line in (folder / "imagefolder/train/metadata.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
        for name in ("file_name", "mask_file_name"):
            assert (folder / "imagefolder/train" / json.loads(line)[name]).is_file()


def test_masks_of_an_older_version_of_the_image_are_left_out(output: Output, tmp_path: Path, write: Write) -> None:
    write({"a.jpg#0": mask(0, 0, 9, 9)})
    write({"a.jpg#1": mask(9, 9, 19, 19)}, image_sha256="b", finished_at=2)
    report = export_dataset(output, Targets(coco=str(tmp_path / "coco.json")))
    assert (report.images, report.objects, report.stale) == (1, 1, 1)
    (annotation,) = json.loads((tmp_path / "coco.json").read_text())["annotations"]
    assert annotation["item_id"] == "a.jpg#1"


@pytest.mark.parametrize("source", [None, "none"])
@pytest.mark.parametrize("split", [{}, {"split": ["train", "val"]}])
def test_annotations_of_the_user_are_not_replaced(
    output: Output, tmp_path: Path, write: Write, source: str | None, split: dict[str, list[str]]
) -> None:
    """COCO has its annotations in ``instances_train.json`` and ``instances_val.json``, which are the names of splits here."""
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 1}, {"id": 2, "image_id": 1}]}
    given = tmp_path / ("instances_val.json" if split else "instances.json")
    given.write_text(json.dumps(content))
    masks = {"a.jpg#1": mask(0, 0, 9, 9), "b.jpg#2" if split else "a.jpg#2": mask(0, 0, 9, 9)}
    write(masks, coco_file=str(given), coco_id=["1", "2"], **split)
    with pytest.raises(ConfigError, match=rf"--coco .*{given.name} is what the command reads; choose another name"):
        export_dataset(output, Targets(coco=str(tmp_path / "instances.json")), Choices(source=source))
    assert json.loads(given.read_text()) == content


def test_a_file_that_is_not_coco_is_not_replaced(output: Output, tmp_path: Path, write: Write) -> None:
    write({f"{number}.jpg": mask(0, 0, 9, 9) for number in range(2)}, split=["train", "val"])
    (tmp_path / "c_val.json").write_text('{"images": []}')
    with pytest.raises(ConfigError, match=r"--coco .*c_val\.json exists, and this command did not write it"):
        export_dataset(output, Targets(coco=str(tmp_path / "c.json")))
    (tmp_path / "c_val.json").unlink()
    for _ in range(2):  # its own files are replaced
        export_dataset(output, Targets(coco=str(tmp_path / "c.json")))


@pytest.mark.parametrize(("one", "other"), [("sets", "sets"), ("sets", "sets/hub"), ("sets/folder", "sets")])
def test_forms_need_folders_of_their_own(output: Output, tmp_path: Path, write: Write, one: str, other: str) -> None:
    write({"a.jpg": mask(0, 0, 9, 9)})
    with pytest.raises(ConfigError, match="give each form a folder of its own"):
        export_dataset(output, Targets(imagefolder=str(tmp_path / one), parquet=str(tmp_path / other)))
    export_dataset(output, Targets(imagefolder=str(tmp_path / "sets"), parquet=str(tmp_path / "sets-2")))


def test_the_number_of_splits_is_limited(output: Output, tmp_path: Path, write: Write) -> None:
    write({f"{number}.jpg": mask(0, 0, 9, 9) for number in range(51)}, split=[f"s{number}" for number in range(51)])
    with pytest.raises(ConfigError, match="there are 51 splits, such as 's0'; a set may have 50"):
        export_dataset(output, Targets(coco=str(tmp_path / "c.json")))


def test_impossible_exports_are_refused(output: Output, tmp_path: Path, write: Write) -> None:
    with pytest.raises(ConfigError, match="no masks in"):
        export_dataset(output, Targets(coco=str(tmp_path / "coco.json")))
    write({"gone.jpg": mask(0, 0, 9, 9)}, status="failed", mask_path=None)
    with pytest.raises(ConfigError, match="no masks in"):
        export_dataset(output, Targets(coco=str(tmp_path / "coco.json")))
    write({f"many.jpg#{number}": mask(0, 0, 9, 9) for number in range(MAX_LABEL + 1)})
    with pytest.raises(ConfigError, match="has 255 objects, but a palette holds 254"):
        export_dataset(output, Targets(indexed=str(tmp_path / "labels")))
    assert export_dataset(output, Targets(coco=str(tmp_path / "coco.json"))).objects == 255
    Path(output.layout.uri("masks/many.jpg#7.png")).write_bytes(b"")
    with pytest.raises(StorageError, match="run matteline verify"):
        export_dataset(output, Targets(coco=str(tmp_path / "coco.json")))


@pytest.mark.parametrize("path", ["../secret.png", "masks/../../secret.png"])
def test_a_mask_outside_the_output_is_not_exported(output: Output, tmp_path: Path, write: Write, path: str) -> None:
    (tmp_path / "secret.png").write_bytes(encode_mask(mask(0, 0, 9, 9)))
    write({"a.jpg": mask(0, 0, 9, 9)}, mask_path=path)
    with pytest.raises(StorageError, match="is not a path inside the output; run matteline verify"):
        export_dataset(output, Targets(coco=str(tmp_path / "coco.json")))
    assert not (tmp_path / "coco.json").exists()


@pytest.mark.parametrize("column", ["height", "quality", "image_uri", "finished_at"])
def test_a_row_without_a_needed_column_is_refused(output: Output, tmp_path: Path, write: Write, column: str) -> None:
    write({"a.jpg": mask(0, 0, 9, 9)}, **{column: None})
    with pytest.raises(StorageError, match=f"has no {column}; run matteline verify"):
        export_dataset(output, Targets(coco=str(tmp_path / "coco.json")))
