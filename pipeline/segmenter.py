"""A picture in, an alpha and a cutout out: the whole of the pixel work, without Ray and without manifests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast, overload

import numpy as np
import numpy.typing as npt

from pipeline.config.job import Compute, Limits, Storage
from pipeline.config.presets import DEFAULT_PRESET, load_preset
from pipeline.config.recipe import Recipe
from pipeline.config.rendition import Rendition, load_rendition
from pipeline.errors import ConfigError, ItemError, SegmentError
from pipeline.imaging.components import measure_parts
from pipeline.imaging.encode import encode_cutout
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.frame import Placement, make_frame, place, restore, to_mask, to_trimap
from pipeline.imaging.picture import Picture, is_picture, upright_rgb
from pipeline.imaging.renditions.render import Rendered, render
from pipeline.models.backgrounds import pin_backgrounds
from pipeline.models.estimator import expected_dice, load_estimator
from pipeline.models.forward import Probabilities, choose_device, mirror, one_thread, segment_errors, to_device, to_host
from pipeline.models.load import Model, load_model, resolve_precision
from pipeline.models.refiners.load import load_refiner
from pipeline.models.refiners.refine_tiles import Refinement, prepare_refinements
from pipeline.models.refiners.unknown_region import find_unknown
from pipeline.models.resample import DeviceFrames
from pipeline.models.resolve import check_licence, pin_recipe
from pipeline.models.sharpen import sharpen
from pipeline.models.signals import measure, named
from pipeline.quality.calibration import load_calibration
from pipeline.quality.score import Score, complete, score
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import cache_folder
from pipeline.types import Box, Mask, Pixels


@dataclass(frozen=True)
class Segment:
    """What the model makes of one image: ``mask`` (H, W) uint8, its score, and the
    trimap (H, W) uint8 where the recipe asks for it."""

    mask: Mask
    score: Score
    trimap: Mask | None = None


@dataclass(frozen=True)
class Cutout:
    """One picture, cut out. Unpacks as ``alpha, cutout = result``.

    ``alpha``: (H, W) uint8, 0 transparent, 255 opaque. ``quality``, ``reasons``, and ``signals`` are the index's
    columns. ``trimap``: (H, W) uint8, 128 where the model was unsure, if the recipe's outputs name it.
    """

    image: Pixels
    alpha: Mask
    score: Score
    recipe: Recipe
    trimap: Mask | None = None

    @property
    def quality(self) -> float:
        """[0, 1], higher is better."""
        return self.score.quality

    @property
    def reasons(self) -> tuple[str, ...]:
        """What pulled the quality down, worst first."""
        return self.score.reasons

    @property
    def signals(self) -> dict[str, float | bool | None]:
        """What the quality was made from."""
        return self.score.signals

    @cached_property
    def cutout(self) -> npt.NDArray[np.uint8]:
        """(H, W, 4) uint8 straight RGBA: the object's own colours, and the alpha."""
        return np.dstack([estimate_foreground(self.image, self.alpha, self.recipe.foreground), self.alpha])

    def png(self) -> bytes:
        """The cutout as a PNG file."""
        return encode_cutout(self.cutout[..., :3], self.alpha)

    def save(self, path: str | Path) -> None:
        """Write the cutout as a PNG file."""
        Path(path).write_bytes(self.png())

    def rendition(self, which: str | Rendition) -> list[Rendered]:
        """Files that are made from the cutout, one a size: of a bundled rendition by its name, of a YAML file, or of one's own.

        Raises:
            ConfigError: there is no such rendition, or its background can't be had.
        """
        chosen = load_rendition(which) if isinstance(which, str) else which
        pinned, backgrounds = pin_backgrounds([chosen], Files(), Limits())
        return list(render(pinned, self.cutout[..., :3], self.alpha, backgrounds))

    def __iter__(self) -> Any:
        return iter((self.alpha, self.cutout))


class _Passed(NamedTuple):
    """What comes back of a forward pass; one entry an image each."""

    table: npt.NDArray[np.float32]
    """(N, signals), see ``models.signals.named``."""
    coarse: npt.NDArray[np.uint8]
    masks: Sequence[Mask]
    trimaps: Sequence[Mask | None]


