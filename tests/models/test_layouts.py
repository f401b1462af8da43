"""Known weights files are recognised by their headers, without PyTorch."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline.errors import ConfigError, WeightsError
from pipeline.models import layouts
from pipeline.models.check import check_files
from pipeline.models.graphs.make import write_layouts
from pipeline.models.layouts import LEFTOVERS, layout_of
from pipeline.models.mvanet.checkpoint import recognise
from pipeline.paths import WEIGHTS

Header = dict[str, tuple[tuple[int, ...], str]]
SIZES = {"F32": 4, "F64": 8, "I64": 8}
EMPTY_CGM = {"refiner": "cgm", "refiner_weights": "mine"}


def save(shapes: Header, path: Path) -> Path:
    """Write a safetensors file of zeros, as a sparse file. ``shapes``: shape and type by key."""
    header, offset = {}, 0
    for key, (shape, dtype) in shapes.items():
        count = SIZES[dtype]
        for side in shape:
            count *= side
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + count]}
        offset += count
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return path


@pytest.fixture
def published(golden_weights: ModuleType) -> Any:
    """``published(layout)``: the keys of a published file, with their shapes and types."""

    def make(layout: str) -> Header:
        types = {"int64": "I64", "float32": "F32"}
        return {key: (tuple(shape), types.get(dtype, "F32")) for key, (shape, dtype) in golden_weights.keys(layout).items()}

    return make


def test_the_table_is_that_of_the_networks(tmp_path: Path) -> None:
    write_layouts(tmp_path)
    made, kept = ((folder / layouts.INDEX).read_text(encoding="utf-8") for folder in (tmp_path, WEIGHTS))
    assert made == kept, "run make graphs"


@pytest.mark.parametrize("layout", ["ben2", "mvanet", "finegrain"])
def test_published_files_are_recognised(layout: str, published: Any, tmp_path: Path) -> None:
    path = save(published(layout), tmp_path / "weights")
    assert layout_of(path) == recognise(path) == layout


def test_own_files_are_recognised(tmp_path: Path) -> None:
    assert layout_of(WEIGHTS / "cgm.safetensors") == layouts.CGM
    assert layout_of(WEIGHTS / "mvanet-lite.safetensors") == recognise(WEIGHTS / "mvanet-lite.safetensors")


@pytest.mark.parametrize("change", ["missing", "more", "shape", "type", "leftovers"])
def test_a_file_that_differs_is_left_to_pytorch(change: str, published: Any, tmp_path: Path) -> None:
    layout = "finegrain" if change == "leftovers" else "ben2"
    shapes = published(layout)
    key = next(key for key in shapes if not any(rule.pattern.search(key) for rule in (*layouts.BUFFERS, *LEFTOVERS)))
    match change:
        case "missing":
            del shapes[key]
        case "more":
            shapes["more.weight"] = ((1,), "F32")
        case "shape":
            shapes[key] = ((*shapes[key][0], 1), "F32")
        case "type":
            shapes[key] = (shapes[key][0], "F64")
        case "leftovers":
            shapes["sideout1.weight"] = ((1,), "F32")
    path = save(shapes, tmp_path / "weights")
    assert layout_of(path) is None
    with pytest.raises(WeightsError):
        recognise(path)


def test_what_is_no_weights_file_is_refused_by_its_head(recipe: Any, tmp_path: Path) -> None:
    empty, cut = tmp_path / "empty", tmp_path / "cut"
    empty.touch()
    cut.write_bytes(struct.pack("<Q", 4000) + b"{")
    for path, words in ((empty, "is empty"), (cut, "cut off or damaged")):
        with pytest.raises(WeightsError, match=words):
            check_files(recipe("mvanet", frame_px=256), path, None, "auto", headers_only=True)
        with pytest.raises(WeightsError, match=words):
            check_files(recipe("fake", **EMPTY_CGM), None, path, "auto", headers_only=True)
    with pytest.raises(WeightsError, match="is empty"):
        check_files(recipe("onnx", frame_px=320), empty, None, "auto", headers_only=True)
    with pytest.raises(ConfigError, match=r"compute\.engine=torch can't"):
        check_files(recipe("onnx", frame_px=320), WEIGHTS / "u2netp.onnx", None, "torch", headers_only=True)


SCRIPT = """
import sys
from pathlib import Path

from pipeline.config.recipe import Recipe
from pipeline.models.resolve import ResolvedRecipe, _precision

weights, refiner, empty = map(Path, sys.argv[1:])
recipe = Recipe(name="test", model="mvanet", weights="w", frame_px=1024, refiner="cgm", refiner_weights="r")
assert _precision(recipe, weights, True) == "fp16" and _precision(recipe, weights, False) == "fp32"
ResolvedRecipe(recipe, weights, refiner, None, {}).check("auto")
try:
    ResolvedRecipe(recipe, weights, empty, None, {}).check("auto")
except Exception as error:
    assert "is empty" in str(error), error
else:
    raise AssertionError("empty weights are refused")
assert not {"torch", "timm"} & set(sys.modules)
"""


def test_large_models_are_checked_without_pytorch(published: Any, tmp_path: Path) -> None:
    weights = save(published("ben2"), tmp_path / "weights")
    (tmp_path / "empty").touch()
    command = [sys.executable, "-c", SCRIPT, str(weights), str(WEIGHTS / "cgm.safetensors"), str(tmp_path / "empty")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
