"""Read published MVANet weights without running code in them.

A file is opened as tensors (``models.tensors``), and its layout is recognised from its keys and shapes (``recognise``). Every
key must be a parameter of this network under another name, or be dropped by a named rule; a single other key is an error.

Layouts and names: github.com/PramaLLC/BEN2, github.com/qianyu-dlut/MVANet, github.com/finegrain-ai/refiners (all MIT).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import WeightsError
from pipeline.models.layouts import BUFFERS, LEFTOVERS, Drop, layout_hash
from pipeline.models.mvanet.fuse import fuse_conv_bn
from pipeline.models.mvanet.network import BEN2, LITE, LOCAL, MVANET, MVANet, Variant
from pipeline.models.tensors import BATCH_COUNTS, check_dtype, open_tensors, read_finite

Renames = Iterator[tuple[str, str]]
"""Pairs of our name of a module and its name in a file."""

WIDTHS = range(8, 513, 4)
"""Valid widths of a decoder; a file with another one is damaged."""

USUAL_WIDTHS = range(16, 257, 16)
"""Widths of own layouts that are recognised without PyTorch."""


@dataclass(frozen=True, eq=False)
class Layout:
    """A published format of the network's weights."""

    name: str
    variant: Variant
    modules: Mapping[str, str]
    drops: tuple[Drop, ...]

    def needs(self, key: str) -> bool:
        """Return whether a file's key is not dropped by a rule."""
        return not any(drop.pattern.search(key) for drop in self.drops)


def _training_modules() -> Renames:
    """Yield the training code's names, in BEN2's and MVANet's files; blocks are numbered by position in a Sequential."""

    def block(ours: str, theirs: str, first: int = 0) -> Renames:
        for place, part in enumerate(("conv", "norm", "act")):
            yield f"{ours}.{part}", f"{theirs}.{first + place}"

    yield "backbone", "backbone"  # same names as here
    for stage in range(4):
        yield f"backbone.norms.{stage}", f"backbone.norm{stage}"
    for level in range(5):  # features f0..f4 become e1..e5
        yield from block(f"lateral.{level}", f"output{level + 1}")
    yield "mclm", "multifieldcrossatt"
    yield "mclm.attend_pools", "multifieldcrossatt.attention.0"
    for view in range(LOCAL):
        yield f"mclm.attend_quarters.{view}", f"multifieldcrossatt.attention.{view + 1}"
    for place, part in enumerate(("ffn_global.fc1", "ffn_global.fc2", "ffn_local.fc1", "ffn_local.fc2")):
        yield f"mclm.{part}", f"multifieldcrossatt.linear{place + 1}"
    for level in range(4):
        ours, theirs = f"mcrm.{level}", f"dec_blk{level + 1}"
        yield ours, theirs
        yield f"{ours}.saliency", f"{theirs}.sal_conv"
        yield f"{ours}.attend_quarters", f"{theirs}.attention"
        yield f"{ours}.ffn.fc1", f"{theirs}.linear3"  # linear1 and linear2 are never run there
        yield f"{ours}.ffn.fc2", f"{theirs}.linear4"
        yield from block(f"smooth.{level}", f"conv{level + 1}")
    yield from block("merge.0", "insmask_head")
    yield from block("merge.1", "insmask_head", first=3)
    yield "merge.2", "insmask_head.6"
    for name in ("upsample1", "upsample2"):
        yield from block(name, name)
    for name in ("shallow", "output"):
        yield name, f"{name}.0"


def _finegrain_backbone() -> Renames:
    """Yield the backbone's part of ``_finegrain_modules``."""
    swin = "SwinTransformer"
    yield "backbone.patch_embed.proj", f"{swin}.PatchEmbedding.Conv2d"
    yield "backbone.patch_embed.norm", f"{swin}.PatchEmbedding.LayerNorm"
    for stage, depth in enumerate((2, 2, 18, 2)):
        chain = f"{swin}.Chain_{stage + 1}"
        yield f"backbone.norms.{stage}", f"{chain}.Passthrough.LayerNorm"
        yield f"backbone.layers.{stage}.downsample.norm", f"{chain}.PatchMerging.LayerNorm"
        yield f"backbone.layers.{stage}.downsample.reduction", f"{chain}.PatchMerging.Linear"
        for number in range(depth):
            ours, theirs = f"backbone.layers.{stage}.blocks.{number}", f"{chain}.BasicLayer.SwinTransformerBlock_{number + 1}"
            yield f"{ours}.norm1", f"{theirs}.Residual_1.LayerNorm"
            yield f"{ours}.attn", f"{theirs}.Residual_1.WindowAttention.WindowSDPA.rpb"  # the bias table
            yield f"{ours}.attn.qkv", f"{theirs}.Residual_1.WindowAttention.Linear_1"
            yield f"{ours}.attn.proj", f"{theirs}.Residual_1.WindowAttention.Linear_2"
            yield f"{ours}.norm2", f"{theirs}.Residual_2.LayerNorm"
            yield f"{ours}.mlp.fc1", f"{theirs}.Residual_2.Linear_1"
            yield f"{ours}.mlp.fc2", f"{theirs}.Residual_2.Linear_2"


