"""Stand-in weights files, the same on every machine: every tensor follows from its key and its shape.

Published checkpoints can't travel with the tests. These weights can, as a formula; the files beside this one hold what
the publishers' own code computes with exactly them. Loaded by path, so that tests of any folder can write such a file::

    golden = importlib.util.spec_from_file_location(...)   # see tests/models/conftest.py
    golden.write_weights("ben2", tmp_path / "ben2.pth")
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent

KEYS = {
    "ben2": "ben2_base.keys.json",
    "mvanet": "mvanet_official.keys.json",
    "finegrain": "finegrain_box_segmenter.keys.json",
}
"""Layout as ``pipeline.models.checkpoints`` calls it, and the file with its keys, shapes and dtypes."""

WINDOW = 12
"""Side of the published backbones' attention windows."""


def golden_array(key: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """float32 array for one entry; the scales keep activations near unit variance."""
    noise = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape, dtype=np.float32)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return 1.0 + 0.1 * np.abs(noise)
    if leaf == "running_mean":
        centre, spread = 0.0, 0.1
    elif leaf == "relative_position_bias_table":
        centre, spread = 0.0, 0.2
    elif leaf.endswith("bias"):
        centre, spread = 0.0, 0.05
    elif shape == (1,):  # a PReLU slope
        centre, spread = 0.25, 0.05
    elif len(shape) == 1:  # a norm's scale
        centre, spread = 1.0, 0.1
    else:
        centre, spread = 0.0, float(np.float32(1.4 / np.sqrt(np.prod(shape[1:]))))
    return centre + spread * noise


def relative_position_index() -> npt.NDArray[np.int64]:
    """The buffer that every published backbone carries: row of the bias table for every pair of tokens."""
    place = np.stack(np.mgrid[:WINDOW, :WINDOW]).reshape(2, -1)
    rows, columns = place[:, :, None] - place[:, None, :] + WINDOW - 1
    return rows * (2 * WINDOW - 1) + columns


def keys(layout: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Every key of a published file with its shape and its dtype's name."""
    listed = json.loads((HERE / KEYS[layout]).read_text(encoding="utf-8"))
    return {key: (tuple(shape), dtype) for key, (shape, dtype) in listed.items()}


def golden_state(layout: str) -> dict[str, npt.NDArray[np.generic]]:
    """The whole state of a published file, 94 million numbers: a few seconds and 380 MB.

    The last convolution is overridden where the formula would saturate alpha.
    """
    state: dict[str, npt.NDArray[np.generic]] = {}
    for key, (shape, _) in keys(layout).items():
        if key.endswith("relative_position_index"):
            state[key] = relative_position_index()
        elif key.endswith("num_batches_tracked"):
            state[key] = np.zeros(shape, np.int64)
        else:
            state[key] = golden_array(key, shape)
    last = {"mvanet": ("output.0", 0.0), "finegrain": ("Conv2d", -2.63)}.get(layout)
    if last:
        state[f"{last[0]}.weight"] = state[f"{last[0]}.weight"] * np.float32(0.5)
        state[f"{last[0]}.bias"] = np.full_like(state[f"{last[0]}.bias"], last[1])
    return state


def write_weights(layout: str, path: Path, dtype: str = "float32") -> Path:
    """A weights file as published: ``.safetensors``, or anything else as ``.pth`` with ``model_state_dict``.

    Args:
        layout: "ben2", "mvanet" or "finegrain".
        dtype: "float32" or "float16"; integer buffers keep theirs.
    """
    import torch
    from safetensors.torch import save_file

    state = {key: torch.from_numpy(array) for key, array in golden_state(layout).items()}
    kind = getattr(torch, dtype)
    state = {key: tensor.to(kind) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model_state_dict": state}, path)
    return path
