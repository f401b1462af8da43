"""COCO to manifest to COCO: what the source says stays, except the geometry of objects with a mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outputs import SIZE, Write, mask
from PIL import Image
from pycocotools.coco import COCO

from pipeline.config.job import load_job
from pipeline.datasets.coco_source import JsonMembers
from pipeline.datasets.export import Choices, DatasetReport, Targets, export_dataset
from pipeline.errors import ConfigError
from pipeline.manifest.build import write_manifest
from pipeline.manifest.coco import from_coco
from pipeline.output.output import Output
from pipeline.run.driver import run_job
from pipeline.storage.files import Files

GEOMETRY = ("segmentation", "area", "bbox")


def annotation(number: Any, image: int, category: int, **more: Any) -> dict[str, Any]:
    square = {"bbox": [2, 3, 20, 15], "area": 300.0, "segmentation": [[2, 3, 22, 3, 22, 18, 2, 18]], "iscrowd": 0}
    return {"id": number, "image_id": image, "category_id": category} | square | more


def source() -> dict[str, Any]:
    """A file with what real ones have: licences, unused categories, crowds, empty images, ids in no order, further keys."""
    images = [
        {
            "license": 4,
            "file_name": "b.jpg",
            "id": 9,
            "height": SIZE[0],
            "width": SIZE[1],
            "date_captured": "2013-11-14 17:02:52",
        },
        {"license": 1, "file_name": "sub/a.jpg", "id": 397133, "height": SIZE[0], "width": SIZE[1]},
        {"license": 1, "file_name": "nothing-in-it.jpg", "id": 5, "height": SIZE[0], "width": SIZE[1]},
    ]
    rle = {"counts": [10, 5, 1185], "size": list(SIZE)}
    annotations = [
        annotation(82445, 397133, 44, attributes={"occluded": True}),
        annotation(900100, 9, 3, iscrowd=1, segmentation=rle),
        annotation(7, 9, 44, keypoints=[1, 2, 2], num_keypoints=1),
        annotation(8, 397133, 3, segmentation=[[0, 0, 9, 0, 9, 9]]),
    ]
    categories = [
        {"supercategory": "kitchen", "id": 44, "name": "bottle"},
        {"supercategory": "vehicle", "id": 3, "name": "car"},
        {"supercategory": "animal", "id": 17, "name": "cat"},
    ]
    return {
        "info": {"year": 2017, "description": "Flaschen und Autos, ÄÖÜ"},
        "licenses": [{"url": "http://…", "id": 1}],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def write_source(path: Path, content: dict[str, Any] | None = None) -> str:
    path.write_text(json.dumps(content or source()), encoding="utf-8")
    return str(path)


@pytest.fixture
def exported(output: Output, write: Write, tmp_path: Path) -> dict[str, Any]:
    """What ``write`` needs for the items of the source: one mask is empty."""
    masks = {"sub/a.jpg#82445": mask(1, 1, 9, 9), "sub/a.jpg#8": mask(9, 9, 9, 9), "b.jpg#7": mask(0, 0, 30, 20)}
    ids = [item_id.partition("#")[2] for item_id in masks]
    return {
        "masks": masks,
        "coco_id": ids,
        "coco_file": write_source(tmp_path / "source.json"),
        "category": ["bottle", "car", "bottle"],
    }


def export(output: Output, target: Path, **choices: Any) -> DatasetReport:
    return export_dataset(output, Targets(coco=str(target)), Choices(**choices))


def test_only_the_geometry_differs_after_a_run(tmp_path: Path, make_photos: Any, fake_preset: str) -> None:
    """With the command's own steps: from COCO to a manifest, through a run, to COCO."""
    first, second, third = make_photos(tmp_path / "photos", 3)
    content = source()
    for image, path in zip(content["images"], (first, second, third), strict=True):
        image["file_name"] = path.name
        image["width"], image["height"] = Image.open(path).size
    for place, one in enumerate(content["annotations"]):
        one["bbox"] = [10, 10, 40 + 10 * place, 60]
    files = Files()
    path = write_source(tmp_path / "source.json", content)
    write_manifest(from_coco(path, str(tmp_path / "photos"), files), str(tmp_path / "m.csv"), files)
    run_job(load_job(manifest=str(tmp_path / "m.csv"), output=str(tmp_path / "out"), preset=fake_preset))
    report = export(Output.at(str(tmp_path / "out"), files), tmp_path / "new.json")
    made = json.loads((tmp_path / "new.json").read_text(encoding="utf-8"))
    assert list(made) == list(content)
    assert {key: value for key, value in made.items() if key != "annotations"} == {
        key: value for key, value in content.items() if key != "annotations"
    }
    changed = 0
    for new, old in zip(made["annotations"], content["annotations"], strict=True):
        assert {key for key in old.keys() | new.keys() if new.get(key) != old.get(key)} <= set(GEOMETRY)
        changed += new != old
        if not old["iscrowd"]:
            assert set(new["segmentation"]) == {"size", "counts"}
    assert (changed, report.kept) == (3, 1), "the crowd has no item"
    coco = COCO(str(tmp_path / "new.json"))
    assert [kind["id"] for kind in coco.loadCats(coco.getCatIds(catNms=["bottle"]))] == [44]
    for one in coco.loadAnns(coco.getAnnIds(iscrowd=False)):
        assert coco.annToMask(one).sum() == one["area"] > 0