class HostFrames:
    """Images to frames and back by Pillow and OpenCV, the faster way on a CPU; on a GPU ``DeviceFrames`` does the same."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def frames(self, images: Sequence[Pixels], placements: Sequence[Placement]) -> npt.NDArray[np.uint8]:
        """The model's view of every image: (H, W, 3) uint8 of any sizes to (N, S, S, 3) uint8."""
        return np.stack([make_frame(image, placed, self.recipe) for image, placed in zip(images, placements, strict=True)])

    def masks(
        self, p: Probabilities, placements: Sequence[Placement], prepare_refinements: Sequence[Refinement | None]
    ) -> list[Mask]:
        """Masks at the images' sizes: (N, S, S) float32 in [0, 1] to (H, W) uint8 each, with what a refiner has to say."""
        (alphas,) = to_host(p)
        return [
            to_mask(restore(alpha, placed, self.recipe, None if refinement is None else refinement.whole))
            for alpha, placed, refinement in zip(alphas, placements, prepare_refinements, strict=True)
        ]


class Segmenter:
    """A model with its recipe, ready to cut out.

    >>> from pipeline import Segmenter
    >>> result = Segmenter()(picture)                  # a PIL image, an array, or a list of either
    >>> result.save("cutout.png")
    >>> alpha, cutout = result                         # (H, W) and (H, W, 4) uint8

    Args:
        preset: a bundled preset's name, or the path of a preset's YAML file.
        device: ``auto`` (CUDA where there is some), ``cpu`` or ``cuda``.
        threads: CPU threads of the model; absent, the library's own choice.
        engine: as ``compute.engine``.
        accept_licence: needed for weights that may not be used commercially.
        storage: where S3 weights are and who asks.
        recipe: changes to the preset's recipe, such as ``weights="my.safetensors"`` or ``stretch=True``.

    Raises:
        ConfigError: no such preset or setting, or a licence that wasn't accepted.
        WeightsError: the weights can't be had or used.
    """

    def __init__(
        self,
        preset: str = DEFAULT_PRESET,
        *,
        device: str = "auto",
        threads: int | None = None,
        engine: str = "auto",
        accept_licence: bool = False,
        storage: Storage | None = None,
        **recipe: Any,
    ) -> None:
        chosen = load_preset(preset, recipe)
        check_licence(chosen, accept_licence)
        self._load(chosen.recipe, Files(storage or Storage()), device, threads, None, engine)

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        files: Files,
        *,
        device: str = "auto",
        threads: int | None = None,
        batch: int | None = None,
        engine: str = "auto",
    ) -> Segmenter:
        """For a worker: the recipe is already chosen, pinned and settled.

        Args:
            batch: images a forward pass; absent, as ``Compute`` has it.
        """
        segmenter = cls.__new__(cls)
        segmenter._load(recipe, files, device, threads, batch, engine)
        return segmenter

    def _load(self, recipe: Recipe, files: Files, device: str, threads: int | None, batch: int | None, engine: str) -> None:
        pinned = pin_recipe(recipe, files)
        self.recipe = resolve_precision(pinned.recipe, pinned.weights, gpu=choose_device(device).type == "cuda")
        self.model: Model = load_model(
            self.recipe, pinned.weights, device=device, threads=threads, engine=engine, cache=cache_folder("graphs")
        )
        where = self.model.device
        self.batch = batch or Compute().batch_size_for(self.recipe.frame_px, where.type)
        self.refiner = load_refiner(self.recipe, pinned.refiner, where)
        self.calibration = load_calibration(self.recipe, pinned.calibration)
        self.look = load_estimator(where, threads=threads, cache=cache_folder("graphs")) if self.recipe.estimate else None
        self.framing = DeviceFrames(self.recipe, where) if where.type == "cuda" else HostFrames(self.recipe)

    @overload
    def __call__(self, image: Picture, box: Sequence[float] | None = None) -> Cutout: ...
    @overload
    def __call__(self, image: Sequence[Picture], box: Sequence[Sequence[float] | None] | None = None) -> list[Cutout]: ...
    def __call__(self, image: Picture | Sequence[Picture], box: Any = None) -> Cutout | list[Cutout]:
        """Cut out one picture, or a list of pictures of any sizes.

        Args:
            image: see ``Picture``. Alpha is composited on white, EXIF orientation is applied, as in the job.
            box: x0, y0, x1, y1 in pixels of the upright picture, around the object; a list of them (or of None) for a list.

        Raises:
            ItemError: the first picture that could not be cut out.
        """
        several = not is_picture(image)
        pictures = list(cast(Sequence[Picture], image)) if several else [cast(Picture, image)]
        boxes = list(box) if several and box is not None else [box] * len(pictures)
        if len(boxes) != len(pictures) or any(isinstance(one, int | float) for one in boxes):
            raise ConfigError(f"{len(pictures)} pictures but {len(boxes)} boxes; give a list with one box (or None) a picture")
        images = [upright_rgb(picture) for picture in pictures]
        parsed = [None if one is None else Box.parse(one) for one in boxes]
        results = []
        for pixels, segment in zip(images, self.segment(images, parsed), strict=True):
            if isinstance(segment, ItemError):
                raise segment
            results.append(Cutout(pixels, segment.mask, segment.score, self.recipe, segment.trimap))
        return results if several else results[0]

    def segment(self, images: Sequence[Pixels], boxes: Sequence[Box | None]) -> list[Segment | ItemError]:
        """Masks and scores of a batch; an image that fails gives its error and leaves the others alone."""
        results: dict[int, Segment | ItemError] = {}
        placements: dict[int, Placement] = {}
        for number, (image, box) in enumerate(zip(images, boxes, strict=True)):
            height, width = image.shape[:2]
            try:
                placements[number] = place((height, width), box, self.recipe)
            except ItemError as error:
                results[number] = error
        numbers = list(placements)
        for start in range(0, len(numbers), self.batch):
            some = numbers[start : start + self.batch]
            results |= self._forward(images, boxes, {number: placements[number] for number in some})
        return [results[number] for number in range(len(images))]

    def _forward(
        self, images: Sequence[Pixels], boxes: Sequence[Box | None], placements: dict[int, Placement]
    ) -> dict[int, Segment | ItemError]:
        numbers = list(placements)
        failed = ""
        try:
            table, coarse, *made = self._pass([images[number] for number in numbers], boxes, placements)
        except SegmentError as error:
            failed = str(error)  # not the error itself: its traceback holds the tensors of the pass that failed
        if failed and len(numbers) == 1:
            return {numbers[0]: SegmentError(failed)}
        if failed:
            # One image must not take its batch down, and half a batch needs half the memory.
            half = len(numbers) // 2
            halves = [
                self._forward(images, boxes, {number: placements[number] for number in some})
                for some in (numbers[:half], numbers[half:])
            ]
            return {number: segment for one in halves for number, segment in one.items()}
        results: dict[int, Segment | ItemError] = {}
        for number, measured, small, mask, trimap in zip(numbers, named(table), coarse, *made, strict=True):
            if not measured["finite"]:
                results[number] = SegmentError("the model gave numbers that are not finite; try recipe.precision=fp32")
                continue
            judged = score(complete(measured, measure_parts(small)), self.calibration)
            results[number] = Segment(mask, judged, trimap)
        return results

    def _pass(self, images: Sequence[Pixels], boxes: Sequence[Box | None], placements: dict[int, Placement]) -> _Passed:
        """One forward pass with the way there and back.

        The device is waited for once, at the end; with a refiner also when it must be known where the bands are.

        Raises:
            SegmentError: it failed, or was too much for the memory.
        """
        placed = list(placements.values())
        in_frame = np.array(
            [_in_frame(boxes[number], one, self.recipe.frame_px) for number, one in placements.items()], np.float32
        )
        with segment_errors(len(images)):
            frames = self.framing.frames(images, placed)
            logits = self.model(frames)
            with one_thread():
                p = logits.sigmoid()
                estimate = None if self.look is None else expected_dice(self.look, p, frames)
            mirrored = self.model(mirror(frames)) if self.recipe.flip else None
            drawn = p if self.recipe.sharpen == 1 else sharpen(logits, self.recipe.sharpen).sigmoid()
            refinements = prepare_refinements(self.refiner, images, placed, frames, drawn)
            unknown_maps = [find_unknown(drawn)] if "trimap" in self.recipe.outputs else []
            made = self.framing.masks(drawn, placed, refinements)
            changes = [
                None if refinement is None else refinement.change for refinement in refinements
            ]  # known once the masks are made
            prompts = None if np.isnan(in_frame).all() else to_device(in_frame, logits.device)
            signals = measure(logits, p, prompts, frames, mirrored, changes, estimate)
            table, coarse, *rest = to_host(*signals, *unknown_maps, *made)
            masks = rest[len(unknown_maps) :]
            trimaps: Sequence[Mask | None] = [None] * len(masks)
            if unknown_maps:
                trimaps = [to_trimap(*one) for one in zip(rest[0], masks, placed, strict=True)]
            return _Passed(table, coarse, masks, trimaps)


def _in_frame(box: Box | None, placement: Placement, frame_px: int) -> tuple[float, float, float, float]:
    """A box in pixels of the image as one in pixels of the frame; NaN for none."""
    if box is None:
        return (float("nan"),) * 4
    x0, y0, x1, y1 = placement.region
    across, down = frame_px / (x1 - x0), frame_px / (y1 - y0)
    return ((box.x0 - x0) * across, (box.y0 - y0) * down, (box.x1 - x0) * across, (box.y1 - y0) * down)
