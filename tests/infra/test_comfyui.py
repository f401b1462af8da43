"""The pack for ComfyUI gives what the Python API gives, and refuses what it does not offer."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.rendition import load_rendition
from pipeline.errors import ConfigError, ItemRefused, PromptError
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.renditions.render import render
from pipeline.segmenter import Segmenter

sys.path.append(str(Path(__file__).resolve().parent))

import comfyui_stand_ins as stand_ins

Nodes = dict[str, Any]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, fake_preset: str) -> Path:
    """ComfyUI's folder, in which the user has a preset."""
    base = tmp_path_factory.mktemp("comfyui")
    (base / "models" / "matteline").mkdir(parents=True)
    (base / "models" / "matteline" / "fake.yaml").write_bytes(Path(fake_preset).read_bytes())
    return base


@pytest.fixture(scope="session")
def pack(base: Path) -> Iterator[ModuleType]:
    before = set(sys.modules)
    yield stand_ins.load_pack(base)
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {"comfy", "comfy_api", "comfy_execution", "folder_paths", "matteline_in_comfyui"}:
            del sys.modules[name]


@pytest.fixture(scope="session")
def nodes(pack: ModuleType) -> Nodes:
    """The nodes by their ids."""
    extension = asyncio.run(pack.comfy_entrypoint())
    return {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}


@pytest.fixture(scope="session")
def segmenter(fake_preset: str) -> Segmenter:
    return Segmenter(fake_preset)


