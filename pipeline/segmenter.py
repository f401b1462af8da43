"""Cut out pictures with one model in this process, without Ray and without manifests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt

from pipeline.config.job import Compute, Limits, Storage
from pipeline.config.presets import DEFAULT_PRESET, load_preset
from pipeline.config.recipe import Recipe
from pipeline.config.rendition import Rendition, load_rendition, parse_colour
from pipeline.config.sections import build
from pipeline.errors import ConfigError, ItemError
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.frame import Placement, place
from pipeline.imaging.picture import Picture, PilImage, as_pil, is_several, preview, upright_rgb
from pipeline.imaging.renditions.plain import FORMATS, encode_plain
from pipeline.imaging.renditions.render import Rendered, render
from pipeline.imaging.trimap import trimap_of
from pipeline.models.arguments import parse_boxes, parse_labels
from pipeline.models.backgrounds import pin_backgrounds
from pipeline.models.cascade import Look, Segment, join_segments, sends_on
from pipeline.models.detectors.detector import Detection
from pipeline.models.detectors.finder import Finder
from pipeline.models.devices import choose_device_type
from pipeline.models.engines.forks import check_fork
from pipeline.models.passes import Pass, load_pass
from pipeline.models.resolve import check_licence, resolve
from pipeline.models.scored import run_scored
from pipeline.quality.score import Score
from pipeline.storage.files import Files
from pipeline.types import Box, Mask, Pixels


@dataclass(frozen=True, eq=False, repr=False)
class Cutout:
    """One picture, cut out. A notebook shows it; ``print`` gives its size and quality.

    >>> result.save("cup.png")             # or .webp, .tiff, .jpg
    >>> result.image                       # PIL image, RGBA
    >>> mask, cutout = result              # (H, W) and (H, W, 4) uint8

    Its arrays have the height and width of the upright picture.

    Attributes:
        picture: The picture itself, upright and in sRGB: (H, W, 3) uint8 RGB.
        mask: Opacity: (H, W) uint8, 0 transparent, 255 opaque.
        score: Quality, reasons and signals.
        recipe: The settings that made it.
        detection: With ``label``: the box that was found, its score, and the name. None if none was looked for.
        looks: With ``second``: what each model thought, the first model first. Empty without it.
        agreement: Dice of the masks of two models, in [0, 1]; None if one model saw the picture.
    """

    picture: Pixels
    mask: Mask
    score: Score
    recipe: Recipe
    detection: Detection | None = None
    looks: tuple[Look, ...] = ()
    agreement: float | None = None

    @property
    def alpha(self) -> Mask:
        """Another name of ``mask``."""
        return self.mask

    @cached_property
    def cutout(self) -> npt.NDArray[np.uint8]:
        """RGBA with straight alpha, (H, W, 4) uint8: the object's own colours, and the mask."""
        return np.dstack([estimate_foreground(self.picture, self.mask, self.recipe.foreground), self.mask])

    @cached_property
    def image(self) -> PilImage:
        """The cutout as a PIL image of mode RGBA, with straight alpha."""
        return as_pil(self.cutout)

    @cached_property
    def trimap(self) -> Mask:
        """0 background, 255 object, 128 unknown, (H, W) uint8; see ``imaging.trimap``."""
        return trimap_of(self.mask)

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

    def png(self) -> bytes:
        """Return the cutout as the bytes of a PNG file."""
        return encode_plain(self.cutout[..., :3], self.mask, "png")

    def save(self, path: str | os.PathLike[str], background: str | None = None) -> None:
        """Write the cutout to a file. Missing folders are made.

        Args:
            path: Path that ends in .png, .webp, .jpg or .tiff, which chooses the format.
            background: A colour behind the object: ``#f4f1ea``, ``white`` or ``black``. Default: transparent; for JPEG, which
                has no transparency, white.

        Raises:
            ConfigError: The path ends otherwise, or the background is not a colour.
            OSError: The file cannot be written.
            TypeError: This is not a path.
            WriteError: The picture is too large for the format: WebP up to 16,383 pixels per side, JPEG up to 65,500.
        """
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"save takes a path, not a {type(path).__name__}; png() and image.save() serve open files")
        target = Path(path)
        form = FORMATS.get(target.suffix.lower())
        if form is None:
            raise ConfigError(f"{path} must end in .png, .webp, .jpg or .tiff")
        colour = None if background is None else parse_colour(background)
        data = encode_plain(self.cutout[..., :3], self.mask, form, colour)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def rendition(self, which: str | os.PathLike[str] | Rendition) -> list[Rendered]:
        """Return the files of a rendition, one per size. Each has ``name``, ``data`` and ``save(path)``.

        Args:
            which: Name of a bundled rendition, path of a YAML file, or a ``Rendition``.

        Raises:
            ConfigError: There is no such rendition, or its background cannot be read.
        """
        chosen = which if isinstance(which, Rendition) else load_rendition(os.fspath(which))
        pinned, backgrounds = pin_backgrounds([chosen], Files(), Limits())
        return list(render(pinned, self.cutout[..., :3], self.mask, backgrounds, self.picture))

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        return iter((self.mask, self.cutout))

    def __repr__(self) -> str:
        height, width = self.mask.shape
        why = f" ({', '.join(self.reasons)})" if self.reasons else ""
        return f"<Cutout {width} x {height}, quality {self.quality:.2f}{why}>"

    def _repr_png_(self) -> bytes:
        """Return a preview for notebooks."""
        return preview(self.image)


