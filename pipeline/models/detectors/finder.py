"""Find one box per image by name, with a detector that is loaded when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from pipeline.config.detector import Detector, default_detector, detector_with
from pipeline.errors import ItemError, SegmentError
from pipeline.models.detectors.detector import Detection, Find, choose, not_found, tidy
from pipeline.models.detectors.files import resolve_detector
from pipeline.models.detectors.load import load_detector
from pipeline.models.resolve import ResolvedRecipe
from pipeline.storage.files import Files
from pipeline.types import Pixels, Size


class Finder:
    """The detector of a recipe; without one, the default detector for the names. Threads may share it.

    Args:
        resolved: The recipe.
        files: Access to storage, for the default detectors.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads; default: the library's choice.
    """

    def __init__(self, resolved: ResolvedRecipe, files: Files, *, device: str, threads: int | None) -> None:
        self._resolved, self._files, self._device, self._threads = resolved, files, device, threads
        self._lock = threading.Lock()
        self._loaded: dict[str, tuple[Detector, Find]] = {}

    def load(self, names: tuple[str, ...] = ()) -> tuple[Detector, Find]:
        """Load the detector, once, and return it with its settings.

        Args:
            names: What it must find; without a detector in the recipe, they choose it.

        Raises:
            ConfigError: The detector needs transformers, which is not installed.
            WeightsError: A file cannot be fetched or used.
        """
        preset = self._preset(names)
        with self._lock:
            if preset not in self._loaded:
                settings, path = self._settings(preset)
                self._loaded[preset] = settings, load_detector(settings, path, device=self._device, threads=self._threads)
            return self._loaded[preset]

    def all(self, images: Sequence[Pixels], names: Sequence[tuple[str, ...]]) -> list[list[Detection] | ItemError]:
        """Return the boxes of the named objects in each image: inside it, best first, each object once.

        An image that fails gives its error and does not affect others.

        Args:
            images: (H, W, 3) uint8 each.
            names: At least one per image.

        Raises:
            ConfigError: As ``load``.
            WeightsError: As ``load``.
        """
        results: dict[int, list[Detection] | ItemError] = {}
        groups: dict[str, list[int]] = {}
        for number, wanted in enumerate(names):
            groups.setdefault(self._preset(wanted), []).append(number)
        for numbers in groups.values():
            settings, find = self.load(names[numbers[0]])
            found = _attempt(find, [images[number] for number in numbers], [names[number] for number in numbers])
            for number, one in zip(numbers, found, strict=True):
                size = Size(*images[number].shape[:2])
                results[number] = one if isinstance(one, ItemError) else tidy(one, size, settings.max_boxes)
        return [results[number] for number in range(len(images))]

    def one_each(self, images: Sequence[Pixels], names: Sequence[tuple[str, ...]]) -> list[Detection | ItemError | None]:
        """Return the box of each image, as ``recipe.detector.many`` chooses it; arguments and errors as ``all``.

        Where nothing was found, it is a ``PromptError``, or None with ``missing: salient``.
        """
        results: list[Detection | ItemError | None] = []
        for one, wanted in zip(self.all(images, names), names, strict=True):
            settings, _ = self.load(wanted)
            chosen = one if isinstance(one, ItemError) else choose(one, settings)
            if chosen is None and settings.missing == "fail":
                chosen = not_found(wanted, settings)
            results.append(chosen)
        return results

    def _preset(self, names: tuple[str, ...]) -> str:
        """Return the default detector for these names; an empty text if the recipe has a detector."""
        return default_detector(names) if self._resolved.recipe.detector is None else ""

    def _settings(self, preset: str) -> tuple[Detector, Path]:
        if self._resolved.recipe.detector is not None and self._resolved.detector is not None:
            return self._resolved.recipe.detector, self._resolved.detector
        return resolve_detector(detector_with({"preset": preset}), self._files, gpu=self._device == "cuda")


def _attempt(find: Find, images: Sequence[Pixels], names: Sequence[tuple[str, ...]]) -> list[list[Detection] | ItemError]:
    """Run the detector; if a batch fails, on its halves, since half a batch needs half the memory."""
    try:
        return find(images, names)
    except SegmentError as error:
        if len(images) == 1:
            return [SegmentError(str(error))]
    half = len(images) // 2
    return [*_attempt(find, images[:half], names[:half]), *_attempt(find, images[half:], names[half:])]