def _finegrain_modules() -> Renames:
    """Yield the names of finegrain-ai/refiners: paths through its tree of chains, where equal siblings are numbered from 1."""

    def block(ours: str, theirs: str, act: str = "PReLU") -> Renames:
        for part, name in (("conv", "Conv2d"), ("norm", "BatchNorm2d"), ("act", act)):
            yield f"{ours}.{part}", f"{theirs}.{name}"

    def quarters(ours: str, theirs: str) -> Renames:
        for view in range(LOCAL):
            chain = f"{theirs}.PatchwiseCrossAttention.Concatenate.Chain_{view + 1}"
            yield f"{ours}.attend_quarters.{view}", f"{chain}.MultiheadAttention"

    yield from _finegrain_backbone()
    pyramid = "Pyramid"  # each level is nested in the finer one, and adds a lateral block to the coarser one
    for level in range(4):
        coarser = f"{pyramid}.Sum.PyramidL{level + 2}"
        yield from block(f"lateral.{level}", f"{pyramid}.Sum.Chain.CBR")
        yield from block(f"smooth.{level}", f"{pyramid}.CBR")
        ours, theirs = f"mcrm.{level}", f"{pyramid}.MCRM.Parallel_3.TiledCrossAttention"
        yield f"{ours}.saliency", f"{pyramid}.MCRM.Parallel_2.Multiply.Chain.Conv2d"
        yield from quarters(ours, f"{theirs}.Sum.Chain_2")
        for place in (1, 2):
            yield f"{ours}.norm{place}", f"{theirs}.LayerNorm_{place}"
            yield f"{ours}.ffn.fc{place}", f"{theirs}.FeedForward.Linear_{place}"
        pyramid = coarser

    yield from block("lateral.4", f"{pyramid}.CBR")
    mclm = f"{pyramid}.MCLM"
    yield "mclm.attend_pools", f"{mclm}.GlobalAttention.Sum.Chain.MultiheadAttention"
    yield from quarters("mclm", f"{mclm}.Residual")
    for place in (1, 2):
        yield f"mclm.norm{place}", f"{mclm}.LayerNorm_{place}"
        yield f"mclm.ffn_global.fc{place}", f"{mclm}.FeedForward_1.Linear_{place}"
        yield f"mclm.ffn_local.fc{place}", f"{mclm}.FeedForward_2.Linear_{place}"

    yield from block("merge.0", "RearrangeMultiView.Chain.CBR_1")
    yield from block("merge.1", "RearrangeMultiView.Chain.CBR_2")
    yield "merge.2", "RearrangeMultiView.Chain.Conv2d"
    yield "shallow", "ComputeShallow.Conv2d"
    yield from block("upsample1", "ShallowUpscaler.Sum_2.Chain_1.CBG", act="GeLU")
    yield from block("upsample2", "ShallowUpscaler.CBG", act="GeLU")
    yield "output", "Conv2d"


LAYOUTS = (
    Layout("ben2", BEN2, dict(_training_modules()), BUFFERS + LEFTOVERS),
    Layout("mvanet", MVANET, dict(_training_modules()), BUFFERS + LEFTOVERS),
    Layout("finegrain", MVANET, dict(_finegrain_modules()), BUFFERS),
)

VARIANTS = {"mvanet-lite": LITE, "mvanet": MVANET, "ben2": BEN2}
"""The networks of ``matteline train``, whose files have our own names and any width."""


@functools.lru_cache(maxsize=32)
def own_layouts(dim: int | None) -> tuple[Layout, ...]:
    """Return the layouts of ``matteline train`` for a width of the decoder; None: the variants' own widths."""
    variants = {name: variant if dim is None else replace(variant, dim=dim) for name, variant in VARIANTS.items()}
    return tuple(Layout(f"trained-{name}", variant, {"": ""}, BUFFERS) for name, variant in variants.items())


def recognise(path: Path) -> str:
    """Return the name of a file's layout, from its keys and shapes only: no number is read, and no model is built.

    Raises:
        WeightsError: Not a weights file, or of no known layout.
    """
    return _match(open_tensors(path), path)[0].name


