"""The bundled detector, NanoDet (github.com/RangiLyu/nanodet), in ONNX Runtime on the CPU. Imports no PyTorch.

The network sees 416 x 416 pixels. For each of 3,549 points, on grids of 8, 16 and 32 pixels, it returns the score of each
class, and a distribution over 11 distances, in steps of the grid, for each side of the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.common_names import COMMON_NAMES, class_of
from pipeline.config.detector import DEFAULT_DETECTOR, Detector
from pipeline.errors import ItemError, PromptError, SegmentError, WeightsError
from pipeline.imaging.detection import letterbox, without_duplicates
from pipeline.models.detectors.detector import Detection
from pipeline.models.engines.forks import note_load
from pipeline.models.engines.onnx import open_session, refuse_external_weights
from pipeline.models.engines.ort import RUN_ERRORS
from pipeline.models.failures import first_line
from pipeline.types import Box, Pixels

SIDE_PX = 416
STRIDES_PX = (8, 16, 32)
STEPS = 11
"""Distances of a side from a point: 0 … 10 steps of the grid."""

MEAN, STD = np.array([103.53, 116.28, 123.675], np.float32), np.array([57.375, 57.12, 58.395], np.float32)
"""Of blue, green and red, in that order, as the network was trained (its nanodet-g.yml)."""

OVERLAP = 0.6
"""Intersection over union of two boxes of one object (NanoDet's own ``multiclass_nms``)."""

Floats = npt.NDArray[np.float32]


class NanoDet:
    """A ``Find`` for the 80 names of COCO.

    Args:
        settings: Resolved settings.
        path: The ONNX file.
        threads: CPU threads; default: all cores.

    Raises:
        WeightsError: The file cannot be used.
    """

    def __init__(self, settings: Detector, path: Path, *, threads: int | None) -> None:
        note_load()
        self.settings, self.device = settings, "cpu"
        refuse_external_weights(path)
        self.session = open_session(path, "cpu", 0, threads, optimise=True)
        _check(self.session, path)
        self.points, self.strides = _grid()

    def __call__(self, images: Sequence[Pixels], names: Sequence[tuple[str, ...]]) -> list[list[Detection] | ItemError]:
        """See ``Find``. Images are run one by one, so that results do not depend on the batch."""
        results: list[list[Detection] | ItemError] = []
        for image, wanted in zip(images, names, strict=True):
            try:
                classes = [known(name) for name in wanted]
            except PromptError as error:
                results.append(error.with_traceback(None))  # it leads to this frame, and so to all images
                continue
            placed = letterbox(image, SIDE_PX)
            scores, distances = self._forward(placed.square)
            if not (np.isfinite(scores).all() and np.isfinite(distances).all()):
                results.append(SegmentError("the detector returned numbers that are not finite"))
                continue
            boxes = placed.to_image(self.boxes(distances))
            results.append(self._detections(boxes, scores[:, classes], wanted))
        return results

    def boxes(self, distances: Floats) -> Floats:
        """Return the boxes (3549, 4) x0 y0 x1 y1 in the square: the expected values of the distances (3549, 44)."""
        logits = distances.reshape(-1, 4, STEPS)
        p = np.exp(logits - logits.max(2, keepdims=True))
        p /= p.sum(2, keepdims=True)
        sides = (p @ np.arange(STEPS, dtype=np.float32)) * self.strides
        return np.concatenate([self.points - sides[:, :2], self.points + sides[:, 2:]], 1)

    def _forward(self, square: Pixels) -> tuple[Floats, Floats]:
        """Return scores (3549, 80) in [0, 1] and distances (3549, 44) of a square (416, 416, 3) RGB.

        Raises:
            SegmentError: The network failed.
        """
        x = (square[..., ::-1].astype(np.float32) - MEAN) / STD
        try:
            scores, distances = self.session.run(["scores", "distances"], {"image": x.transpose(2, 0, 1)[None]})
        except RUN_ERRORS as error:
            raise SegmentError(f"the detector failed: {first_line(error)}") from error
        return scores[0], distances[0]

    def _detections(self, boxes: Floats, scores: Floats, names: tuple[str, ...]) -> list[Detection]:
        """Return the boxes above the threshold for each name, from boxes (3549, 4) and scores (3549, names)."""
        found: list[Detection] = []
        for column, name in enumerate(names):
            high = np.flatnonzero(scores[:, column] > self.settings.threshold)
            kept = without_duplicates(boxes[high], scores[high, column], self.settings.threshold, OVERLAP)
            found += [Detection(Box(*boxes[one].tolist()), float(scores[one, column]), name) for one in high[kept]]
        return found


def known(name: str) -> int:
    """Return the class of a name.

    Raises:
        PromptError: The detector does not know it.
    """
    found = class_of(name)
    if found is None:
        raise PromptError(
            f"{name!r} is none of the {len(COMMON_NAMES)} names that the detector nanodet knows (matteline models --names "
            f"lists them); for any name, use --set recipe.detector={DEFAULT_DETECTOR}"
        )
    return found


def _grid() -> tuple[Floats, Floats]:
    """Return the points (3549, 2) x y in the square, and the grid's step at each (3549, 1), in pixels."""
    points, strides = [], []
    for stride in STRIDES_PX:
        along = (np.arange(SIDE_PX // stride, dtype=np.float32) + 0.5) * stride
        points.append(np.stack(np.meshgrid(along, along), -1).reshape(-1, 2))
        strides.append(np.full((len(points[-1]), 1), stride, np.float32))
    return np.concatenate(points), np.concatenate(strides)


def _check(session: Any, path: Path) -> None:
    """Refuse a graph with other inputs and outputs.

    Raises:
        WeightsError: It says which are expected.
    """
    found = {one.name: one.shape[1:] for one in (*session.get_inputs(), *session.get_outputs())}
    points = sum((SIDE_PX // stride) ** 2 for stride in STRIDES_PX)
    expected = {
        "image": [3, SIDE_PX, SIDE_PX],
        "scores": [points, len(COMMON_NAMES)],
        "distances": [points, 4 * STEPS],
    }
    if found != expected:
        raise WeightsError(f"{path} has the inputs and outputs {str(found)[:200]}, but nanodet needs {expected}")
