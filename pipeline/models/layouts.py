"""Recognise known weights files by the keys and shapes in their headers. Imports no PyTorch.

``layouts.json`` beside the weights has a hash of each known layout's keys and shapes, and is made by ``make graphs``.
A file that it lacks may still be usable: ``mvanet.checkpoint.recognise`` decides, which imports PyTorch.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from pipeline.errors import ConfigError, WeightsError
from pipeline.models.failures import first_line
from pipeline.models.heads import read_head
from pipeline.paths import WEIGHTS

FRAME_STEP_PX = 128
"""An MVANet frame's side is a multiple of this: the coarsest map has 1/32 of the overview's side, and that must be even."""

FP16_LAYOUTS = frozenset({"ben2", "mvanet", "finegrain"})
"""Layouts whose alpha in fp16 differs from fp32's by at most 0.002 on average, and by at most 0.02 in 999 of 1000 pixels
(parity tests, golden weights). In bf16 no layout does (0.0034 and more), nor any ONNX file that was tried."""

CGM = "cgm"
"""Layout of the refiner's weights. All others are MVANet's."""

INDEX = "layouts.json"
"""File beside the weights: names of layouts by ``layout_hash``."""

STORED_DTYPES = frozenset({"F32", "F16", "BF16"})
"""Types that weights may be stored in, by safetensors' names."""


@dataclass(frozen=True)
class Drop:
    """A rule for keys that are not needed, with the reason."""

    pattern: re.Pattern[str]
    reason: str


BUFFERS = (
    Drop(re.compile(r"\.relative_position_index$"), "follows from the window's side; recomputed"),
    Drop(re.compile(r"\.num_batches_tracked$"), "counts training steps; nothing reads it in inference"),
)

LEFTOVERS = (
    Drop(re.compile(r"^sideout[1-5]\."), "side outputs, for the training loss only"),
    Drop(re.compile(r"^multifieldcrossatt\.(linear[56]|attention\.5)\."), "built by the training code, never called"),
    Drop(re.compile(r"^dec_blk[1-4]\.(linear[12]|attention\.[4-7])\."), "built by the training code, never called"),
)
"""Published MVANet files include modules that their training code built but never ran (issue 3 of qianyu-dlut/MVANet)."""

WITH_LEFTOVERS = frozenset({"ben2", "mvanet"})
"""Layouts that may have ``LEFTOVERS``."""


def layout_hash(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return a hash of the keys that a layout needs, and their shapes."""
    return hashlib.sha256(json.dumps(sorted((key, list(shape)) for key, shape in shapes.items())).encode()).hexdigest()


@functools.cache
def known() -> dict[str, str]:
    """Return the names of layouts by their hashes."""
    names: dict[str, str] = json.loads((WEIGHTS / INDEX).read_text(encoding="utf-8"))
    return names


def layout_of(path: Path) -> str | None:
    """Return the name of a safetensors file's layout: ``CGM``, or as ``mvanet.checkpoint.recognise``. No number is read.

    Returns:
        None if only PyTorch can tell: a PyTorch file, or a layout that ``known`` lacks.

    Raises:
        WeightsError: Unreadable, cut off, damaged, or not a weights file.
    """
    if not is_safetensors(path):
        return None
    try:
        with safe_open(path, framework="np") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  (it has no other way to list them)
            needed = {key: one for key, one in slices.items() if not _is_dropped(key, (*BUFFERS, *LEFTOVERS))}
            if any(one.get_dtype() not in STORED_DTYPES for one in needed.values()):
                return None
            name = known().get(layout_hash({key: one.get_shape() for key, one in needed.items()}))
    except Exception as error:
        raise WeightsError(f"{path} is cut off or damaged; download the file again ({first_line(error)})") from error
    has_leftovers = any(_is_dropped(key, LEFTOVERS) for key in slices)
    return None if has_leftovers and name not in WITH_LEFTOVERS else name


def _is_dropped(key: str, rules: Iterable[Drop]) -> bool:
    return any(rule.pattern.search(key) for rule in rules)


def is_safetensors(path: Path) -> bool:
    """Return whether a weights file is a safetensors file, by its content; False for a PyTorch file.

    Raises:
        WeightsError: It is neither.
    """
    head = read_head(path)
    if head[8:9] == b"{":
        return True
    if head[:4] == b"PK\x03\x04":
        return False
    if head[:1] == b"\x80":
        raise WeightsError(
            f"{path} is a bare pickle, which can run code when it is opened; "
            "save its state dict again with torch.save (PyTorch 1.6 or later) or as .safetensors"
        )
    if path.suffix == ".onnx":
        raise WeightsError(f"{path} is an ONNX file; use a preset for ONNX files, such as u2netp or birefnet")
    raise WeightsError(f"{path} is neither a .safetensors nor a PyTorch weights file; it begins with {head[:8]!r}")


def check_frame(frame_px: int) -> None:
    """Check the side of MVANet's frames.

    Raises:
        ConfigError: It is not a multiple of ``FRAME_STEP_PX``.
    """
    if frame_px % FRAME_STEP_PX:
        raise ConfigError(f"recipe.frame_px must be a multiple of {FRAME_STEP_PX} for mvanet, not {frame_px}")
