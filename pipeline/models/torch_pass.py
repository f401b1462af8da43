"""A pass in PyTorch: on GPUs, in other precisions than fp32, and with weights that no graph was made from."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config.recipe import Recipe
from pipeline.imaging.frame import Placement
from pipeline.models.clean import clean_map
from pipeline.models.estimator import expected_dice, load_estimator
from pipeline.models.failures import segment_errors
from pipeline.models.forward import device_memory, one_thread, to_device, to_host
from pipeline.models.host_frames import HostFrames
from pipeline.models.load import Model, load_model
from pipeline.models.passes import PassResult
from pipeline.models.refiners.load import check_refiner, load_refiner
from pipeline.models.refiners.prepare import prepare_refinements
from pipeline.models.refiners.refine_tiles import Refinement
from pipeline.models.resample import DeviceFrames
from pipeline.models.resolve import ResolvedRecipe
from pipeline.models.sharpen import sharpen
from pipeline.models.signals import dice, measure_signals
from pipeline.models.views import Share, Views
from pipeline.storage.weights_cache import cache_folder
from pipeline.types import Mask, Pixels


class TorchPass:
    """A ``Pass`` in PyTorch; arguments: see ``load_pass``."""

    def __init__(self, resolved: ResolvedRecipe, *, device: str, threads: int | None, engine: str) -> None:
        self.recipe, self._turn = resolved.recipe, threading.Lock()  # two passes at once would need twice the memory
        check_refiner(self.recipe, resolved.refiner_weights)  # before the network, which takes long
        self.model: Model = load_model(
            self.recipe, resolved.weights, device=device, threads=threads, engine=engine, cache=cache_folder("graphs")
        )
        self._device = chosen = self.model.device
        self.device = chosen.type
        self.refiner = load_refiner(self.recipe, resolved.refiner_weights, chosen)
        self.estimator = load_estimator(chosen) if self.recipe.estimate else None
        self.framing = self._framing_of(self.recipe)
        on_device = functools.partial(to_device, device=chosen)
        share_index: Share = on_device if isinstance(self.framing, DeviceFrames) else np.asarray
        self.views = Views(self.recipe, self._framing_of, share_index, on_device)

    def __call__(self, images: Sequence[Pixels], placements: Sequence[Placement], boxes: npt.NDArray[np.float32]) -> PassResult:
        """See ``Pass``. The host waits for the device once, at the end; with a refiner also to learn the unknown regions."""
        with self._turn, segment_errors(len(images)), torch.inference_mode():
            frames = self.framing.frames(images, placements)
            looks = self.views.look(self.model, frames, images, placements)
            logits = self._cleaned(looks.mean)
            with one_thread():
                p = logits.sigmoid()
                estimate = None if self.estimator is None else expected_dice(self.estimator, p, frames)
            flip_dice = None if looks.mirrored is None else dice(looks.plain > 0, looks.mirrored.flip(2) > 0)
            sharpened = p if self.recipe.sharpen == 1 else sharpen(logits, self.recipe.sharpen).sigmoid()
            refinements = prepare_refinements(self.refiner, images, placements, frames, sharpened)
            alphas = self._masks(sharpened, placements, refinements)
            # Known once the masks are made.
            changes = [None if one is None else _scalar(one.change, logits) for one in refinements]
            prompts = None if np.isnan(boxes).all() else to_device(boxes, logits.device)
            signals = measure_signals(logits, p, prompts, frames, flip_dice, changes, estimate)
            table, coarse, *masks = to_host(*signals, *alphas)
            return PassResult(table, coarse, masks)

    def _framing_of(self, recipe: Recipe) -> DeviceFrames | HostFrames:
        return DeviceFrames(recipe, self._device) if self.device == "cuda" else HostFrames(recipe)

    def _cleaned(self, logits: Tensor) -> Tensor:
        """Fill holes and remove specks if the recipe asks for it. They are found on the host, which waits for the device."""
        if not self.recipe.cleans:
            return logits
        (maps,) = to_host(logits)
        return to_device(np.stack([clean_map(one, self.recipe) for one in maps]), self._device)

    def _masks(
        self, p: Tensor, placements: Sequence[Placement], refinements: Sequence[Refinement | None]
    ) -> Sequence[Mask | Tensor]:
        if isinstance(self.framing, DeviceFrames):
            return self.framing.masks(p, placements, refinements)
        (alphas,) = to_host(p)
        return self.framing.masks(alphas, placements, refinements)

    def memory(self) -> dict[str, int]:
        """See ``Pass``."""
        return device_memory(self._device)


def _scalar(value: Tensor | float, like: Tensor) -> Tensor:
    """Return a number as a tensor on the device of another, without waiting for it."""
    return value if isinstance(value, Tensor) else like.new_full((), value)