def load_mvanet(path: Path, *, device: torch.device, dtype: torch.dtype, fuse: bool = True) -> MVANet:
    """Load the network for inference, with norms fused unless ``fuse`` is false.

    Raises:
        WeightsError: Not a weights file, of no known layout, or with numbers that are not finite.
    """
    layout, tensors = _match(open_tensors(path), path)
    model = _empty_model(layout.variant)
    model.load_state_dict(_state(model, layout, tensors, path, dtype), strict=True, assign=True)
    if fuse:
        fuse_conv_bn(model)
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)


def read_state(path: Path, variant: Variant) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return a file's weights in float32 as this variant's state dict, to train from, and the keys that are not needed.

    Raises:
        WeightsError: As ``load_mvanet``, or the file is of another variant.
    """
    layout, tensors = _match(open_tensors(path), path)
    if layout.variant != variant:
        raise WeightsError(f"{path} holds {layout.name}, which is another network; change variant or start in the recipe")
    state = _state(_empty_model(variant), layout, tensors, path, torch.float32)
    return state, tuple(key for key in tensors if not layout.needs(key))


def _state(model: MVANet, layout: Layout, tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the file's tensors under our names."""
    state = {}
    for ours, slot in model.state_dict().items():
        if ours.endswith(BATCH_COUNTS):
            state[ours] = torch.zeros(slot.shape, dtype=slot.dtype)
        else:
            state[ours] = read_finite(tensors, _their_key(ours, layout), path, dtype)
    return state


def _match(tensors: dict[str, Tensor], path: Path) -> tuple[Layout, dict[str, Tensor]]:
    """Return the layout that fits exactly, and the file's tensors by key without a wrapper's prefix."""
    if tensors and all(key.startswith("module.") for key in tensors):  # saved from inside DataParallel
        tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}

    width = tensors["shallow.weight"].shape[:1] if "shallow.weight" in tensors else ()
    layouts = LAYOUTS + own_layouts(width[0] if width and width[0] in WIDTHS else None)
    nearest, missing, unknown = LAYOUTS[0], list(tensors), list(tensors)
    for layout in layouts:
        expected = expected_keys(layout)
        lacks = [key for key in expected if key not in tensors]
        extra = [key for key in tensors if key not in expected and layout.needs(key)]
        if layout is LAYOUTS[0] or len(lacks) + len(extra) < len(missing) + len(unknown):
            nearest, missing, unknown = layout, lacks, extra
    if missing or unknown:
        raise WeightsError(_difference(path, nearest, missing, unknown))

    for key, shape in expected_keys(nearest).items():
        tensor = tensors[key]
        if tensor.shape != shape:
            raise WeightsError(f"{path}: {key} has the shape {list(tensor.shape)}; {nearest.name} needs {list(shape)}")
        check_dtype(tensors, key, path)
    return nearest, tensors


def _difference(path: Path, nearest: Layout, missing: list[str], unknown: list[str]) -> str:
    """Describe how a file differs from the nearest layout."""
    known = ", ".join(layout.name for layout in LAYOUTS + own_layouts(None))
    parts = []
    if missing:
        parts.append(f"it lacks {len(missing)} of that layout's keys (first: {missing[0]})")
    if unknown:
        parts.append(f"it has {len(unknown)} keys that the layout does not have (first: {unknown[0][:80]!r})")
    return (
        f"{path} is none of the known layouts ({known}). Nearest is {nearest.name}, but {' and '.join(parts)}. "
        "Use a published file unchanged, or train from one and keep its keys"
    )


@functools.cache
def expected_keys(layout: Layout) -> dict[str, torch.Size]:
    """Return every key that a file of this layout must have, with its shape."""
    state = _empty_model(layout.variant).state_dict()
    return {theirs: slot.shape for ours, slot in state.items() if layout.needs(theirs := _their_key(ours, layout))}


def known_layouts() -> dict[str, str]:
    """Return the content of ``layouts.INDEX``: names by hash, of own layouts in the usual widths."""
    layouts = [*LAYOUTS, *(layout for dim in (None, *USUAL_WIDTHS) for layout in own_layouts(dim))]
    return {layout_hash(expected_keys(layout)): layout.name for layout in layouts}


def _empty_model(variant: Variant) -> MVANet:
    """Return the network's shapes without its numbers."""
    with torch.device("meta"):
        return MVANet(variant)


def _their_key(ours: str, layout: Layout) -> str:
    """Translate one of our keys to the layout's, by the innermost module with another name there."""
    module, rest = ours, ""
    while module not in layout.modules:
        module, _, leaf = module.rpartition(".")
        rest = f".{leaf}{rest}"
    return (layout.modules[module] + rest).removeprefix(".")
