"""Draw packages with flat faces in perspective: cartons, gable-top milk cartons, books, boxes of electronics, carrier bags."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.training.products.brands import Brand
from pipeline.training.products.layers import TWICE, Artwork, Colour, Points, shrink
from pipeline.training.products.light import Light, Pose, Vectors
from pipeline.training.products.prints import front, ground, shine, side
from pipeline.types import Pixels

MARGIN_PX = 2
"""Empty pixels around an artwork."""


class Face(NamedTuple):
    """A flat face: corners (4, 3) clockwise from the print's top left as seen from outside, and its print (h, w, 3)."""

    corners: Vectors
    print: Pixels
    two_sided: bool = False


class Disc(NamedTuple):
    """A flat cylinder on a face, such as a cap."""

    middle: npt.NDArray[np.float64]
    axis: npt.NDArray[np.float64]
    """From its foot to its top; the length is its height."""
    radius: float
    colour: Colour


class View:
    """A camera that shows the points (N, 3) of an object, y up, at a height in pixels. It draws at twice the size."""

    def __init__(self, points: Vectors, pose: Pose, light: Light, height_px: float) -> None:
        self.pose, self.light = pose, light
        self.distance = pose.distance * float(np.ptp(points, 0).max())
        flat = self._project(points)
        low, high = flat.min(0), flat.max(0)
        self.scale = TWICE * height_px / (high[1] - low[1])
        self.shift = TWICE * MARGIN_PX - low * self.scale
        width, height = (high - low) * self.scale / TWICE + 2 * MARGIN_PX + 1
        self.artwork: Artwork = np.zeros((TWICE * int(height), TWICE * int(width), 4), np.uint8)

    def place(self, points: Vectors) -> Points:
        """Return where points (N, 3) are on the artwork."""
        return np.asarray(self._project(points) * self.scale + self.shift)

    def _project(self, points: Vectors) -> Points:
        turned = self.pose.turn(points * (1, -1, 1))
        return np.asarray(turned[:, :2] * (self.distance / (self.distance - turned[:, 2:])))

    def brightness(self, corners: Vectors) -> float | None:
        """Return how bright the face is, or None if it faces away."""
        turned = self.pose.turn(corners * (1, -1, 1))
        normal = np.cross(turned[1] - turned[0], turned[-1] - turned[0])
        normal /= max(float(np.linalg.norm(normal)), 1e-9)
        towards_camera = np.array([0, 0, self.distance]) - turned.mean(0)
        return float(self.light.on(normal)) if normal @ towards_camera > 0 else None

    def paint(self, face: Face) -> None:
        """Paint a face if it can be seen."""
        brightness = self.brightness(face.corners)
        if brightness is None and not face.two_sided:
            return
        lit = cv2.convertScaleAbs(face.print, alpha=0.55 if brightness is None else 0.45 + 0.6 * brightness)
        height, width = lit.shape[:2]
        place = self.place(face.corners).astype(np.float32)
        x, y, across, down = cv2.boundingRect(place)
        x0, y0 = max(x, 0), max(y, 0)
        size = min(x + across, self.artwork.shape[1]) - x0, min(y + down, self.artwork.shape[0]) - y0
        if min(size) < 1:
            return
        texture = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        matrix = cv2.getPerspectiveTransform(texture, place - np.array([x0, y0], np.float32))
        warped = cv2.warpPerspective(lit, matrix, size, borderMode=cv2.BORDER_REPLICATE)
        mask = np.zeros(size[::-1], np.uint8)
        cv2.fillConvexPoly(mask, np.rint(place - (x0, y0)).astype(np.int32), 255)
        part = self.artwork[y0 : y0 + size[1], x0 : x0 + size[0]]
        cv2.copyTo(cv2.cvtColor(warped, cv2.COLOR_RGB2RGBA), mask, part)

    def paint_disc(self, disc: Disc) -> None:
        """Paint a cap: its side with grooves, then its top."""
        axis = disc.axis / np.linalg.norm(disc.axis)
        across = np.cross(axis, [0.3, 0.1, 1.0])
        across /= np.linalg.norm(across)
        along = np.cross(axis, across)
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)[:, None]
        ring = disc.middle + disc.radius * (np.cos(angle) * across + np.sin(angle) * along)
        foot, top = (np.rint(self.place(points)).astype(np.int32) for points in (ring, ring + disc.axis))
        hull = cv2.convexHull(np.concatenate([foot, top]))
        base = np.array(disc.colour, float)
        cv2.fillPoly(self.artwork, [hull], (*_shade(base, 0.72), 255))
        for number in range(0, 40, 2):
            cv2.line(self.artwork, foot[number].tolist(), top[number].tolist(), (*_shade(base, 0.6), 255), 1)
        inner = self.place(disc.middle + disc.axis + 0.82 * (ring - disc.middle))
        cv2.fillPoly(self.artwork, [top], (*_shade(base, 1.06), 255))
        cv2.fillPoly(self.artwork, [np.rint(inner).astype(np.int32)], (*_shade(base, 0.96), 255))


