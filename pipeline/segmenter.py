"""Cut out pictures with one model in this process, without Ray and without manifests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast, overload

from pipeline.config.job import Compute, Storage
from pipeline.config.presets import DEFAULT_PRESET, load_preset
from pipeline.config.recipe import Recipe
from pipeline.config.sections import build
from pipeline.errors import ConfigError, ItemError, PromptError
from pipeline.imaging.frame import Placement, place
from pipeline.imaging.parts import box_at, without_others
from pipeline.imaging.picture import Picture, is_several, upright_rgb
from pipeline.models.arguments import parse_boxes, parse_labels, parse_point
from pipeline.models.cascade import Look, Segment, join_segments, sends_on, with_agreement
from pipeline.models.cutout import Cutout
from pipeline.models.detectors.detector import Detection
from pipeline.models.detectors.finder import Finder
from pipeline.models.devices import choose_device_type
from pipeline.models.engines.forks import check_fork
from pipeline.models.passes import Pass, load_pass
from pipeline.models.resolve import check_licence, resolve
from pipeline.models.scored import run_scored
from pipeline.storage.files import Files
from pipeline.types import Box, Mask, Pixels

__all__ = ["Cutout", "Segmenter"]


class _Picked(NamedTuple):
    """The object at a point: the box around its connected part, and the mask of all salient objects."""

    point: tuple[float, float]
    box: Box
    whole: Mask


class Segmenter:
    """A model that is loaded and ready. Call it with a picture, or with a list of pictures.

    >>> from pipeline import Segmenter
    >>> segmenter = Segmenter()
    >>> result = segmenter("cup.jpg")                  # a path, bytes, an open file, a PIL image, an array, or a list of these
    >>> result.save("cutout.png")
    >>> mask, cutout = result                          # (H, W) and (H, W, 4) uint8

    Threads may share it: passes of the model take turns in PyTorch and OpenVINO, and run side by side in ONNX Runtime. It can
    be pickled, and loads the model again where it is unpickled. A process that was forked after a model was loaded cannot use
    models; load them in the child, or use spawn.

    Args:
        preset: Name of a bundled preset (``matteline models`` lists them), or path of a preset's YAML file.
        device: ``auto`` (CUDA if the model can run on it), ``cpu`` or ``cuda``. A GPU's number is refused; CUDA_VISIBLE_DEVICES
            chooses one.
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
            # The first model's threshold decides on the status, so it decides which masks need a reason.
            other = self.recipe.second.recipe.model_copy(update={"review_below": self.recipe.review_below})
            self.second = Segmenter.from_recipe(
                other, files, device=device, threads=threads, batch=min(own, self.batch), engine=engine
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
        self,
        image: Picture,
        box: Sequence[float] | None = None,
        label: str | Sequence[str] | None = None,
        *,
        point: Sequence[float] | None = None,
    ) -> Cutout: ...
    @overload
    def __call__(
        self,
        image: Sequence[Picture],
        box: Sequence[Sequence[float] | None] | None = None,
        label: str | Sequence[str | Sequence[str] | None] | None = None,
    ) -> list[Cutout]: ...
    def __call__(
        self, image: Picture | Sequence[Picture], box: Any = None, label: Any = None, *, point: Any = None
    ) -> Cutout | list[Cutout]:
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
            point: x, y on the object, in pixels of one upright picture, without a box and a name. Of several salient objects
                that do not touch, only the one at the point is cut out. The score is that of the mask before parts of the
                others are removed.

        Returns:
            A ``Cutout``; for a list, a list of them in the same order.

        Raises:
            ItemError: The error of the first picture that failed. ``DecodeError``: a file is missing or damaged.
                ``PromptError``: nothing of that name was found, or nothing at the point.
            TypeError: This is no picture. The message says what is taken.
            ConfigError: There are not as many boxes or labels as pictures; or a detector needs transformers, which is not
                installed.
            WeightsError: The detector's files cannot be fetched or used.
            BrokenDevice: The GPU is lost; only a new process can use it.
        """
        several = is_several(image)
        points = None if point is None else [parse_point(point, several=several, box=box, label=label)]
        pictures = list(cast(Sequence[Picture], image)) if several else [cast(Picture, image)]
        parsed = parse_boxes(box, len(pictures) if several else None)
        default = self.recipe.detector.label if self.recipe.detector is not None and points is None else ()
        names = parse_labels(label, len(pictures) if several else None, default)
        images = [upright_rgb(picture) for picture in pictures]
        results = []
        for pixels, segment in zip(images, self.segment(images, parsed, names, points), strict=True):
            if isinstance(segment, ItemError):
                try:
                    raise segment
                finally:
                    del segment  # it leads to this frame, and so to all images
            facts = segment.detection, segment.looks, segment.agreement
            results.append(Cutout(pixels, segment.mask, segment.score, self.recipe, *facts))
        return results if several else results[0]

    def segment(
        self,
        images: Sequence[Pixels],
        boxes: Sequence[Box | None],
        names: Sequence[tuple[str, ...]] | None = None,
        points: Sequence[tuple[float, float] | None] | None = None,
    ) -> list[Segment | ItemError]:
        """Return masks and scores of images of any sizes. An image that fails gives its error and does not affect others.

        Args:
            images: (H, W, 3) uint8 each.
            boxes: Boxes around the objects, or None.
            names: Names of the objects, which are looked for where there is no box. Default: none.
            points: Points on the objects, of images without a box and a name. The box around the connected part of the salient
                mask that contains the point is segmented again, and other parts become transparent. Default: none.
        """
        check_fork()
        wanted = names or [()] * len(images)
        picked = self._picked(images, points or [None] * len(images))
        boxes = [one.box if isinstance(one, _Picked) else box for one, box in zip(picked, boxes, strict=True)]
        found = self._find(images, boxes, wanted)
        found = [one if isinstance(one, ItemError) else other for one, other in zip(picked, found, strict=True)]
        results = self._cut(images, boxes, found, self._detectors(found, wanted))
        for number, one in enumerate(picked):
            segment = results[number]
            if isinstance(one, _Picked) and isinstance(segment, Segment):
                results[number] = replace(segment, mask=without_others(segment.mask, one.whole, *one.point))
        return results

    def _picked(
        self, images: Sequence[Pixels], points: Sequence[tuple[float, float] | None]
    ) -> list[_Picked | ItemError | None]:
        """Return the object at each point: the connected part of the salient mask that contains it. None without a point."""
        picked: list[_Picked | ItemError | None] = [None] * len(images)
        asked = {number: point for number, point in enumerate(points) if point is not None}
        nothing = [None] * len(asked)
        wholes = self._cut([images[number] for number in asked], nothing, nothing, nothing)
        for (number, point), whole in zip(asked.items(), wholes, strict=True):
            if isinstance(whole, ItemError):
                picked[number] = whole
                continue
            try:
                picked[number] = _Picked(point, box_at(whole.mask, *point), whole.mask)
            except PromptError as error:
                picked[number] = error.with_traceback(None)  # it leads to this frame, and so to all images
        return picked

    def _cut(
        self,
        images: Sequence[Pixels],
        boxes: Sequence[Box | None],
        found: Sequence[Detection | ItemError | None],
        detectors: Sequence[str | None],
    ) -> list[Segment | ItemError]:
        """Segment images whose objects were found. ``detectors`` are the hashes of the weights that found them."""
        results: dict[int, Segment | ItemError] = {}
        placements: dict[int, Placement] = {}
        boxes = [one.box if isinstance(one, Detection) else box for one, box in zip(found, boxes, strict=True)]
        for number, (image, box, detection) in enumerate(zip(images, boxes, found, strict=True)):
            height, width = image.shape[:2]
            if isinstance(detection, ItemError):
                results[number] = detection
                continue
            try:
                placements[number] = place((height, width), box, self.recipe)
            except ItemError as error:
                results[number] = error.with_traceback(None)  # it leads to this frame, and so to all images
        numbers, scores = list(placements), self._detector_scores(found, detectors)
        for start in range(0, len(numbers), self.batch):
            batch = numbers[start : start + self.batch]
            some = {number: placements[number] for number in batch}
            results |= run_scored(self.run_pass, self.recipe, self.resolved.calibration, images, boxes, some, scores)
        if self.second is not None:
            results = self._with_second(self.second, images, boxes, found, detectors, results)
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

    def _detectors(self, found: Sequence[Detection | ItemError | None], names: Sequence[tuple[str, ...]]) -> list[str | None]:
        """Return the hash of the weights that found each image's object; None where nothing was found."""
        return [
            self.finder.load(names[number])[0].weights_sha256 if isinstance(one, Detection) else None
            for number, one in enumerate(found)
        ]

    def _detector_scores(
        self, found: Sequence[Detection | ItemError | None], detectors: Sequence[str | None]
    ) -> list[float | None]:
        """Return the scores of what was found, where the calibration was fitted on those of the detector; None elsewhere."""
        fitted = None if self.resolved.calibration is None else self.resolved.calibration.detector_sha256
        return [
            one.score if isinstance(one, Detection) and fitted is not None and by == fitted else None
            for one, by in zip(found, detectors, strict=True)
        ]

    def _with_second(
        self,
        second: Segmenter,
        images: Sequence[Pixels],
        boxes: Sequence[Box | None],
        found: Sequence[Detection | ItemError | None],
        detectors: Sequence[str | None],
        firsts: dict[int, Segment | ItemError],
    ) -> dict[int, Segment | ItemError]:
        """Let the second model see the images that the first one is unsure about, and join the results."""
        settings = self.recipe.second
        assert settings is not None, "there is a second model"
        results = {number: self._looked(one) if isinstance(one, Segment) else one for number, one in firsts.items()}
        numbers = [number for number, one in firsts.items() if sends_on(one, settings)]
        seen = second._cut(*([of[number] for number in numbers] for of in (images, boxes, found, detectors)))  # type: ignore[arg-type]
        scores, calibration = second._detector_scores(found, detectors), second.resolved.calibration
        for number, other in zip(numbers, seen, strict=True):
            first = results[number]
            assert isinstance(first, Segment), "others are not sent on"
            if isinstance(other, ItemError):
                results[number] = join_segments(first, other, settings)
                continue
            judged = with_agreement(other, first.mask, self.recipe, calibration, scores[number])
            results[number] = join_segments(first, second._looked(judged), settings)
        return results

    def _looked(self, segment: Segment) -> Segment:
        look = Look(self.recipe.name, self.recipe.weights_sha256, segment.score.quality, segment.score.reasons)
        return replace(segment, looks=(look,))


def _load_again(recipe: Recipe, files: Files, device: str, threads: int | None, batch: int | None, engine: str) -> Segmenter:
    """Load a segmenter that was pickled."""
    return Segmenter.from_recipe(recipe, files, device=device, threads=threads, batch=batch, engine=engine)
