"""Export the prebuilt graphs from the modules in PyTorch: ``make graphs``.

Weights are not copied into a graph: it refers to their places in the ``.safetensors`` file beside it. So graph and PyTorch
cannot have different weights, and the package stays small. Derived constants, such as fused norms, are computed when an engine
opens the graph.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.models import layouts
from pipeline.models.engines.convert import mute_warnings
from pipeline.models.estimator import BUNDLED as ESTIMATOR
from pipeline.models.estimator import SIDE_PX, load_network
from pipeline.models.graphs.bundled import INDEX, of_frame
from pipeline.models.graphs.modules import CgmTile, Estimate, FlipDice, GuidedTile, Measure, Sharpen, Unknown
from pipeline.models.layouts import layout_hash
from pipeline.models.mvanet.checkpoint import known_layouts, load_mvanet
from pipeline.models.refiners.cgm import BUNDLED as CGM
from pipeline.models.refiners.cgm import Cgm, ConfidenceGuided, load_cgm
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.refine_tiles import Refiner, Tile
from pipeline.paths import WEIGHTS
from pipeline.storage.weights_cache import file_sha256

GRAPH_VERSION = 2
"""Recorded with every graph. Raise it, and make the graphs again, when a change of the code changes what one computes."""

OPSET = 20

LITE, LITE_PX = WEIGHTS / "mvanet-lite.safetensors", 512

FRAMES_PX = (64, 320, 512, 1024)
"""Sides of the frames of the tests' presets (64) and of bundled ones."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Source:
    """A module in PyTorch, and how it is exported."""

    module: nn.Module
    inputs: dict[str, Tensor]
    """An example of every input, by its name in the graph."""
    outputs: tuple[str, ...]
    shapes: tuple[dict[int, Any] | None, ...] | None = None
    """The dimensions of every input that may change."""
    weights: Path | None = None
    """The file that the graph refers to for its weights."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further facts for the index."""


def sources() -> Iterator[tuple[str, Callable[[], Source]]]:
    """Yield the file name of every graph, and a function that builds its source."""
    yield "mvanet-lite.onnx", network
    yield "estimator.onnx", estimator
    for side in FRAMES_PX:
        for name, build in (("measure", measure), ("sharpen", sharpening), ("unknown", unknown)):
            yield of_frame(name, side), functools.partial(build, side)
    yield "flip.onnx", flip
    yield "guided.onnx", lambda: refiner(GuidedTile(), Guided())
    yield "cgm.onnx", lambda: cgm(load_cgm(CGM, device=CPU, dtype=torch.float32))


def network() -> Source:
    """Return mvanet-lite, with its norms unfused: fused weights would be other numbers than those in the file."""
    module = load_mvanet(LITE, device=CPU, dtype=torch.float32, fuse=False)
    frame = torch.zeros(1, 3, LITE_PX, LITE_PX)
    return Source(module, {"frame": frame}, ("logits",), weights=LITE, facts={"frame_px": LITE_PX})


def estimator() -> Source:
    """Return the estimator."""
    return Source(Estimate(load_network(ESTIMATOR)), {"x": torch.zeros(1, 4, SIDE_PX, SIDE_PX)}, ("dice",), weights=ESTIMATOR)


def measure(side: int) -> Source:
    """Return the measurements of frames of a side."""
    inputs = {
        "logits": torch.randn(1, side, side),
        "frames": torch.zeros(1, side, side, 3, dtype=torch.uint8),
        "boxes": torch.zeros(1, 4),
    }
    outputs = ("table", "coarse", "p", "estimator_input")
    return Source(Measure(), inputs, outputs, facts={"frame_px": side})


def sharpening(side: int) -> Source:
    """Return the alpha of frames of a side."""
    inputs = {"logits": torch.randn(1, side, side), "sharpen": torch.ones(1)}
    return Source(Sharpen(), inputs, ("alpha",), facts={"frame_px": side})


def unknown(side: int) -> Source:
    """Return the unknown region of frames of a side."""
    return Source(Unknown(), {"alpha": torch.rand(1, side, side)}, ("unknown", "blocks"), facts={"frame_px": side})


def flip() -> Source:
    """Return the comparison with the mirrored frame."""
    side = Dim("side", min=32, max=8192)
    maps = {"logits": torch.randn(1, 64, 64), "mirrored": torch.randn(1, 64, 64)}
    return Source(FlipDice(), maps, ("flip_dice",), ({1: side, 2: side},) * 2)


def cgm(network: Any) -> Source:
    """Return the refiner cgm."""
    return refiner(CgmTile(network), ConfidenceGuided(network), CGM)


