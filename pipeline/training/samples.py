"""Make training frames. Every number is one sample: the same in every process, and after every interruption."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from torch import Tensor, from_numpy
from torch.utils.data import Dataset

from pipeline.config.job import Limits
from pipeline.errors import ConfigError, ItemError, PipelineError
from pipeline.imaging.decode import decode
from pipeline.imaging.ground_truth import decode_ground_truth
from pipeline.log import log
from pipeline.storage.files import Files
from pipeline.training.augment import degrade, jitter_colours
from pipeline.training.crops import (
    Crop,
    Photo,
    bounding_box,
    composite,
    crop_photo,
    crop_to_box,
    crop_to_rough_box,
    keep_one_object,
    side_by_side,
)
from pipeline.training.material import Material
from pipeline.training.products.scene import draw_size, make_product_scene
from pipeline.training.recipe import TrainRecipe
from pipeline.types import Mask, Pixels

COMPOSITE_PX = 640
"""Side of a composite, of which a frame shows a part."""

ROUGH_BOXES = 0.5
"""Share of the samples of the view ``box`` whose box is loose, displaced or cut as in ``crop_to_rough_box``. The others have
margins on all sides as in ``crop_to_box``."""

HELD_OUT_PRODUCTS = 48
"""Number of synthetic products to validate on."""

AS_IN_JOBS = 0.75
"""Share of frames that are resized as jobs do it, with Pillow's bilinear filter. The others are means of areas."""

VALIDATION_PHOTOS = 250
"""Number of photos to validate on, at most, chosen by their ids."""

MAX_UNREADABLE = 8
"""Number of consecutive photos that cannot be read before a training ends."""


class Sample(NamedTuple):
    """``frame`` (S, S, 3) uint8, its ground truth ``alpha`` (S, S) uint8, and ``edge`` (S, S) uint8, 255 on a sharp edge."""

    frame: Tensor
    alpha: Tensor
    edge: Tensor


@dataclass(frozen=True)
class Item:
    """URIs of a photo and of its ground truth."""

    item_id: str
    image_uri: str
    truth_uri: str
    boxed: bool = False
    """True if the ground truth is the object in a box, beside which there may be others."""


def id_hash(item_id: str) -> int:
    """Return a hash of an id of 32 bits, the same on every machine."""
    return int(hashlib.sha256(item_id.encode()).hexdigest()[:8], 16)


def is_held_out(item_id: str, one_in: int) -> bool:
    """Return whether an item is for validation. It depends on the id alone, so it never changes."""
    return id_hash(item_id) % one_in == 0


@dataclass(frozen=True)
class Photos:
    """Photos and ground truth of a manifest, read when they are needed."""

    items: Sequence[Item]
    files: Files
    limits: Limits = Limits()  # noqa: RUF009  (immutable)

    def read(self, number: int) -> Photo:
        """Read and decode one photo.

        Raises:
            ItemError: The photo or its ground truth cannot be read, or their sizes differ.
        """
        item = self.items[number]
        image = decode(self._bytes(item.image_uri), self.limits)
        alpha = decode_ground_truth(self._bytes(item.truth_uri), self.limits)
        if image.shape[:2] != alpha.shape:
            size = f"{alpha.shape[1]} x {alpha.shape[0]}, its photo {image.shape[1]} x {image.shape[0]}"
            raise ItemError(f"{item.item_id}: the ground truth is {size} pixels; both must have the same size")
        return Photo(image, alpha)

    def _bytes(self, uri: str) -> bytes:
        return self.files.read(uri, max_bytes=self.limits.max_bytes, timeout_s=self.limits.fetch_s)


