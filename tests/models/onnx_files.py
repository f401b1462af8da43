"""Write small ONNX files field by field: tests need no ``onnx`` package, and can write files that it would refuse.

Field numbers: onnx/onnx.proto of github.com/onnx/onnx.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FLOAT, INT64, FLOAT16 = 1, 7, 10
Dims = Sequence[int | str]


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | str | bytes) -> bytes:
    """Encode one field: a varint, or a length and its bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def value_info(name: str, dims: Dims, kind: int) -> bytes:
    shape = b"".join(field(1, field(2, dim) if isinstance(dim, str) else field(1, dim)) for dim in dims)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))


def node(op: str, inputs: Sequence[str], output: str, domain: str = "", **ints: int | Sequence[int]) -> bytes:
    attributes = b""
    for name, value in ints.items():
        if isinstance(value, int):
            attributes += field(5, field(1, name) + field(3, value) + field(20, 2))
        else:
            attributes += field(5, field(1, name) + b"".join(field(8, one) for one in value) + field(20, 7))
    names = b"".join(field(1, one) for one in inputs) + field(2, output)
    return names + field(4, op) + attributes + (field(7, domain) if domain else b"")


def tensor(name: str, array: npt.NDArray[np.generic]) -> bytes:
    kind = {"float32": FLOAT, "int64": INT64, "float16": FLOAT16}[str(array.dtype)]
    return b"".join(field(1, dim) for dim in array.shape) + field(2, kind) + field(8, name) + field(9, array.tobytes())


def external_tensor(name: str, dims: Sequence[int], location: str) -> bytes:
    """Encode a float tensor whose numbers are in another file."""
    where = field(1, "location") + field(2, location)
    return b"".join(field(1, dim) for dim in dims) + field(2, FLOAT) + field(8, name) + field(13, where) + field(14, 1)


def model(nodes: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes], tensors: Sequence[bytes] = ()) -> bytes:
    graph = b"".join(field(1, one) for one in nodes) + field(2, "graph") + b"".join(field(5, one) for one in tensors)
    graph += b"".join(field(11, one) for one in inputs) + b"".join(field(12, one) for one in outputs)
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 17))


def mean_model(
    size: int | str = 32, batch: int | str = "n", kind: int = FLOAT, out: Dims | None = None, channels: int = 3
) -> bytes:
    """Encode a graph that returns the mean over the input's channels: (batch, 1, size, size)."""
    return model(
        [node("ReduceMean", ["image"], "mean", axes=[1], keepdims=1)],
        [value_info("image", [batch, channels, size, size], kind)],
        [value_info("mean", out or [batch, 1, size, size], kind)],
    )