def refiner(module: nn.Module, like: Refiner, weights: Path | None = None) -> Source:
    """Return a refiner of tiles of any size."""
    step = like.step_px
    tall, wide = (step * Dim(name, min=1, max=8192 // step) for name in ("tall", "wide"))
    h, w = Dim("h", min=2, max=8192), Dim("w", min=2, max=8192)
    tile = Tile(
        image=torch.zeros(15 * step, 16 * step, 3, dtype=torch.uint8),
        frame=torch.zeros(40, 42, 3, dtype=torch.uint8),
        p=torch.rand(40, 42),
        unknown=torch.rand(40, 42),
        down=torch.linspace(7, 32, 15 * step),
        across=torch.linspace(7, 34, 16 * step),
        scale=torch.tensor([4.0], dtype=torch.float64),
    )
    cells, shapes = {0: h, 1: w}, ({0: tall, 1: wide}, {0: h, 1: w})
    facts = {"halo_cells": like.halo_cells, "halo_px": like.halo_px, "step_px": like.step_px}
    dynamic = (shapes[0], cells, cells, cells, {0: tall}, {0: wide}, None)
    return Source(module, tile._asdict(), ("alpha", "weight"), dynamic, weights, facts)


def export(source: Source) -> ir.Model:
    """Export a module, optimised, with weights that refer to the source's file."""
    # Other attention kernels have another memory layout, which the trace would keep.
    with mute_warnings(), warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), torch.inference_mode(False):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            source.module.eval(),
            tuple(source.inputs.values()),
            dynamo=True,
            input_names=list(source.inputs),
            output_names=list(source.outputs),
            dynamic_shapes=source.shapes,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    model = program.model
    _optimise(model)
    if source.weights is not None:
        _refer_to_file(model, source.weights)
    _remove_notes(model)
    return model


def _optimise(model: ir.Model) -> None:
    """Fold what depends on sizes only. Weights stay as they are in the file."""
    weights = {name: value.const_value for name, value in model.graph.initializers.items()}
    values = [model.graph.initializers.pop(name) for name in weights]
    for value in values:  # as inputs, they are not constants
        value.const_value = None
        model.graph.inputs.append(value)
    optimizer.optimize(model, input_size_limit=2**20, output_size_limit=2**20)
    for value in values:
        model.graph.inputs.remove(value)
        if value.uses():
            value.const_value = weights[str(value.name)]
            model.graph.register_initializer(value)


def _refer_to_file(model: ir.Model, path: Path) -> None:
    """Replace the weights that are in a ``.safetensors`` file by references to it, converted to float32 in the graph.

    Raises:
        KeyError: The file lacks one of the weights.
    """
    stored = read_places(path)
    for name in list(model.graph.initializers):
        key = name.removeprefix("network.")
        value = model.graph.initializers[name]
        if key not in stored:
            assert value.const_value is not None and value.const_value.nbytes < 2**17, f"{path} has no {key}"
            continue
        dtype, shape, offset, length = stored[key]
        tensor = ir.ExternalTensor(path.name, offset, length, dtype, shape=ir.Shape(shape), name=name, base_dir=path.parent)
        small = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(dtype), const_value=tensor)
        cast = ir.node("Cast", [small], {"to": ir.DataType.FLOAT})
        cast.outputs[0].name = f"{name}.float32"
        cast.outputs[0].shape, cast.outputs[0].type = tensor.shape, ir.TensorType(ir.DataType.FLOAT)
        value.replace_all_uses_with(cast.outputs[0])
        del model.graph.initializers[name]
        model.graph.register_initializer(small)
        model.graph.insert_before(model.graph[0], cast)


Place = tuple[ir.DataType, tuple[int, ...], int, int]
"""Type, shape, first byte in the file, and number of bytes."""


def read_places(path: Path) -> Mapping[str, Place]:
    """Return the place of every tensor of a ``.safetensors`` file."""
    types = {"F16": ir.DataType.FLOAT16, "F32": ir.DataType.FLOAT, "BF16": ir.DataType.BFLOAT16}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    places = {}
    for key, entry in header.items():
        first, last = entry["data_offsets"]
        places[key] = types[entry["dtype"]], tuple(entry["shape"]), 8 + size + first, last - first
    return places


def _remove_notes(model: ir.Model) -> None:
    """Remove what no engine reads: stack traces and other notes, nine tenths of a file."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    model.producer_name, model.producer_version = "matteline", str(GRAPH_VERSION)
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string, node.name = None, None
        values += node.outputs
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None


def make(folder: Path) -> None:
    """Write all graphs and their index into a folder that has the weights."""
    index = {}
    for name, build in sources():
        source = build()
        ir.save(export(source), folder / name)
        made_from = {} if source.weights is None else {"weights_sha256": file_sha256(source.weights)}
        index[name] = {"graph_version": GRAPH_VERSION} | made_from | source.facts
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    write_layouts(folder)


def write_layouts(folder: Path) -> None:
    """Write the hashes of known weights files, by which they are recognised without PyTorch."""
    cgm = {key: tuple(slot.shape) for key, slot in Cgm().state_dict().items()}
    names = known_layouts() | {layout_hash(cgm): layouts.CGM}
    (folder / layouts.INDEX).write_text(json.dumps(names, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(WEIGHTS)