def test_what_has_no_mask_keeps_its_geometry(output: Output, write: Write, tmp_path: Path, exported: dict[str, Any]) -> None:
    write(**exported)
    report = export(output, tmp_path / "new.json")
    assert (report.images, report.objects, report.empty, report.kept) == (2, 2, 1, 2)
    made = {one["id"]: one for one in json.loads((tmp_path / "new.json").read_text())["annotations"]}
    old = {one["id"]: one for one in source()["annotations"]}
    assert made[900100] == old[900100] and made[8] == old[8], "a crowd, and an empty mask"
    assert made[7]["bbox"] == [0, 0, 30, 20] and made[7]["area"] == 600 and made[7]["num_keypoints"] == 1
    assert made[82445]["attributes"] == {"occluded": True}


def test_custom_columns_are_added_to_the_attributes(
    output: Output, write: Write, tmp_path: Path, exported: dict[str, Any]
) -> None:
    write(**exported, sku=["S-1", None, "S-3"], occluded=[False, False, False])
    export(output, tmp_path / "new.json")
    made = {one["id"]: one.get("attributes") for one in json.loads((tmp_path / "new.json").read_text())["annotations"]}
    assert made == {82445: {"sku": "S-1", "occluded": True}, 900100: None, 7: {"sku": "S-3", "occluded": False}, 8: None}


def test_splits_have_their_own_files(output: Output, write: Write, tmp_path: Path, exported: dict[str, Any]) -> None:
    write(**exported, split=["train", "train", "val"])
    report = export(output, tmp_path / "instances.json")
    assert report.written == [str(tmp_path / f"instances_{split}.json") for split in ("train", "val")]
    assert report.no_split == 1, "nothing-in-it.jpg has no item"
    train, val = (json.loads(Path(path).read_text()) for path in report.written)
    assert [image["id"] for image in train["images"]] == [397133] and [image["id"] for image in val["images"]] == [9]
    assert [one["id"] for one in train["annotations"]] == [82445, 8]
    assert [one["id"] for one in val["annotations"]] == [900100, 7]
    assert train["categories"] == val["categories"] == source()["categories"]


