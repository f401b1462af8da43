"""Frames to train on: every number is one sample, the same in every process and after every interruption."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from torch import Tensor, from_numpy
from torch.utils.data import Dataset

from pipeline.config.job import Limits
from pipeline.errors import ConfigError, ItemError, PipelineError
from pipeline.imaging.decode import decode
from pipeline.imaging.ground_truth import decode_ground_truth
from pipeline.log import log
from pipeline.storage.files import Files
from pipeline.training.augment import damage, expose
from pipeline.training.crops import Look, Photo, composite, look_at_box, look_whole, one_part, side_by_side
from pipeline.training.material import Material
from pipeline.training.recipe import TrainRecipe
from pipeline.types import Mask, Pixels

COMPOSITE_PX = 640
"""Side of a composite, of which a frame shows a part."""

TRIES = 8
"""So many photos in a row that can't be read end a training."""


class Sample(NamedTuple):
    """``frame`` (S, S, 3) uint8, ``alpha`` (S, S) uint8, ``edge`` (S, S) uint8: how much of an edge a pixel is on, of 255."""

    frame: Tensor
    alpha: Tensor
    edge: Tensor


@dataclass(frozen=True)
class Item:
    """Where a photo and its true mask are."""

    item_id: str
    image_uri: str
    truth_uri: str


def held_out(item_id: str, of: int) -> bool:
    """Whether an item is for validation; by its id alone, so that it always is."""
    return int(hashlib.sha256(item_id.encode()).hexdigest()[:8], 16) % of == 0


@dataclass
class Photos:
    """Photos and truths of a manifest, read as they are drawn."""

    items: Sequence[Item]
    files: Files = field(default_factory=Files)
    limits: Limits = field(default_factory=Limits)

    def read(self, number: int) -> Photo:
        """One of them.

        Raises:
            ItemError: the photo or its truth can't be had, or they aren't of one size.
        """
        item = self.items[number]
        image = decode(self._bytes(item.image_uri), self.limits)
        alpha = decode_ground_truth(self._bytes(item.truth_uri), self.limits)
        if image.shape[:2] != alpha.shape:
            size = f"{alpha.shape[1]} x {alpha.shape[0]}, its photo {image.shape[1]} x {image.shape[0]}"
            raise ItemError(f"{item.item_id}: the true mask is {size}; they must be of one size")
        return Photo(image, alpha)

    def _bytes(self, uri: str) -> bytes:
        return self.files.read(uri, max_bytes=self.limits.max_bytes, timeout_s=self.limits.fetch_s)


class Samples(Dataset[Sample]):
    """Sample after sample, by number, without end.

    Every pass over the photos is in another order. A photo that can't be read is left out with a warning, and the next one
    takes its place.

    Args:
        material: of composites; None for none.
        frame_px: side of the frames.
    """

    def __init__(self, photos: Photos, material: Material | None, recipe: TrainRecipe, frame_px: int) -> None:
        self.photos, self.material, self.recipe, self.frame_px = photos, material, recipe, frame_px
        shares = recipe.views.model_dump() | ({} if material else {"composite": 0.0})
        self.kinds = list(shares)
        self.shares = np.array(list(shares.values())) / sum(shares.values())
        self._order: tuple[int, list[int]] = (-1, [])

    def __getitem__(self, number: int) -> Sample:
        rng = np.random.default_rng([self.recipe.seed, number])
        look = self._look(number, str(rng.choice(self.kinds, p=self.shares)), rng)
        frame, alpha = show(look, self.frame_px, rng)
        if rng.random() < 0.5:
            frame, alpha = np.ascontiguousarray(frame[:, ::-1]), np.ascontiguousarray(alpha[:, ::-1])
        frame = expose(frame, rng, self.recipe.colour)
        if rng.random() < self.recipe.damage:
            frame = damage(frame, rng)
        return sample_of(frame, alpha)

    def _look(self, number: int, kind: str, rng: np.random.Generator) -> Look:
        if kind == "composite" and self.material:
            photo, needs_box = composite(self.material, rng, COMPOSITE_PX)
            return look_at_box(photo, rng) if needs_box or rng.random() < 0.5 else look_whole(photo, rng)
        photo = self._photo(number)
        if kind == "whole":
            return look_whole(photo, rng)
        if kind == "pair":
            photo = side_by_side(photo, self._photo(number + 1 + int(rng.integers(1, 1000))), rng)
        elif rng.random() < 0.5:
            photo = one_part(photo, rng)
        return look_at_box(photo, rng)

    def _photo(self, number: int) -> Photo:
        for place in range(number, number + TRIES):
            try:
                return self.photos.read(self._drawn(place))
            except PipelineError as error:
                log.warning(f"left out: {error}")
        raise ConfigError(f"{TRIES} photos in a row can't be used; look at the manifest's images and true masks")

    def _drawn(self, number: int) -> int:
        count = len(self.photos.items)
        turn, place = divmod(number, count)
        if self._order[0] != turn:
            self._order = turn, np.random.default_rng([self.recipe.seed, turn, 1]).permutation(count).tolist()
        return self._order[1][place]


def show(look: Look, side: int, rng: np.random.Generator | None = None) -> tuple[Pixels, Mask]:
    """What a frame shows, whatever its shape: (side, side, 3) uint8 and its truth (side, side) uint8."""
    x0, y0, x1, y1 = look.region
    shrinks = side < min(x1 - x0, y1 - y0)
    plain = rng is not None and rng.random() < 0.25
    filter_ = cv2.INTER_AREA if shrinks and not plain else cv2.INTER_LINEAR
    image, alpha = look.photo.image[y0:y1, x0:x1], look.photo.alpha[y0:y1, x0:x1]
    frame = cv2.resize(image, (side, side), interpolation=filter_)
    truth = cv2.resize(alpha, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(frame, np.uint8), np.asarray(truth, np.uint8)


def sample_of(frame: Pixels, alpha: Mask) -> Sample:
    """With the weight of edges: how far alpha is from its mean over a 16th of the frame, as in F³Net (arXiv 1911.11445)."""
    reach = len(frame) // 16 | 1
    edge = cv2.absdiff(cv2.blur(alpha, (reach, reach)), alpha)
    return Sample(*(from_numpy(np.ascontiguousarray(plane)) for plane in (frame, alpha, edge)))


class Held(Dataset[Sample]):
    """Photos for validation: all of each, as it is."""

    def __init__(self, photos: Photos, frame_px: int) -> None:
        self.photos, self.frame_px = photos, frame_px

    def __len__(self) -> int:
        return len(self.photos.items)

    def __getitem__(self, number: int) -> Sample:
        photo = self.photos.read(number)
        height, width = photo.alpha.shape
        return sample_of(*show(Look(photo, (0, 0, width, height)), self.frame_px))