class Segmenter:
    """A model that is loaded and ready. Call it with a picture, or with a list of pictures.

    >>> from pipeline import Segmenter
    >>> segmenter = Segmenter()
    >>> result = segmenter("cup.jpg")                  # a path, bytes, an open file, a PIL image, an array, or a list of these
    >>> result.save("cutout.png")
    >>> mask, cutout = result                          # (H, W) and (H, W, 4) uint8

    Threads may share it: passes of the model take turns, everything around them runs side by side. It can be pickled, and loads
    the model again where it is unpickled. A process that was forked after a model was loaded cannot use models; load them in
    the child, or use spawn.

    Args:
        preset: Name of a bundled preset (``matteline models`` lists them), or path of a preset's YAML file.
        device: ``auto`` (CUDA if available), ``cpu`` or ``cuda``.
        threads: CPU threads of the model; default: the library's choice.
        engine: As ``compute.engine``.
        accept_licence: Needed for weights that may not be used commercially.
        storage: S3 endpoint and credentials for weights.
        recipe: Changes to the preset's recipe, such as ``weights="my.safetensors"`` or ``stretch=True``; configs/README.md
            lists them.

    Raises:
        ConfigError: There is no such preset or setting, or the licence was not accepted.
        WeightsError: The weights cannot be fetched or used.
    """

    def __init__(
        self,
        preset: str | os.PathLike[str] = DEFAULT_PRESET,
        *,
        device: str = "auto",
        threads: int | None = None,
        engine: str = "auto",
        accept_licence: bool = False,
        storage: Storage | None = None,
        **recipe: Any,
    ) -> None:
        changes = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in recipe.items()}
        chosen = load_preset(os.fspath(preset), changes)
        check_licence(chosen, accept_licence)
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise ConfigError(f"threads={threads!r} must be a whole number from 1, or None")
        compute = build(Compute, {"device": str(device), "engine": engine}, "Segmenter")  # str: a torch.device is taken, too
        self._load(chosen.recipe, Files(storage or Storage()), compute.device, threads, None, compute.engine)

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
        self.finder = Finder(self.resolved, files, device=self.device, threads=threads)
        self.second: Segmenter | None = None
        if self.recipe.second is not None:
            own = Compute().batch_size_for(self.recipe.second.recipe.frame_px, self.device)
            self.second = Segmenter.from_recipe(
                self.recipe.second.recipe, files, device=device, threads=threads, batch=min(own, self.batch), engine=engine
            )

    @property
    def model(self) -> Any:
        """The model alone; see ``Pass.model``."""
        return self.run_pass.model

    def __repr__(self) -> str:
        return f"<Segmenter {self.recipe.name} on {self.device}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_again, self._arguments

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str
        self, image: Picture, box: Sequence[float] | None = None, label: str | Sequence[str] | None = None
    ) -> Cutout: ...
    @overload
    def __call__(
        self,
        image: Sequence[Picture],
        box: Sequence[Sequence[float] | None] | None = None,
        label: str | Sequence[str | Sequence[str] | None] | None = None,
    ) -> list[Cutout]: ...
    def __call__(self, image: Picture | Sequence[Picture], box: Any = None, label: Any = None) -> Cutout | list[Cutout]:
        """Cut out one picture, or a list of pictures of any sizes.

        Args:
            image: A path of an image file, its bytes, an open binary file, a PIL image of any mode, or an array of uint8,
                booleans, or floats in [0, 1]: (H, W) grey, (H, W, 3) RGB, (H, W, 4) RGBA. Or a list of these. Transparency is
                composited over white, and the EXIF orientation is applied, as in a job.
            box: x0, y0, x1, y1 around the object, in pixels of the upright picture. For a list of pictures, a list of boxes or
                None.
            label: Name of the object, such as ``potted plant``, or a list of names of which any will do. A detector looks for
                it where there is no box; ``auto`` is the salient object. For a list of pictures, one name for all, or a list
                with one entry per picture: a name, a list of names, or None. Default: ``recipe.detector.label``.

        Returns:
            A ``Cutout``; for a list, a list of them in the same order.

        Raises:
            ItemError: The error of the first picture that failed. ``DecodeError``: a file is missing or damaged.
                ``PromptError``: nothing of that name was found.
            TypeError: This is no picture. The message says what is taken.
            ConfigError: There are not as many boxes or labels as pictures; or a label is given without transformers installed.
            WeightsError: The detector's files cannot be fetched or used.
        """
        several = is_several(image)
        pictures = list(cast(Sequence[Picture], image)) if several else [cast(Picture, image)]
        parsed = parse_boxes(box, len(pictures) if several else None)
        default = self.recipe.detector.label if self.recipe.detector is not None else ()
        names = parse_labels(label, len(pictures) if several else None, default)
        images = [upright_rgb(picture) for picture in pictures]
        results = []
        for pixels, segment in zip(images, self.segment(images, parsed, names), strict=True):
            if isinstance(segment, ItemError):
                raise segment
            facts = segment.detection, segment.looks, segment.agreement
            results.append(Cutout(pixels, segment.mask, segment.score, self.recipe, *facts))
        return results if several else results[0]

    def segment(
        self, images: Sequence[Pixels], boxes: Sequence[Box | None], names: Sequence[tuple[str, ...]] | None = None
    ) -> list[Segment | ItemError]:
        """Return masks and scores of images of any sizes. An image that fails gives its error and does not affect others.

        Args:
            images: (H, W, 3) uint8 each.
            boxes: Boxes around the objects, or None.
            names: Names of the objects, which are looked for where there is no box. Default: none.
        """
        check_fork()
        results: dict[int, Segment | ItemError] = {}
        placements: dict[int, Placement] = {}
        found = self._find(images, boxes, names or [()] * len(images))
        boxes = [one.box if isinstance(one, Detection) else box for one, box in zip(found, boxes, strict=True)]
        for number, (image, box, detection) in enumerate(zip(images, boxes, found, strict=True)):
            height, width = image.shape[:2]
            if isinstance(detection, ItemError):
                results[number] = detection
                continue
            try:
                placements[number] = place((height, width), box, self.recipe)
            except ItemError as error:
                results[number] = error
        numbers, scores = list(placements), self._detector_scores(found)
        for start in range(0, len(numbers), self.batch):
            batch = numbers[start : start + self.batch]
            some = {number: placements[number] for number in batch}
            results |= run_scored(self.run_pass, self.recipe, self.resolved.calibration, images, boxes, some, scores)
        if self.second is not None:
            results = self._with_second(self.second, images, boxes, results)
        for number, one in enumerate(found):
            segment = results[number]
            if isinstance(one, Detection) and isinstance(segment, Segment):
                results[number] = replace(segment, detection=one)
        return [results[number] for number in range(len(images))]

    def _find(
        self, images: Sequence[Pixels], boxes: Sequence[Box | None], names: Sequence[tuple[str, ...]]
    ) -> list[Detection | ItemError | None]:
        """Return what a detector found where there are names and no box; None elsewhere."""
        found: list[Detection | ItemError | None] = [None] * len(images)
        wanted = [number for number, box in enumerate(boxes) if box is None and names[number]]
        for start in range(0, len(wanted), self.batch):
            batch = wanted[start : start + self.batch]
            chosen = self.finder.one_each([images[number] for number in batch], [names[number] for number in batch])
            for number, one in zip(batch, chosen, strict=True):
                found[number] = one
        return found

    def _detector_scores(self, found: Sequence[Detection | ItemError | None]) -> list[float | None]:
        """Return the scores of what was found, if the calibration was fitted on those of this detector; None elsewhere."""
        calibration, detector = self.resolved.calibration, self.recipe.detector
        if calibration is None or detector is None or calibration.detector_sha256 != detector.weights_sha256:
            return [None] * len(found)
        return [one.score if isinstance(one, Detection) else None for one in found]

    def _with_second(
        self,
        second: Segmenter,
        images: Sequence[Pixels],
        boxes: Sequence[Box | None],
        firsts: dict[int, Segment | ItemError],
    ) -> dict[int, Segment | ItemError]:
        """Let the second model see the images that the first one is unsure about, and join the results."""
        settings = self.recipe.second
        assert settings is not None, "there is a second model"
        results = {number: self._looked(one) if isinstance(one, Segment) else one for number, one in firsts.items()}
        numbers = [number for number, one in firsts.items() if sends_on(one, settings)]
        seen = second.segment([images[number] for number in numbers], [boxes[number] for number in numbers])
        for number, other in zip(numbers, seen, strict=True):
            first = results[number]
            assert isinstance(first, Segment), "others are not sent on"
            results[number] = join_segments(first, other if isinstance(other, ItemError) else second._looked(other), settings)
        return results

    def _looked(self, segment: Segment) -> Segment:
        look = Look(self.recipe.name, self.recipe.weights_sha256, segment.score.quality, segment.score.reasons)
        return replace(segment, looks=(look,))


def _load_again(recipe: Recipe, files: Files, device: str, threads: int | None, batch: int | None, engine: str) -> Segmenter:
    """Load a segmenter that was pickled."""
    return Segmenter.from_recipe(recipe, files, device=device, threads=threads, batch=batch, engine=engine)
