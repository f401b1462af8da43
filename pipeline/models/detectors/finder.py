"""Find one box per image by name, with a detector that is loaded when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from pipeline.config.detector import Detector, detector_with
from pipeline.errors import ItemError, SegmentError
from pipeline.models.detectors.detector import Detection, Find, choose, not_found, tidy
from pipeline.models.detectors.files import resolve_detector
from pipeline.models.detectors.load import load_detector
from pipeline.models.resolve import ResolvedRecipe
from pipeline.storage.files import Files
from pipeline.types import Pixels, Size


class Finder:
    """The detector of a recipe; without one, the default detector. Threads may share it.

    Args:
        resolved: The recipe.
        files: Access to storage, for the default detector.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads; default: the library's choice.
    """

    def __init__(self, resolved: ResolvedRecipe, files: Files, *, device: str, threads: int | None) -> None:
        self._resolved, self._files, self._device, self._threads = resolved, files, device, threads
        self._lock = threading.Lock()
        self._loaded: tuple[Detector, Find] | None = None

    def load(self) -> tuple[Detector, Find]:
        """Load the detector, once, and return it with its settings.

        Raises:
            ConfigError: transformers is not installed.
            WeightsError: A file cannot be fetched or used.
        """
        with self._lock:
            if self._loaded is None:
                settings, folder = self._settings()
                self._loaded = settings, load_detector(settings, folder, device=self._device, threads=self._threads)
            return self._loaded

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
        settings, find = self.load()
        found = _attempt(find, images, names)
        return [
            one if isinstance(one, ItemError) else tidy(one, Size(*image.shape[:2]), settings.max_boxes)
            for one, image in zip(found, images, strict=True)
        ]

    def one_each(self, images: Sequence[Pixels], names: Sequence[tuple[str, ...]]) -> list[Detection | ItemError | None]:
        """Return the box of each image, as ``recipe.detector.many`` chooses it; arguments and errors as ``all``.

        Where nothing was found, it is a ``PromptError``, or None with ``missing: salient``.
        """
        settings, _ = self.load()
        results: list[Detection | ItemError | None] = []
        for one, wanted in zip(self.all(images, names), names, strict=True):
            chosen = one if isinstance(one, ItemError) else choose(one, settings)
            if chosen is None and settings.missing == "fail":
                chosen = not_found(wanted, settings)
            results.append(chosen)
        return results

    def _settings(self) -> tuple[Detector, Path]:
        if self._resolved.recipe.detector is not None and self._resolved.detector is not None:
            return self._resolved.recipe.detector, self._resolved.detector
        return resolve_detector(detector_with({}), self._files, gpu=self._device == "cuda")


def _attempt(find: Find, images: Sequence[Pixels], names: Sequence[tuple[str, ...]]) -> list[list[Detection] | ItemError]:
    """Run the detector; if a batch fails, on its halves, since half a batch needs half the memory."""
    try:
        return find(images, names)
    except SegmentError as error:
        if len(images) == 1:
            return [SegmentError(str(error))]
    half = len(images) // 2
    return [*_attempt(find, images[:half], names[:half]), *_attempt(find, images[half:], names[half:])]
