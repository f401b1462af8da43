"""``make comfyui-check``: the pack of ``infra/comfyui`` in ComfyUI itself, without a GPU."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_process import ComfyUI, Refused, as_prompt, running
from PIL import Image

from pipeline.paths import EXAMPLES, INFRA
from pipeline.segmenter import Cutout, Segmenter

pytestmark = [pytest.mark.study, pytest.mark.timeout(900)]

PACK = INFRA / "comfyui"
WORKFLOWS = PACK / "example_workflows"
BOX = (300, 112, 470, 490)
"""Around the osprey."""


@pytest.fixture(scope="module")
def comfyui(
    tmp_path_factory: pytest.TempPathFactory, tiny_detectors: dict[str, Path], results: Callable[[str], Path]
) -> Iterator[ComfyUI]:
    """ComfyUI with the pack, a node that makes lists, a tiny detector, and two photos."""
    checkout = os.environ.get("COMFYUI")
    if not checkout:
        pytest.skip("COMFYUI names no checkout of ComfyUI")
    base = tmp_path_factory.mktemp("comfyui")
    for name in ("input", "output", "custom_nodes", "models/matteline/detectors", "page"):
        (base / name).mkdir(parents=True)
    (base / "custom_nodes" / "matteline").symlink_to(PACK)
    (base / "custom_nodes" / "lists").symlink_to(Path(__file__).parent / "lists")
    (base / "page" / "index.html").write_text("no editor")
    (base / "models" / "matteline" / "detectors" / "tiny.yaml").write_text(
        "about: for tests\nlicence: none\nsize_mb: 0\nsource: none\n"
        f"detector:\n  model: grounding-dino\n  weights: {tiny_detectors['grounding-dino']}\n  threshold: 0.01\n"
    )
    Image.open(EXAMPLES / "espresso.jpg").save(base / "input" / "example.png")
    Image.open(EXAMPLES / "osprey.jpg").save(base / "input" / "osprey.png")
    with running(Path(checkout), os.environ["COMFYUI_PYTHON"], base, base / "page") as server:
        yield server
    shutil.copy(server.log, results("comfyui"))


@pytest.fixture(scope="module")
def expected() -> dict[str, Cutout]:
    """What the Python API gives for the photos."""
    segmenter = Segmenter()
    return {"espresso": segmenter(EXAMPLES / "espresso.jpg"), "osprey": segmenter(EXAMPLES / "osprey.jpg", box=BOX)}


def assert_same(path: Path, pixels: np.ndarray) -> None:
    """Hold a file of ComfyUI, which rounds down, against pixels."""
    difference = np.abs(np.asarray(Image.open(path)).astype(int) - pixels)
    assert difference.max() <= 1, path


def succeeded(entry: dict[str, Any]) -> dict[str, Any]:
    assert entry["status"]["status_str"] == "success", entry["status"]
    return entry


def test_comfyui_knows_the_nodes_and_the_examples(comfyui: ComfyUI) -> None:
    nodes = comfyui.get("/object_info")
    assert nodes["MattelineCutOut"]["output"] == ["IMAGE", "MASK", "FLOAT", "STRING", "BOOLEAN"]
    assert nodes["MattelineFind"]["output"] == ["IMAGE", "BBOX", "FLOAT", "STRING"]
    assert nodes["MattelineRendition"]["output_node"]
    assert "tiny.yaml" in json.dumps(nodes["MattelineFind"]["input"])
    assert sorted(comfyui.get("/workflow_templates")["matteline"]) == sorted(path.stem for path in WORKFLOWS.glob("*.json"))
    assert not [line for line in comfyui.log.read_text().splitlines() if "matteline" in line and "FAILED" in line]


def test_the_example_cuts_out_as_the_api_does(
    comfyui: ComfyUI, expected: dict[str, Cutout], results: Callable[[str], Path]
) -> None:
    workflow = json.loads((WORKFLOWS / "cut-out.json").read_text(encoding="utf-8"))
    entry = succeeded(comfyui.run(as_prompt(workflow, comfyui.get("/object_info"))))
    by_type = {node["type"]: str(node["id"]) for node in workflow["nodes"]}
    by_title = {node.get("title"): str(node["id"]) for node in workflow["nodes"]}
    result = expected["espresso"]
    (cutout,), (mask,) = comfyui.saved(entry, by_type["SaveImage"]), comfyui.saved(entry, by_type["PreviewImage"])
    assert_same(cutout, result.cutout)
    assert_same(mask, np.dstack([result.mask] * 3))
    (file,), (rendered,) = comfyui.saved(entry, by_type["MattelineRendition"]), result.rendition("amazon-main")
    assert file.read_bytes() == rendered.data
    assert entry["outputs"][by_title["quality"]]["text"] == [str(result.quality)]
    assert (entry["outputs"][by_title["reasons"]]["text"] == [""]) == (result.reasons == ())
    for path in (cutout, mask, file):
        shutil.copy(path, results("comfyui"))


def lists(files: str, boxes: str, **cut_out: Any) -> dict[str, Any]:
    """Return a workflow: pictures and boxes as lists, cut out and saved."""
    inputs = {"images": ["1", 0], "preset": "mvanet-lite", "box": ["1", 1]} | cut_out
    return {
        "1": {"class_type": "Lists", "inputs": {"files": files, "boxes": boxes}},
        "2": {"class_type": "MattelineCutOut", "inputs": inputs},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "lists"}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["2", 2]}},
        "5": {"class_type": "MattelineRendition", "inputs": {
            "image": ["1", 0], "mask": ["2", 1], "rendition": "thumbnail", "filename_prefix": "lists"}},
    }  # fmt: skip


def test_pictures_of_unequal_sizes_and_one_that_fails(
    comfyui: ComfyUI, expected: dict[str, Cutout], results: Callable[[str], Path]
) -> None:
    box = ",".join(map(str, BOX))
    entry = succeeded(comfyui.run(lists("example.png osprey.png osprey.png", f"- 9000,9000,9001,9001 {box}")))
    saved = comfyui.saved(entry, "3")
    for path, name in zip(saved, ("espresso", "osprey"), strict=True):
        assert_same(path, expected[name].cutout)
        shutil.copy(path, results("comfyui"))
    assert entry["outputs"]["4"]["text"] == [str(expected[name].quality) for name in ("espresso", "osprey")]
    assert len(comfyui.saved(entry, "5")) == 2
    assert "outside the image" in comfyui.log.read_text()


def test_a_workflow_in_which_everything_fails_is_an_error(comfyui: ComfyUI) -> None:
    entry = comfyui.run(lists("example.png", "9000,9000,9001,9001"))
    assert entry["status"]["status_str"] == "error"
    assert "outside the image of 600 x 400 pixels" in json.dumps(entry["status"])


def test_names_that_are_not_offered_are_refused(comfyui: ComfyUI) -> None:
    try:
        entry = comfyui.run(lists("example.png", "-", preset="/etc/passwd"))
    except Refused as refused:
        assert "not in list" in str(refused)
    else:
        assert "there is no preset '/etc/passwd'" in json.dumps(entry["status"])


def test_what_find_finds_is_cut_out(comfyui: ComfyUI) -> None:
    workflow = json.loads((WORKFLOWS / "find-by-name.json").read_text(encoding="utf-8"))
    prompt = as_prompt(workflow, comfyui.get("/object_info"))
    (finder,) = (node for node in prompt.values() if node["class_type"] == "MattelineFind")
    finder["inputs"] |= {"detector": "tiny.yaml", "label": "cup; plant", "max_boxes": 3}
    entry = succeeded(comfyui.run(prompt))
    shown = {
        node.get("title"): entry["outputs"][str(node["id"])]["text"]
        for node in workflow["nodes"]
        if node["type"] == "PreviewAny"
    }
    (save,) = (str(node["id"]) for node in workflow["nodes"] if node["type"] == "SaveImage")
    assert len(comfyui.saved(entry, save)) == len(shown["score"]) == len(shown["name"]) > 0
    assert set(shown["name"]) <= {"cup", "plant"}