class Samples(Dataset[Sample]):
    """Training samples by number, without end.

    Every epoch has its own order. A photo that cannot be read is skipped with a warning, and the next one takes its place. The
    views ``whole`` and ``box`` of an item with a box are both a crop to it: the complete photo shows other objects, too.

    Args:
        material: For composites and products; None for none of either.
        frame_px: Side of the frames.
    """

    def __init__(self, photos: Photos, material: Material | None, recipe: TrainRecipe, frame_px: int) -> None:
        self.photos, self.material, self.recipe, self.frame_px = photos, material, recipe, frame_px
        shares = recipe.views.model_dump() | ({} if material else {"composite": 0.0, "products": 0.0})
        self.views = list(shares)
        self.shares = np.array(list(shares.values())) / sum(shares.values())
        self._order: tuple[int, list[int]] = (-1, [])  # an epoch and its order
        self._skipped: set[int] = set()

    def __getitem__(self, number: int) -> Sample:
        rng = np.random.default_rng([self.recipe.seed, number])
        crop = self._crop(number, str(rng.choice(self.views, p=self.shares)), rng)
        frame, alpha = resize_crop(crop, self.frame_px, rng)
        if rng.random() < 0.5:
            frame, alpha = np.ascontiguousarray(frame[:, ::-1]), np.ascontiguousarray(alpha[:, ::-1])
        frame = jitter_colours(frame, rng, self.recipe.colour)
        if rng.random() < self.recipe.damage:
            frame = degrade(frame, rng)
        return sample_of(frame, alpha)

    def _crop(self, number: int, view: str, rng: np.random.Generator) -> Crop:
        if view == "composite" and self.material:
            photo, needs_box = composite(self.material, rng, COMPOSITE_PX)
            return crop_to_box(photo, rng) if needs_box or rng.random() < 0.5 else crop_photo(photo, rng)
        if view == "products" and self.material:
            return product_crop(self.material, rng)
        place, photo = self._photo(number)
        boxed = self.photos.items[place].boxed
        if view == "whole" and not boxed:
            return crop_photo(photo, rng)
        if view == "pair":
            other, neighbour = self._photo(number + 1 + int(rng.integers(1, 1000)))
            if self._uri(other) != self._uri(place):  # else the same object would be both object and background
                return crop_to_box(side_by_side(photo, neighbour, rng), rng)
        if not boxed and rng.random() < 0.5:
            photo = keep_one_object(photo, rng)
        box = bounding_box(photo.alpha)
        if box is None or rng.random() >= ROUGH_BOXES:
            return crop_to_box(photo, rng)
        return crop_to_rough_box(photo, box, rng)

    def _uri(self, place: int) -> str:
        return self.photos.items[place].image_uri

    def _photo(self, number: int) -> tuple[int, Photo]:
        """Return a readable photo and its place among the photos."""
        for candidate in range(number, number + MAX_UNREADABLE):
            place = self._shuffled(candidate)
            try:
                return place, self.photos.read(place)
            except PipelineError as error:
                if place not in self._skipped:
                    log.warning(f"skipped: {self.photos.items[place].item_id}: {error}")
                self._skipped.add(place)
        raise ConfigError(f"{MAX_UNREADABLE} photos in a row cannot be read; check the manifest's images and ground truth")

    def _shuffled(self, number: int) -> int:
        """Return the photo at a place of the endless sequence of epochs."""
        count = len(self.photos.items)
        epoch, place = divmod(number, count)
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.recipe.seed, epoch, 1]).permutation(count).tolist()
        return self._order[1][place]


def product_crop(material: Material, rng: np.random.Generator) -> Crop:
    """Make a scene of products, and crop it to a rough box of what is asked for, or not at all."""
    scene = make_product_scene(material, rng, draw_size(rng))
    photo = Photo(scene.image, scene.alpha)
    box = bounding_box(photo.alpha) if scene.box is None and rng.random() < 0.4 else scene.box
    return crop_photo(photo, rng) if box is None else crop_to_rough_box(photo, box, rng)


def resize_crop(crop: Crop, side: int, rng: np.random.Generator | None = None) -> tuple[Pixels, Mask]:
    """Resize a crop of any shape to a frame (side, side, 3) uint8 and its ground truth (side, side) uint8.

    Without ``rng``, and mostly with it, the frame is that of a job (``imaging.frame.make_frame``).
    """
    x0, y0, x1, y1 = crop.region
    image, alpha = crop.photo.image[y0:y1, x0:x1], crop.photo.alpha[y0:y1, x0:x1]
    area = cv2.INTER_AREA if side < min(x1 - x0, y1 - y0) else cv2.INTER_LINEAR
    if rng is None or rng.random() < AS_IN_JOBS:
        frame = np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
    else:
        frame = np.asarray(cv2.resize(image, (side, side), interpolation=area), np.uint8)
    return frame, np.asarray(cv2.resize(alpha, (side, side), interpolation=area), np.uint8)


def sample_of(frame: Pixels, alpha: Mask) -> Sample:
    """Return a sample with its edge weights: |alpha - its mean over a 16th of the frame|, as in F³Net (arXiv 1911.11445)."""
    window = len(frame) // 16 | 1
    edge = cv2.absdiff(cv2.blur(alpha, (window, window)), alpha)
    return Sample(*(from_numpy(np.ascontiguousarray(plane)) for plane in (frame, alpha, edge)))


class ProductSamples(Dataset[Sample]):
    """Synthetic products for validation, the same ones every time, without augmentation.

    Args:
        material: That is held out of training.
        frame_px: Side of the frames.
    """

    def __init__(self, material: Material, frame_px: int) -> None:
        self.material, self.frame_px = material, frame_px

    def __len__(self) -> int:
        return HELD_OUT_PRODUCTS

    def __getitem__(self, number: int) -> Sample:
        return sample_of(*resize_crop(product_crop(self.material, np.random.default_rng(number)), self.frame_px))


class ValidationSamples(Dataset[Sample]):
    """Photos for validation, without augmentation: complete, or cropped to their boxes."""

    def __init__(self, photos: Photos, frame_px: int) -> None:
        items = photos.items
        if len(items) > VALIDATION_PHOTOS:
            items = sorted(items, key=lambda one: id_hash(one.item_id))[:VALIDATION_PHOTOS]
        self.photos, self.frame_px = replace(photos, items=items), frame_px

    def __len__(self) -> int:
        return len(self.photos.items)

    def __getitem__(self, number: int) -> Sample:
        photo = self.photos.read(number)
        height, width = photo.alpha.shape
        if self.photos.items[number].boxed:
            crop = crop_to_box(photo, np.random.default_rng(number))
        else:
            crop = Crop(photo, (0, 0, width, height))
        return sample_of(*resize_crop(crop, self.frame_px))
