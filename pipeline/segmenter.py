"""Cut out pictures with one model in this process, without Ray and without manifests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Number
from pathlib import Path
from typing import Any, NamedTuple, cast, overload

import numpy as np
import numpy.typing as npt

from pipeline.config.job import Compute, Limits, Storage
from pipeline.config.presets import DEFAULT_PRESET, load_preset
from pipeline.config.recipe import Recipe
from pipeline.config.rendition import Rendition, load_rendition
from pipeline.errors import ConfigError, ItemError, SegmentError
from pipeline.imaging.components import measure_components
from pipeline.imaging.encode import encode_cutout
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.frame import Placement, make_frame, place, restore, to_mask
from pipeline.imaging.picture import Picture, is_several, upright_rgb
from pipeline.imaging.renditions.render import Rendered, render
from pipeline.imaging.trimap import trimap_of
from pipeline.models.backgrounds import pin_backgrounds
from pipeline.models.engines.forks import check_fork
from pipeline.models.estimator import expected_dice, load_estimator
from pipeline.models.forward import Probabilities, choose_device, mirror, one_thread, segment_errors, to_device, to_host
from pipeline.models.load import Model, load_model
from pipeline.models.refiners.load import load_refiner
from pipeline.models.refiners.refine_tiles import Refinement, prepare_refinements
from pipeline.models.resample import DeviceFrames
from pipeline.models.resolve import check_licence, resolve
from pipeline.models.sharpen import sharpen
from pipeline.models.signals import measure_signals, signals_by_name
from pipeline.quality.score import Score, all_signals, score
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import cache_folder
from pipeline.types import Box, Mask, Pixels


@dataclass(frozen=True, eq=False)
class Segment:
    """The result for one image: ``mask`` (H, W) uint8, and its score."""

    mask: Mask
    score: Score


@dataclass(frozen=True, eq=False)
class Cutout:
    """One picture, cut out. Unpacks as ``alpha, cutout = result``.

    ``alpha``: (H, W) uint8, 0 transparent, 255 opaque. ``quality``, ``reasons`` and ``signals``: the columns of the index.
    """

    image: Pixels
    alpha: Mask
    score: Score
    recipe: Recipe

    @property
    def quality(self) -> float:
        """Quality in [0, 1], higher is better."""
        return self.score.quality

    @property
    def reasons(self) -> tuple[str, ...]:
        """The signals that lowered the quality most, worst first."""
        return self.score.reasons

    @property
    def signals(self) -> dict[str, float | bool | None]:
        """The measurements behind the quality."""
        return self.score.signals

    @cached_property
    def cutout(self) -> npt.NDArray[np.uint8]:
        """RGBA with straight alpha, (H, W, 4) uint8: the object's own colours and the alpha."""
        return np.dstack([estimate_foreground(self.image, self.alpha, self.recipe.foreground), self.alpha])

    @cached_property
    def trimap(self) -> Mask:
        """0 background, 255 object, 128 unknown, (H, W) uint8; see ``imaging.trimap``."""
        return trimap_of(self.alpha)

    def png(self) -> bytes:
        """Return the cutout as the bytes of a PNG file."""
        return encode_cutout(self.cutout[..., :3], self.alpha)

    def save(self, path: str | Path) -> None:
        """Write the cutout as a PNG file."""
        Path(path).write_bytes(self.png())

    def rendition(self, which: str | Rendition) -> list[Rendered]:
        """Return the files of a rendition, one per size.

        Args:
            which: Name of a bundled rendition, path of a YAML file, or a ``Rendition``.

        Raises:
            ConfigError: There is no such rendition, or its background cannot be read.
        """
        chosen = load_rendition(which) if isinstance(which, str) else which
        pinned, backgrounds = pin_backgrounds([chosen], Files(), Limits())
        return list(render(pinned, self.cutout[..., :3], self.alpha, backgrounds))

    def __iter__(self) -> Any:
        return iter((self.alpha, self.cutout))


class _Pass(NamedTuple):
    """The results of one forward pass, with one entry per image."""

    table: npt.NDArray[np.float32]
    """(N, signals); see ``models.signals.signals_by_name``."""
    coarse: npt.NDArray[np.uint8]
    masks: Sequence[Mask]


