"""Turn a profile around an upright axis, and light what comes of it."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.training.products.layers import TWICE, Colour, Drawing, Plane, light_up
from pipeline.training.products.light import Light, Pose
from pipeline.types import Mask, Pixels

MARGIN_PX = 2

Radii = npt.NDArray[np.float32]
"""Radius in pixels per row of the upright object."""


class Solid(NamedTuple):
    """Outline that is turned around an axis."""

    radii: Radii
    skin: Pixels
    """(h, w, 4) RGBA: the front half, from its left edge to its right edge."""
    gloss: float
    metal: bool = False
    lid: Colour | None = None
    """Colour of the flat top, where one sees it from above."""


def profile(points: list[tuple[float, float]], height_px: int) -> Radii:
    """Return radii from (height from the top in [0, 1], radius as a share of the height), with rounded corners."""
    rows = np.linspace(0, 1, height_px)
    radii = np.interp(rows, [y for y, _ in points], [radius for _, radius in points]) * height_px
    softened = cv2.GaussianBlur(radii.astype(np.float32)[:, None], (0, 0), 0.009 * height_px + 0.3)
    return np.asarray(np.maximum(softened[:, 0], 1), np.float32)


def revolve(solid: Solid, pose: Pose, light: Light) -> Drawing:
    """Draw a solid as seen from slightly above (``pose.pitch``), turned around its axis (``pose.yaw``)."""
    radii, tilt = solid.radii, float(np.sin(np.deg2rad(np.clip(pose.pitch, 0, 30))))
    height, half = len(radii), int(np.ceil(radii.max())) + MARGIN_PX
    above, below = (round(tilt * float(radii[end])) for end in (0, -1))
    rows = np.arange(-above - MARGIN_PX, height + below + MARGIN_PX, dtype=np.float32)[:, None]
    radius = radii[np.clip(rows[:, 0], 0, height - 1).astype(int)][:, None]
    across = (np.arange(-half, half, dtype=np.float32) + 0.5)[None]
    side_on = np.clip(across / radius, -1, 1)  # x of the normal
    facing = np.sqrt(1 - side_on**2)
    angle = np.arcsin(side_on) / np.float32(np.pi) + np.float32(0.5 + pose.yaw / 360)
    columns = np.clip(angle, 0, 1) * np.float32(solid.skin.shape[1] - 1)
    from_top = np.clip(rows - tilt * radius * facing, 0, height - 1)
    clear = solid.skin.shape[2] > 3 and int(solid.skin[..., 3].min()) < 255
    source = solid.skin if clear else np.ascontiguousarray(solid.skin[..., :3])
    skin = np.asarray(cv2.remap(source, columns, from_top, cv2.INTER_LINEAR), np.uint8)
    opacity = _silhouette(radii, tilt, half, above, skin.shape[:2])
    if clear:
        opacity = np.asarray(cv2.min(opacity, cv2.resize(_opacity(skin[..., 3], facing), opacity.shape[::-1])), np.uint8)
        skin = np.ascontiguousarray(skin[..., :3])
    lit = _light(skin, solid, light, side_on, np.gradient(radius, axis=0))
    if solid.lid is not None and above > 1:
        middle, axes = (half, above + MARGIN_PX), (round(float(radii[0])), above)
        cv2.ellipse(lit, middle, axes, 0, 0, 360, solid.lid, -1, cv2.LINE_AA)
        rim = tuple(int(min(255, 1.12 * value)) for value in solid.lid)
        cv2.ellipse(lit, middle, axes, 0, 0, 360, rim, max(1, height // 200), cv2.LINE_AA)
    return Drawing(lit, opacity)


def _silhouette(radii: Radii, tilt: float, half: int, above: int, shape: tuple[int, int]) -> Mask:
    """Draw the outline at twice the size: 255 inside."""
    mask = np.zeros((TWICE * shape[0], TWICE * shape[1]), np.uint8)
    rows = np.arange(len(radii)) + above + MARGIN_PX
    right = np.stack([half + radii, rows], 1)
    left = np.stack([half - radii, rows], 1)[::-1]
    polygon = np.rint(TWICE * np.concatenate([right, left])).astype(np.int32)
    cv2.fillPoly(mask, [polygon], 255)
    for row, radius in ((rows[0], radii[0]), (rows[-1], radii[-1])):
        axes = (round(TWICE * float(radius)), round(TWICE * tilt * float(radius)))
        cv2.ellipse(mask, (TWICE * half, TWICE * int(row)), axes, 0, 0, 360, 255, -1)
    return mask


def _opacity(skin: Mask, facing: Plane) -> Mask:
    """Make glass denser towards its outline, where one looks through more of it."""
    dense = np.clip((1 - facing) ** 2 * 255, 0, 255)
    return np.where(skin < 255, np.maximum(skin, skin + (255 - skin) * dense / 255), 255).astype(np.uint8)


def _light(skin: Pixels, solid: Solid, light: Light, side_on: Plane, slope: Plane) -> Pixels:
    """Shade a skin by its normals; add the reflections of two upright lamps; give metal its bands."""
    side_on, slope = side_on[::2, ::2], slope[::2]  # light changes slowly
    facing, steep = np.sqrt(1 - np.square(side_on)), np.sqrt(1 + np.square(slope))
    x, y, z = light.towards
    lit = np.clip((side_on * x - slope * y + facing * z) / steep, 0, 1)
    shade = (0.38 + 0.68 * (light.ambient + (1 - light.ambient) * lit)) * (0.72 + 0.28 * np.sqrt(facing))
    if solid.metal:
        shade *= 1 + 0.28 * np.sin(side_on * 7 + x * 3) * np.abs(side_on)
    lamp = 1 if x > 0 else -1
    gleam = np.exp(-(((side_on - 0.62 * lamp) / 0.10) ** 2)) + 0.5 * np.exp(-(((side_on + 0.8 * lamp) / 0.07) ** 2))
    size = skin.shape[1::-1]
    return light_up(skin, cv2.resize(shade, size), cv2.resize(solid.gloss * 150 * gleam / steep, size))