def draw_carton(brand: Brand, pose: Pose, light: Light, height_px: int, rng: np.random.Generator) -> Artwork:
    """Draw a box with six faces, in the proportions of cereals, brick cartons or parcels; some with a screw cap on top."""
    width, depth = rng.uniform(0.35, 1.1), rng.uniform(0.18, 0.6)
    faces = _cuboid(width, 1.0, depth, brand, rng, height_px)
    cap = None
    if width < 0.6 and rng.random() < 0.5:
        radius = 0.3 * min(width, depth)
        cap = Disc(np.array([0, 0.5, 0.15 * depth]), np.array([0, 0.6 * radius, 0]), radius, _cap_colour(brand, rng))
    return _draw(faces, [cap] if cap else [], pose, light, height_px)


def draw_gable(brand: Brand, pose: Pose, light: Light, height_px: int, rng: np.random.Generator) -> Artwork:
    """Draw a milk carton: a body, two slopes up to a ridge, folded gables beside them, a fin, and often a cap."""
    w, d, h = rng.uniform(0.17, 0.22), rng.uniform(0.16, 0.22), rng.uniform(0.32, 0.44)
    rise, fin = rng.uniform(0.12, 0.2), rng.uniform(0.04, 0.07)
    x, y, z = w, h, d
    faces = _cuboid(2 * w, 2 * h, 2 * d, brand, rng, height_px)[:-1]
    pixels = max(16, round(height_px * 2 * w))
    slope = shine(ground(brand, rng, max(12, pixels // 2), pixels), brand, rng)
    ridge = y + rise
    gable = np.asarray(cv2.convertScaleAbs(slope, alpha=0.85), np.uint8)
    cv2.line(gable, (0, len(gable)), (pixels // 2, 0), (90, 90, 90), 1, cv2.LINE_AA)
    for s in (-1, 1):  # front and back slope; left and right gable, which are folded inwards
        faces.append(Face(np.array([[-x * s, ridge, 0], [x * s, ridge, 0], [x * s, y, z * s], [-x * s, y, z * s]]), slope))
        tip, e = 0.75 * x * s, 0.04 * z * s
        faces.append(Face(np.array([[tip, ridge, e], [tip, ridge, -e], [x * s, y, -z * s], [x * s, y, z * s]]), gable))
    seam = np.array([[-x, ridge + fin, 0], [x, ridge + fin, 0], [x, ridge, 0], [-x, ridge, 0]])
    faces.append(Face(seam, _fin(brand, rng, pixels), two_sided=True))
    caps = []
    if rng.random() < 0.65:
        outward = np.array([0, z, rise]) / np.hypot(z, rise)
        caps = [Disc(np.array([0, y + 0.45 * rise, 0.55 * z]), 0.05 * outward, 0.36 * x, _cap_colour(brand, rng))]
    return _draw(faces, caps, pose, light, height_px)


def draw_book(brand: Brand, pose: Pose, light: Light, height_px: int, rng: np.random.Generator) -> Artwork:
    """Draw a book: covers, a spine, and pages on the other three sides."""
    width, depth = rng.uniform(0.6, 0.8), rng.uniform(0.04, 0.16)
    faces = _cuboid(width, 1.0, depth, brand, rng, height_px)
    pages = np.full((max(8, round(depth * height_px)), round(width * height_px), 3), (236, 230, 214), np.uint8)
    pages[::2] -= np.uint8(22)
    spine = faces[1].print
    upright = np.ascontiguousarray(pages.transpose(1, 0, 2))
    prints = [faces[0].print, spine, upright, faces[3].print, pages]
    return _draw([Face(face.corners, print_) for face, print_ in zip(faces, prints, strict=True)], [], pose, light, height_px)


def draw_carrier(brand: Brand, pose: Pose, light: Light, height_px: int, rng: np.random.Generator) -> Artwork:
    """Draw a paper bag with two handles of cord; the background shows through them."""
    width, depth, reach = rng.uniform(0.6, 1.0), rng.uniform(0.2, 0.4), rng.uniform(0.15, 0.35)
    faces = _cuboid(width, 1.0, depth, brand, rng, height_px)[:-1]
    angle = np.linspace(0, np.pi, 24)
    arc = np.stack([0.28 * width * np.cos(angle), 0.5 + reach * np.sin(angle), np.zeros(24)], 1)
    behind, before = (arc + np.array([0, 0.01, z]) for z in (-depth / 2, depth / 2))
    view = View(np.concatenate([*(face.corners for face in faces), behind, before]), pose, light, height_px)
    thickness = max(2, round(rng.uniform(0.012, 0.03) * TWICE * height_px))
    cord = (*_shade(np.array(brand.second, float), 0.8), 255)
    for face in faces:  # the inside of the walls that face away, which the open top shows
        if view.brightness(face.corners) is None:
            view.paint(face._replace(two_sided=True))
    cv2.polylines(view.artwork, [np.rint(view.place(behind)).astype(np.int32)], False, cord, thickness)
    for face in faces:
        view.paint(face)
    cv2.polylines(view.artwork, [np.rint(view.place(before)).astype(np.int32)], False, cord, thickness)
    return shrink(view.artwork)


def _cuboid(width: float, height: float, depth: float, brand: Brand, rng: np.random.Generator, height_px: int) -> list[Face]:
    """Return front, left, right, back and top of a box around the origin."""
    x, y, z = width / 2, height / 2, depth / 2
    down, across, deep = (max(12, round(length * height_px)) for length in (height, width, depth))
    front_print = shine(front(brand, rng, down, across), brand, rng)
    flank = side(brand, rng, down, deep)
    flanks = [shine(flank if rng.random() < 0.7 else ground(brand, rng, down, deep), brand, rng) for _ in range(2)]
    lid = shine(ground(brand, rng, deep, across), brand, rng)
    return [
        Face(np.array([[-x, y, z], [x, y, z], [x, -y, z], [-x, -y, z]]), front_print),
        Face(np.array([[-x, y, -z], [-x, y, z], [-x, -y, z], [-x, -y, -z]]), flanks[0]),
        Face(np.array([[x, y, z], [x, y, -z], [x, -y, -z], [x, -y, z]]), flanks[1]),
        Face(np.array([[x, y, -z], [-x, y, -z], [-x, -y, -z], [x, -y, -z]]), front_print),
        Face(np.array([[-x, y, -z], [x, y, -z], [x, y, z], [-x, y, z]]), lid),
    ]


def _draw(faces: list[Face], caps: list[Disc], pose: Pose, light: Light, height_px: int) -> Artwork:
    around = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1]])
    tops = [cap.middle + cap.axis + cap.radius * around for cap in caps]
    view = View(np.concatenate([*(face.corners for face in faces), *tops]), pose, light, height_px)
    for face in faces:
        view.paint(face)
    for cap in caps:
        view.paint_disc(cap)
    return shrink(view.artwork)


def _fin(brand: Brand, rng: np.random.Generator, width: int) -> Pixels:
    """Print the welded seam on top of a milk carton: its colour, and dots where it was pressed."""
    fin = ground(brand._replace(pattern="plain"), rng, max(8, width // 6), width)
    fin[2:4, ::3] = (fin[2:4, ::3] * 0.75).astype(np.uint8)
    return shine(fin, brand, rng)


def _cap_colour(brand: Brand, rng: np.random.Generator) -> Colour:
    return ((246, 246, 244), brand.accent, brand.second, (40, 40, 42))[int(rng.choice(4, p=[0.5, 0.25, 0.15, 0.1]))]


def _shade(colour: npt.NDArray[np.float64], brightness: float) -> Colour:
    red, green, blue = np.clip(colour * brightness, 0, 255).astype(int).tolist()
    return red, green, blue