class HostFrames:
    """Convert images to frames and back with Pillow and OpenCV, which is fastest on a CPU. On a GPU: ``DeviceFrames``."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def frames(self, images: Sequence[Pixels], placements: Sequence[Placement]) -> npt.NDArray[np.uint8]:
        """Return the frames (N, S, S, 3) uint8 of images (H, W, 3) uint8 of any sizes."""
        return np.stack([make_frame(image, placed, self.recipe) for image, placed in zip(images, placements, strict=True)])

    def masks(self, p: Probabilities, placements: Sequence[Placement], refinements: Sequence[Refinement | None]) -> list[Mask]:
        """Return masks (H, W) uint8 at the images' sizes from alpha (N, S, S) float32 in [0, 1], refined if possible."""
        (alphas,) = to_host(p)
        return [
            to_mask(restore(alpha, placed, self.recipe, None if refinement is None else refinement.refine_all))
            for alpha, placed, refinement in zip(alphas, placements, refinements, strict=True)
        ]


class Segmenter:
    """A model with its recipe, loaded and ready.

    Threads may share it: passes of the model take turns, everything around them runs side by side. It can be pickled, and loads
    the model again where it is unpickled. A process that was forked after the model was loaded cannot use models; load them in
    the child, or use spawn.

    >>> from pipeline import Segmenter
    >>> result = Segmenter()(picture)                  # a path, bytes, a PIL image, an array, or a list of these
    >>> result.save("cutout.png")
    >>> alpha, cutout = result                         # (H, W) and (H, W, 4) uint8

    Args:
        preset: Name of a bundled preset, or path of a preset's YAML file.
        device: ``auto`` (CUDA if available), ``cpu`` or ``cuda``.
        threads: CPU threads of the model; default: the library's choice.
        engine: As ``compute.engine``.
        accept_licence: Needed for weights that may not be used commercially.
        storage: S3 endpoint and credentials for weights.
        recipe: Changes to the preset's recipe, such as ``weights="my.safetensors"`` or ``stretch=True``.

    Raises:
        ConfigError: There is no such preset or setting, or the licence was not accepted.
        WeightsError: The weights cannot be fetched or used.
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
        """Load the model of a recipe.

        Args:
            recipe: May be resolved already.
            files: Access to storage.
            device: As in ``Segmenter``.
            threads: As in ``Segmenter``.
            batch: Images per forward pass; default: as ``Compute.batch_size_for``.
            engine: As ``compute.engine``.
        """
        segmenter = cls.__new__(cls)
        segmenter._load(recipe, files, device, threads, batch, engine)
        return segmenter

    def _load(self, recipe: Recipe, files: Files, device: str, threads: int | None, batch: int | None, engine: str) -> None:
        self._arguments = (recipe, files, device, threads, batch, engine)
        self.resolved = resolve(recipe, files, gpu=choose_device(device).type == "cuda")
        self.recipe, graphs = self.resolved.recipe, cache_folder("graphs")
        self.model: Model = load_model(
            self.recipe, self.resolved.weights, device=device, threads=threads, engine=engine, cache=graphs
        )
        self.device = self.model.device
        self.batch = batch or Compute().batch_size_for(self.recipe.frame_px, self.device.type)
        self.refiner = load_refiner(self.recipe, self.resolved.refiner_weights, self.device)
        self.estimator = load_estimator(self.device, threads=threads, cache=graphs) if self.recipe.estimate else None
        self.framing = DeviceFrames(self.recipe, self.device) if self.device.type == "cuda" else HostFrames(self.recipe)

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_again, self._arguments

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str
        self, image: Picture, box: Sequence[float] | None = None
    ) -> Cutout: ...
    @overload
    def __call__(self, image: Sequence[Picture], box: Sequence[Sequence[float] | None] | None = None) -> list[Cutout]: ...
    def __call__(self, image: Picture | Sequence[Picture], box: Any = None) -> Cutout | list[Cutout]:
        """Cut out one picture, or a list of pictures of any sizes.

        Args:
            image: See ``Picture``. Alpha is composited on white and the EXIF orientation is applied, as in a job.
            box: x0, y0, x1, y1 around the object, in pixels of the upright picture. For a list of pictures, a list of boxes or
                None.

        Raises:
            ItemError: The error of the first picture that failed.
            TypeError: Something is no picture.
        """
        several = is_several(image)
        box = box.tolist() if hasattr(box, "tolist") else box  # arrays and tensors
        pictures = list(cast(Sequence[Picture], image)) if several else [cast(Picture, image)]
        boxes = list(box) if several and box is not None else [box] * len(pictures)
        if len(boxes) != len(pictures) or any(isinstance(one, Number) for one in boxes):
            raise ConfigError(
                f"{len(pictures)} pictures but {len(boxes)} boxes; give a list with one box (or None) per picture"
            )
        images = [upright_rgb(picture) for picture in pictures]
        parsed = [None if one is None else Box.parse(one) for one in boxes]
        results = []
        for pixels, segment in zip(images, self.segment(images, parsed), strict=True):
            if isinstance(segment, ItemError):
                raise segment
            results.append(Cutout(pixels, segment.mask, segment.score, self.recipe))
        return results if several else results[0]

    def segment(self, images: Sequence[Pixels], boxes: Sequence[Box | None]) -> list[Segment | ItemError]:
        """Return masks and scores of images of any sizes. An image that fails gives its error and does not affect others."""
        check_fork()
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
            batch = numbers[start : start + self.batch]
            results |= self._forward(images, boxes, {number: placements[number] for number in batch})
        return [results[number] for number in range(len(images))]

    def _forward(
        self, images: Sequence[Pixels], boxes: Sequence[Box | None], placements: dict[int, Placement]
    ) -> dict[int, Segment | ItemError]:
        numbers = list(placements)
        failure = ""
        try:
            table, coarse, masks = self._pass([images[number] for number in numbers], boxes, placements)
        except SegmentError as error:
            failure = str(error)  # not the error itself: its traceback holds the tensors of the failed pass
        if failure and len(numbers) == 1:
            return {numbers[0]: SegmentError(failure)}
        if failure:
            # One image must not fail its batch, and half a batch needs half the memory.
            half = len(numbers) // 2
            halves = [
                self._forward(images, boxes, {number: placements[number] for number in some})
                for some in (numbers[:half], numbers[half:])
            ]
            return {number: segment for one in halves for number, segment in one.items()}
        results: dict[int, Segment | ItemError] = {}
        for number, measured, small, mask in zip(numbers, signals_by_name(table), coarse, masks, strict=True):
            if not measured["finite"]:
                results[number] = SegmentError("the model returned numbers that are not finite; try recipe.precision=fp32")
                continue
            scored = score(all_signals(measured, measure_components(small)), self.resolved.calibration)
            results[number] = Segment(mask, scored)
        return results

    def _pass(self, images: Sequence[Pixels], boxes: Sequence[Box | None], placements: dict[int, Placement]) -> _Pass:
        """Run one forward pass, from images to masks and signals.

        The host waits for the device once, at the end; with a refiner also when it must know where the unknown regions are.

        Raises:
            SegmentError: The pass failed or ran out of memory.
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
                estimate = None if self.estimator is None else expected_dice(self.estimator, p, frames)
            mirrored = self.model(mirror(frames)) if self.recipe.flip else None
            sharpened = p if self.recipe.sharpen == 1 else sharpen(logits, self.recipe.sharpen).sigmoid()
            refinements = prepare_refinements(self.refiner, images, placed, frames, sharpened)
            alphas = self.framing.masks(sharpened, placed, refinements)
            # Known once the masks are made.
            changes = [None if refinement is None else refinement.change for refinement in refinements]
            prompts = None if np.isnan(in_frame).all() else to_device(in_frame, logits.device)
            signals = measure_signals(logits, p, prompts, frames, mirrored, changes, estimate)
            table, coarse, *masks = to_host(*signals, *alphas)
            return _Pass(table, coarse, masks)


def _load_again(recipe: Recipe, files: Files, device: str, threads: int | None, batch: int | None, engine: str) -> Segmenter:
    """Load a segmenter that was pickled."""
    return Segmenter.from_recipe(recipe, files, device=device, threads=threads, batch=batch, engine=engine)


def _in_frame(box: Box | None, placement: Placement, frame_px: int) -> tuple[float, float, float, float]:
    """Convert a box from pixels of the image to pixels of the frame; NaN for no box."""
    if box is None:
        return (float("nan"),) * 4
    x0, y0, x1, y1 = placement.region
    across, down = frame_px / (x1 - x0), frame_px / (y1 - y0)
    return ((box.x0 - x0) * across, (box.y0 - y0) * down, (box.x1 - x0) * across, (box.y1 - y0) * down)