@pytest.fixture(scope="session")
def photos(make_photos: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """Photos of unequal sizes, (H, W, 3) uint8."""
    paths = make_photos(tmp_path_factory.mktemp("photos"), 3)
    return [np.asarray(Image.open(path)) for path in paths]


def batch(*pictures: np.ndarray) -> torch.Tensor:
    """Return pictures as an IMAGE."""
    return torch.from_numpy(np.stack(pictures).astype(np.float32) / 255)


def as_uint8(tensor: torch.Tensor) -> np.ndarray:
    return np.rint(tensor.numpy() * 255).astype(np.uint8)


def cut_out(nodes: Nodes, images: list[torch.Tensor], box: Any = "", label: str = "", preset: str = "fake.yaml") -> Any:
    boxes = box if isinstance(box, list) else [box]
    return nodes["MattelineCutOut"].execute(images=images, preset=[preset], box=boxes, label=[label]).args


def test_three_nodes_have_names_of_their_own_and_unique_slots(nodes: Nodes) -> None:
    assert list(nodes) == ["MattelineCutOut", "MattelineFind", "MattelineRendition"]
    for node in nodes.values():
        schema = node.define_schema()
        slots = [slot.id for slot in (*schema.inputs, *schema.outputs)]
        assert len(set(slots)) == len(slots)
        assert all(slot.facts["is_output_list"] for slot in schema.outputs)


def options(nodes: Nodes, node: str, name: str) -> list[str]:
    (slot,) = (slot for slot in nodes[node].define_schema().inputs if slot.id == name)
    assert slot.facts["default"] in slot.facts["options"]
    chosen: list[str] = slot.facts["options"]
    return chosen


def test_lists_have_the_bundled_presets_and_the_users_own(nodes: Nodes) -> None:
    offered = options(nodes, "MattelineCutOut", "preset")
    assert {"mvanet-lite", "u2netp", "birefnet", "fake.yaml"} <= set(offered)
    assert "rmbg-1.4" not in offered  # its licence forbids commercial use
    assert "dataset-coco" not in options(nodes, "MattelineRendition", "rendition")  # JSON


@pytest.mark.parametrize("preset", ["rmbg-1.4", "/etc/passwd", "../fake.yaml", "https://example.com/a.yaml"])
def test_a_name_that_is_not_offered_is_refused(nodes: Nodes, photos: list[np.ndarray], preset: str) -> None:
    with pytest.raises(ConfigError, match="there is no preset .*choose from"):
        cut_out(nodes, [batch(photos[0])], preset=preset)
    with pytest.raises(ConfigError, match="there is no rendition .*choose from"):
        rendition(nodes, batch(photos[0]), torch.zeros(1, 1, 1), preset)


def test_a_list_of_unequal_sizes_gives_what_the_api_gives(nodes: Nodes, photos: list[np.ndarray], segmenter: Segmenter) -> None:
    cutouts, masks, quality, reasons, good = cut_out(nodes, [batch(photo) for photo in photos])
    for number, result in enumerate(segmenter(photos)):
        assert cutouts[number].shape == (1, *photos[number].shape[:2], 4)
        assert np.array_equal(as_uint8(cutouts[number][0]), result.cutout)
        assert np.array_equal(as_uint8(masks[number][0]), result.mask)
        assert quality[number] == result.quality
        assert (reasons[number] == "") == (result.reasons == ())
        assert good[number] == (result.quality >= result.recipe.review_below)


def test_a_batch_stays_a_batch_and_has_the_quality_of_its_worst_picture(
    nodes: Nodes, photos: list[np.ndarray], segmenter: Segmenter
) -> None:
    flat = np.full_like(photos[0], 90)
    (cutout,), (mask,), (quality,), (reasons,), (good,) = cut_out(nodes, [batch(photos[0], flat)])
    results = segmenter([photos[0], flat])
    assert np.array_equal(as_uint8(cutout), np.stack([one.cutout for one in results]))
    assert np.array_equal(as_uint8(mask), np.stack([one.mask for one in results]))
    assert quality == min(one.quality for one in results)
    assert good == (quality >= results[0].recipe.review_below)
    lines = reasons.split("\n")
    assert [line.split(":")[0] for line in lines] == ["picture 1", "picture 2"]
    assert f"quality {results[1].quality:.2f}" in lines[1]


def test_values_beyond_zero_and_one_and_transparency_are_taken(
    nodes: Nodes, photos: list[np.ndarray], segmenter: Segmenter
) -> None:
    wild = batch(photos[0]) * 1.2 - 0.1
    clipped = as_uint8(wild.clamp(0, 1)[0])
    assert np.array_equal(as_uint8(cut_out(nodes, [wild])[1][0][0]), segmenter(clipped).mask)
    half = torch.cat([batch(photos[0]), torch.full((1, *photos[0].shape[:2], 1), 0.5)], -1).to(torch.float16)
    assert np.array_equal(as_uint8(cut_out(nodes, [half])[1][0][0]), segmenter(half[0].float().numpy()).mask)


@pytest.mark.parametrize("box", ["10,20, 70,80", (10, 20, 70, 80), {"x": 10, "y": 20, "width": 60, "height": 60}])
def test_a_box_comes_as_text_as_corners_or_as_it_is_drawn(
    nodes: Nodes, photos: list[np.ndarray], segmenter: Segmenter, box: Any
) -> None:
    assert np.array_equal(
        as_uint8(cut_out(nodes, [batch(photos[0])], box)[1][0][0]), segmenter(photos[0], box=(10, 20, 70, 80)).mask
    )


def test_one_picture_and_several_boxes_give_one_cutout_each(
    nodes: Nodes, photos: list[np.ndarray], segmenter: Segmenter
) -> None:
    boxes = [(10.0, 20.0, 70.0, 80.0), (0.0, 0.0, 50.0, 50.0)]
    masks = cut_out(nodes, [batch(photos[0])], boxes)[1]
    for mask, box in zip(masks, boxes, strict=True):
        assert np.array_equal(as_uint8(mask[0]), segmenter(photos[0], box=box).mask)


@pytest.mark.parametrize("box", ["10,20", "here", {"x": 1}, (1, 2, 3)])
def test_a_box_that_is_none_is_refused(nodes: Nodes, photos: list[np.ndarray], box: Any) -> None:
    with pytest.raises(ItemRefused, match="box"):
        cut_out(nodes, [batch(photos[0])], box)


def test_a_failed_picture_is_kept_from_later_nodes_and_the_others_go_on(
    nodes: Nodes, photos: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    images, outside = [batch(photo) for photo in photos], (9000, 9000, 9010, 9010)
    outputs = cut_out(nodes, images, [None, outside, None])
    for values in outputs:
        assert [isinstance(value, stand_ins.ExecutionBlocker) for value in values] == [False, True, False]
    assert "outside the image" in outputs[0][1].message
    assert "outside the image" in caplog.text
    with pytest.raises(ItemRefused, match="outside the image"):
        cut_out(nodes, images, outside)


def test_a_batch_with_a_failed_picture_fails_as_one_and_says_which(
    nodes: Nodes, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = Segmenter.segment

    def broken(self: Segmenter, images: Any, *rest: Any) -> Any:
        results = segment(self, images, *rest)
        return [one if image.any() else ItemRefused("broken") for image, one in zip(images, results, strict=True)]

    monkeypatch.setattr(Segmenter, "segment", broken)
    black = np.zeros_like(photos[0])
    masks = cut_out(nodes, [batch(photos[0], black), batch(photos[1])])[1]
    assert masks[0].message == "picture 2 of 2: broken"
    assert masks[1].shape == (1, *photos[1].shape[:2])


def test_the_progress_bar_moves_and_the_stop_button_works(
    nodes: Nodes, photos: list[np.ndarray], segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = segmenter.batch * 2 + 1
    images = [batch(photos[0])] * count
    cut_out(nodes, images)
    assert stand_ins.ProgressBar.seen == [(segmenter.batch, count), (2 * segmenter.batch, count), (count, count)]
    monkeypatch.setattr(stand_ins.ProgressBar, "stop_at", segmenter.batch)
    with pytest.raises(InterruptedError):
        cut_out(nodes, images)
    assert len(stand_ins.ProgressBar.seen) == 1


@pytest.fixture
def detector(base: Path, tiny_detectors: dict[str, Path]) -> Iterator[str]:
    """A detector of the user's own: its name in the list."""
    path = base / "models" / "matteline" / "detectors" / "tiny.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "about: for tests\nlicence: none\nsize_mb: 0\nsource: none\n"
        f"detector:\n  model: grounding-dino\n  weights: {tiny_detectors['grounding-dino']}\n  threshold: 0.01\n"
    )
    yield path.name
    path.unlink()


def find(nodes: Nodes, images: list[torch.Tensor], label: str, detector: str, threshold: float = 0, max_boxes: int = 20) -> Any:
    pytest.importorskip("transformers", exc_type=ImportError)
    node = nodes["MattelineFind"]
    return node.execute(images=images, label=[label], detector=[detector], threshold=[threshold], max_boxes=[max_boxes]).args


def test_find_gives_one_entry_per_object_that_cut_out_takes(
    nodes: Nodes, photos: list[np.ndarray], detector: str, segmenter: Segmenter
) -> None:
    images, boxes, scores, names = find(nodes, [batch(photo) for photo in photos], "cup; red chair", detector, max_boxes=2)
    assert len(images) == len(boxes) == len(scores) == len(names) > len(photos)
    assert set(names) <= {"cup", "red chair"}
    assert all(0 < score <= 1 for score in scores)
    sizes = [image.shape[1:3] for image in images]
    assert set(sizes) == {photo.shape[:2] for photo in photos}
    for (height, width), (x0, y0, x1, y1) in zip(sizes, boxes, strict=True):
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
    masks = cut_out(nodes, images, boxes)[1]
    for image, box, mask in zip(images, boxes, masks, strict=True):
        assert np.array_equal(as_uint8(mask[0]), segmenter(as_uint8(image[0]), box=box).mask)


def test_find_says_that_nothing_was_found(nodes: Nodes, photos: list[np.ndarray], detector: str) -> None:
    with pytest.raises(PromptError, match="no object of that name"):
        find(nodes, [batch(photos[0])], "cup", detector, threshold=0.99)
    with pytest.raises(PromptError, match="no name to look for"):
        find(nodes, [batch(photos[0])], " ; ", detector)
    with pytest.raises(ConfigError, match="there is no detector"):
        find(nodes, [batch(photos[0])], "cup", "/etc/passwd")


def rendition(nodes: Nodes, image: torch.Tensor, mask: torch.Tensor, name: str, prefix: str = "") -> Any:
    return nodes["MattelineRendition"].execute(image=image, mask=mask, rendition=name, filename_prefix=prefix)


@pytest.fixture(scope="session")
def masks(photos: list[np.ndarray]) -> list[np.ndarray]:
    """A soft disc in the middle of each photo, (H, W) uint8."""
    grids = [np.indices(photo.shape[:2]) - (np.array(photo.shape[:2])[:, None, None] - 1) / 2 for photo in photos]
    return [((30 - np.hypot(*grid)).clip(0, 3) * 85).astype(np.uint8) for grid in grids]


def test_a_rendition_is_the_file_that_a_run_would_write(
    nodes: Nodes, photos: list[np.ndarray], masks: list[np.ndarray], base: Path
) -> None:
    output = rendition(nodes, batch(photos[0]), batch(masks[0]), "square-white", "shop/cup")
    colours = estimate_foreground(photos[0], masks[0], "multilevel")
    (expected,) = render([load_rendition("square-white")], colours, masks[0], {}, photos[0])
    (saved,) = output.ui["images"]
    assert saved == {"filename": "cup_00001_.jpg", "subfolder": "shop", "type": "output"}
    path = base / "output" / "shop" / "cup_00001_.jpg"
    assert path.read_bytes() == expected.data
    (picture,), (note,) = output.args
    assert np.array_equal(as_uint8(picture[0]), np.asarray(Image.open(path)))
    assert note == (expected.note or "")


def test_a_rendition_takes_the_cutout_with_its_own_colours(
    nodes: Nodes, photos: list[np.ndarray], masks: list[np.ndarray], segmenter: Segmenter
) -> None:
    red = np.dstack([np.full((*masks[0].shape, 3), (200, 0, 0), np.uint8), masks[0]])
    (picture,), _ = rendition(nodes, batch(red), batch(masks[0]), "transparent").args
    pixels = as_uint8(picture[0])
    assert pixels.shape[2] == 4
    assert (pixels[pixels[..., 3] > 0][:, :3] == (200, 0, 0)).all()
    with pytest.raises(ConfigError, match="connect the photo, not the cutout"):
        rendition(nodes, batch(red), batch(masks[0]), "natural-shadow")


def test_renditions_of_a_batch_with_one_mask_and_of_nothing(
    nodes: Nodes, photos: list[np.ndarray], masks: list[np.ndarray], base: Path
) -> None:
    pictures, notes = rendition(nodes, batch(photos[0], 255 - photos[0]), batch(masks[0]), "white").args
    assert [picture.shape for picture in pictures] == [(1, *photos[0].shape)] * 2
    assert len(notes) == 2
    output = rendition(nodes, batch(photos[0]), batch(np.zeros_like(masks[0])), "square-white", "nothing")
    assert output.args[0][0].message == output.args[1][0] == output.ui["notes"][0] == "not made: the mask shows no object"
    assert output.ui["images"] == []
    assert not list((base / "output").glob("nothing*"))


def test_image_and_mask_must_have_the_same_size(nodes: Nodes, photos: list[np.ndarray]) -> None:
    height, width = photos[0].shape[:2]
    with pytest.raises(ConfigError, match=f"have {width} x {height} and 64 x 32 pixels"):
        rendition(nodes, batch(photos[0]), torch.zeros(1, 32, 64), "white")


def test_the_registrys_metadata_follow_its_rules() -> None:
    ours = tomllib.loads((stand_ins.PACK / "pyproject.toml").read_text(encoding="utf-8"))
    project = tomllib.loads((stand_ins.PACK.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert re.fullmatch(r"[a-z]+([-_.][a-z0-9]+)*", ours["project"]["name"])
    assert "comfyui" not in ours["project"]["name"]
    assert ours["project"]["version"] == project["version"]
    assert ours["project"]["requires-python"] == project["requires-python"]
    assert ours["project"]["license"] == {"text": project["license"]}
    assert ours["project"]["dependencies"] == (stand_ins.PACK / "requirements.txt").read_text(encoding="utf-8").split()
    assert ours["tool"]["comfy"]["PublisherId"]


@pytest.mark.parametrize("path", sorted((stand_ins.PACK / "example_workflows").glob("*.json")), ids=lambda path: path.stem)
def test_example_workflows_fit_the_nodes(nodes: Nodes, path: Path) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    by_id = {node["id"]: node for node in workflow["nodes"]}
    for number, source, out, target, into, kind in workflow["links"]:
        assert number in by_id[source]["outputs"][out]["links"]
        assert by_id[target]["inputs"][into]["link"] == number
        assert kind == by_id[source]["outputs"][out]["type"]
        assert kind in by_id[target]["inputs"][into]["type"].split(",") or by_id[target]["inputs"][into]["type"] == "*"
    ours = [node for node in workflow["nodes"] if node["type"].startswith("Matteline")]
    assert ours
    for node in ours:
        schema = nodes[node["type"]].define_schema()
        assert [(slot["name"], slot["type"]) for slot in node["inputs"]] == [(slot.id, slot.io_type) for slot in schema.inputs]
        named = [(slot["name"], slot["type"]) for slot in node["outputs"]]
        assert named == [(slot.display_name or slot.id, slot.io_type) for slot in schema.outputs]
        widgets = [slot for slot in schema.inputs if "default" in slot.facts]
        assert [slot["name"] for slot in node["inputs"] if "widget" in slot] == [slot.id for slot in widgets]
        for slot, value in zip(widgets, node["widgets_values"], strict=True):
            assert value in slot.facts.get("options", [value])
