"""The settings that an output records, and what is refused because of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.config.presets import load_preset
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, StorageError
from pipeline.output.output import Output, find_outputs
from pipeline.output.settings import (
    differences,
    folders_in_the_way,
    object_folders,
    read_settings,
    recipe_label,
    settings_of,
    write_settings,
)

Make = Callable[..., Recipe]
RENDITIONS = [{"name": "hero", "size_px": [640, 1280]}, {"name": "coco", "what": "rle"}]


@pytest.fixture
def make(fake_preset: str) -> Make:
    """``make(frame_px=96)``: a recipe."""
    return lambda **settings: load_preset(fake_preset, settings).recipe


@pytest.fixture
def output(where: Any) -> Output:
    return Output.at(f"{where.root}/out", where.files)


def changes(before: Recipe, now: Recipe, name: str | None = None, new_name: str | None = None) -> list[str]:
    recorded = json.loads(json.dumps(settings_of(before, name)))
    return list(differences(recorded, settings_of(now, new_name)))


def test_settings_are_read_as_they_were_written(make: Make, output: Output) -> None:
    assert read_settings(output) is None and recipe_label(output) == ""
    recipe = make(renditions=RENDITIONS)
    settings = settings_of(recipe, "{sku}/größe")
    write_settings(output, settings)
    assert read_settings(output) == settings
    assert recipe_label(output) == recipe.label()
    assert output.exists() and find_outputs(output.folder, output.files) == [output]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"recipe": {}, "renditions": {}, "fingerprint": "0"}', b"\xff", b"[" * 5000]
)
def test_damaged_settings_are_refused(output: Output, content: bytes) -> None:
    output.write(output.layout.recipe, content)
    with pytest.raises(
        StorageError, match=r"_matteline/recipe\.json cannot be read .*; restore it, or run into another output"
    ):
        read_settings(output)


def test_differences_in_words(make: Make) -> None:
    assert changes(make(), make()) == []
    assert changes(make(), make(frame_px=96, sharpen=3)) == ["recipe.frame_px 64, now 96", "recipe.sharpen 1.0, now 3.0"]
    assert changes(make(), make(refiner="none")) == ['recipe.refiner "guided", now "none"']
    assert changes(make(), make(), None, "{sku}/{item_id}") == ['output.name null, now "{sku}/{item_id}"']
    (long,) = changes(make(), make(mean=[0.123456789012345, 0.2345678901234567, 0.34567890123456789]))
    assert long == "recipe.mean [0.485, 0.456, 0.406], now [0.123456789012345, 0.23456789012345…]"


def test_settings_without_the_model_are_no_difference(make: Make) -> None:
    derived = make(renditions=RENDITIONS, outputs=["mask"], review_below=0.5, name="another")
    assert changes(make(), derived) == []
    recorded = settings_of(derived, None)
    assert (recorded["outputs"], recorded["review_below"]) == (["mask"], 0.5)
    assert recorded["renditions"] == {one.name: one.fingerprint() for one in derived.renditions}
    assert recorded["folders"] == ["coco", "hero-1280", "hero-640"]


def test_a_setting_that_a_version_adds_or_removes_is_a_difference(make: Make) -> None:
    recorded, now = settings_of(make(), None), settings_of(make(), None)
    del recorded["recipe"]["sharpen"]
    recorded["recipe"]["soften"] = 2
    assert list(differences(recorded, now)) == ["recipe.sharpen null, now 1.0", "recipe.soften 2, now null"]


def test_folders_of_objects_include_those_of_former_renditions() -> None:
    assert object_folders(None) == ["masks", "cutouts", "trimaps"]
    assert object_folders({"folders": ["former", "hero-640"]}) == ["masks", "cutouts", "trimaps", "former", "hero-640"]


@pytest.mark.parametrize("folder", ["masks", "cutouts", "trimaps", "index", "hero-640", "coco"])
def test_a_folder_that_is_in_the_way(make: Make, output: Output, where: Any, folder: str) -> None:
    recipe = make(renditions=RENDITIONS)
    for beside in ("hero", "hero-6400", "maskss", "photos"):
        where.put(f"out/{beside}/x.png", b"mine")
    where.put("out/report.html", b"mine")
    assert folders_in_the_way(output, recipe) == []
    where.put(f"out/{folder}/x.png", b"mine")
    assert folders_in_the_way(output, recipe) == [folder]


def test_outputs_of_older_versions_are_refused(where: Any) -> None:
    where.put("out/mvanet-lite-db88ec0dbc45/recipe.json", b"{}")
    where.put("out/mvanet-lite-db88ec0dbc45/index/part-0.parquet", b"")
    with pytest.raises(ConfigError, match=r"out was written by matteline before 0\.2, .* run again into another output"):
        find_outputs(f"{where.root}/out", where.files)
    assert find_outputs(f"{where.root}/nowhere", where.files) == []


@pytest.mark.parametrize("folder", ["../photos", "index", "_matteline", "/tmp", "", ".", "a/b"])
def test_settings_with_a_folder_of_no_rendition_are_refused(make: Make, output: Output, folder: str) -> None:
    """Files without a row are garbage in the recorded folders, so a damaged name could lead elsewhere."""
    write_settings(output, settings_of(make(), None) | {"folders": [folder]})
    with pytest.raises(StorageError, match="is no folder of a rendition"):
        read_settings(output)


@pytest.mark.parametrize(
    "change", [{"fingerprint": 1}, {"recipe": []}, {"outputs": "mask"}, {"complete": "yes"}, {"renditions": []}]
)
def test_settings_of_other_types_are_refused(make: Make, output: Output, change: dict[str, Any]) -> None:
    write_settings(output, settings_of(make(), None) | change)
    with pytest.raises(StorageError, match=f"cannot be read .{min(change)}"):
        read_settings(output)
