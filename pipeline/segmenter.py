"""Cut out pictures with one model in this process, without Ray and without manifests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Number
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt

from pipeline.config.job import Compute, Limits, Storage
from pipeline.config.presets import DEFAULT_PRESET, load_preset
from pipeline.config.recipe import Recipe
from pipeline.config.rendition import Rendition, load_rendition
from pipeline.errors import ConfigError, ItemError, SegmentError
from pipeline.imaging.components import measure_components
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.frame import Placement, place
from pipeline.imaging.picture import Picture, is_several, upright_rgb
from pipeline.imaging.png import encode_cutout
from pipeline.imaging.renditions.render import Rendered, render
from pipeline.imaging.trimap import trimap_of
from pipeline.models.backgrounds import pin_backgrounds
from pipeline.models.devices import choose_device_type
from pipeline.models.engines.forks import check_fork
from pipeline.models.passes import Pass, load_pass
from pipeline.models.resolve import check_licence, resolve
from pipeline.models.signal_names import signals_by_name
from pipeline.quality.score import Score, all_signals, score
from pipeline.storage.files import Files
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
        return list(render(pinned, self.cutout[..., :3], self.alpha, backgrounds, self.image))

    def __iter__(self) -> Any:
        return iter((self.alpha, self.cutout))


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
        self.resolved = resolve(recipe, files, gpu=choose_device_type(device) == "cuda")
        self.recipe = self.resolved.recipe
        self.run_pass: Pass = load_pass(self.resolved, device=device, threads=threads, engine=engine)
        self.device = self.run_pass.device
        self.batch = batch or Compute().batch_size_for(self.recipe.frame_px, self.device)

    @property
    def model(self) -> Any:
        """The model alone; see ``Pass.model``."""
        return self.run_pass.model

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
            in_frame = [_in_frame(boxes[number], placements[number], self.recipe.frame_px) for number in numbers]
            table, coarse, masks = self.run_pass(
                [images[number] for number in numbers], list(placements.values()), np.array(in_frame, np.float32)
            )
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