def test_two_sources_need_a_split_each(output: Output, write: Write, tmp_path: Path, exported: dict[str, Any]) -> None:
    other = source()
    other["images"], other["annotations"] = other["images"][:1], [annotation(7, 9, 44)]
    other["images"][0]["file_name"] = "val/b.jpg"
    files = [
        write_source(tmp_path / "source.json"),
        write_source(tmp_path / "source.json"),
        write_source(tmp_path / "val.json", other),
    ]
    masks = {"sub/a.jpg#82445": mask(1, 1, 9, 9), "b.jpg#7": mask(0, 0, 30, 20), "val/b.jpg#7": mask(0, 0, 10, 20)}
    columns: dict[str, Any] = {"coco_file": files, "coco_id": ["82445", "7", "7"]}
    write(masks, **columns)
    with pytest.raises(ConfigError, match="give the manifest a column split with one value per file"):
        export(output, tmp_path / "new.json")
    write(masks, **columns, split=["train", "train", "val"])
    report = export(output, tmp_path / "new.json")
    train, val = (json.loads(Path(path).read_text()) for path in report.written)
    assert len(train["images"]) == 3 and len(val["images"]) == 1, "a source of one split is written completely"
    assert val["annotations"][0]["area"] == 200


def test_a_source_that_was_moved_is_asked_for(output: Output, write: Write, tmp_path: Path, exported: dict[str, Any]) -> None:
    write(**exported)
    (tmp_path / "source.json").rename(tmp_path / "moved.json")
    with pytest.raises(ConfigError, match=r"source\.json.*does not exist; .*--source FILE; --source none"):
        export(output, tmp_path / "new.json")
    export(output, tmp_path / "new.json", source=str(tmp_path / "moved.json"))
    assert len(json.loads((tmp_path / "new.json").read_text())["licenses"]) == 1
    export(output, tmp_path / "own.json", source="none")
    own = json.loads((tmp_path / "own.json").read_text())
    assert [one["name"] for one in own["categories"]] == ["bottle", "car"] and [one["id"] for one in own["annotations"]] == [
        1,
        2,
    ]


def test_files_have_the_names_of_the_source(output: Output, write: Write, tmp_path: Path, exported: dict[str, Any]) -> None:
    """Also of photos outside the manifest's folder, and of one name in two folders."""
    write(**exported | {"coco_file": write_source(tmp_path / "source.json")})
    write({"sub/a.jpg#9": mask(1, 1, 9, 9)}, coco_id="9", coco_file="x", image_uri="s3://bucket/train/sub/a.jpg")
    targets = Targets(indexed=str(tmp_path / "labels"))
    export_dataset(output, targets)
    names = sorted(str(path.relative_to(tmp_path / "labels")) for path in (tmp_path / "labels").rglob("*.png"))
    assert names[0] == "b.png" and [name.partition("~")[0] for name in names[1:]] == ["sub/a.jpg", "sub/a.jpg"]
    export(output, tmp_path / "own.json", source="none")
    made = json.loads((tmp_path / "own.json").read_text())
    assert [image["file_name"] for image in made["images"]] == ["b.jpg", "sub/a.jpg", "bucket/train/sub/a.jpg"]


def test_a_relative_source_is_found_beside_the_manifest(
    output: Output, write: Write, tmp_path: Path, exported: dict[str, Any]
) -> None:
    write_source(tmp_path / "photos" / "source.json")
    write(**exported | {"coco_file": "source.json"})
    export(output, tmp_path / "new.json")
    assert json.loads((tmp_path / "new.json").read_text())["info"]["year"] == 2017


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "is not COCO JSON"),
        ('{"images": [], "annotations": [{"id": 1}', "is not COCO JSON"),
        ('{"annotations": [{"id": 1}]}', "which no annotation in .* has; give the file from which"),
        ('{"annotations": [3]}', "which no annotation in .* has"),
        ("[" * 100_000, "is not COCO JSON"),
        ('{"annotations": ' + "[" * 100_000, "is not COCO JSON"),
    ],
)
def test_another_file_is_refused_before_work(
    output: Output, write: Write, tmp_path: Path, exported: dict[str, Any], content: str, words: str
) -> None:
    write(**exported)
    (tmp_path / "source.json").write_text(content)
    with pytest.raises(ConfigError, match=words):
        export(output, tmp_path / "new.json")


def test_an_id_of_two_annotations_is_refused_if_an_item_has_it(
    output: Output, write: Write, tmp_path: Path, exported: dict[str, Any]
) -> None:
    """Both would get the mask of the item."""
    content = source()
    content["annotations"] += [annotation(8, 9, 3), annotation(900100, 397133, 3)]
    write(**exported | {"coco_file": write_source(tmp_path / "source.json", content)})
    with pytest.raises(ConfigError, match=r"coco_id '8', which two annotations in .*source\.json have; .*--source none"):
        export(output, tmp_path / "new.json")


def test_an_exact_repeat_of_an_annotation_is_the_same_one(
    output: Output, write: Write, tmp_path: Path, exported: dict[str, Any]
) -> None:
    """``matteline manifest --coco`` leaves it out."""
    content = source()
    content["annotations"].append(dict(content["annotations"][0]))
    write(**exported | {"coco_file": write_source(tmp_path / "source.json", content)})
    export(output, tmp_path / "new.json")
    made = json.loads((tmp_path / "new.json").read_text())["annotations"]
    assert made[0] == made[-1] and made[0]["bbox"] != content["annotations"][0]["bbox"]


@pytest.mark.parametrize("split", [None, ["train", "train", "val"]])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_the_manifest_left_out_stays_as_it_is(
    output: Output, write: Write, tmp_path: Path, exported: dict[str, Any], split: list[str] | None, encoding: str
) -> None:
    content = source()
    content["categories"] += [{"id": 5}, {"name": "x"}, None, {"id": "9" * 5000, "name": "more digits than Python reads"}]
    content["images"] += [{"file_name": "without-id.jpg"}, None]
    content["annotations"] += [{"image_id": 9}, None, {"id": 12, "category_id": 44}]
    content["annotations"][0]["image_id"] = "397133"
    (tmp_path / "source.json").write_text(json.dumps(content), encoding=encoding)
    write(**exported | {"coco_file": str(tmp_path / "source.json")} | ({"split": split} if split else {}))
    report = export(output, tmp_path / "new.json")
    made = [json.loads(Path(path).read_text(encoding="utf-8")) for path in report.written]
    assert made[0]["categories"] == content["categories"]
    annotations = [one for part in made for one in part["annotations"]]
    assert [one for one in content["annotations"][4:] if one in annotations] == content["annotations"][4 : 5 if split else None]
    changed = [one["id"] for one in annotations if one not in content["annotations"]]
    assert sorted(changed) == [7, 82445]


def test_a_source_may_have_null_for_categories(output: Output, write: Write, tmp_path: Path, exported: dict[str, Any]) -> None:
    """``matteline manifest --coco`` takes it, too."""
    content = source() | {"categories": None}
    write(**exported | {"coco_file": write_source(tmp_path / "source.json", content)})
    export(output, tmp_path / "new.json")
    assert json.loads((tmp_path / "new.json").read_text())["categories"] is None


def test_a_source_without_use_is_refused(output: Output, write: Write, tmp_path: Path) -> None:
    write({"a.jpg": mask(0, 0, 9, 9)})
    with pytest.raises(ConfigError, match="was not built from COCO annotations, so --source has no use"):
        export(output, tmp_path / "new.json", source=write_source(tmp_path / "source.json"))
    write({"b.jpg#7": mask(0, 0, 9, 9)}, coco_id="7", coco_file=str(tmp_path / "source.json"))
    with pytest.raises(ConfigError, match="some items are not from COCO annotations; use --source none"):
        export(output, tmp_path / "new.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, max_size=5), st.sampled_from([None, 1, "\t"]))
def test_members_are_those_of_the_object(content: dict[str, Any], indent: int | str | None) -> None:
    members = JsonMembers(json.dumps(content, indent=indent))
    for _ in range(2):
        assert {key: value if not hasattr(value, "__next__") else list(value) for key, value in members} == content
    assert [key for key, _ in members] == list(content), "lists that are not read are skipped"
