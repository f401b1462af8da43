"""Draw round packages: bottles, cans, jars, cups, tubes and mugs, of metal, plastic, glass or PET."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.training.products.brands import Brand, colour
from pipeline.training.products.layers import TWICE, Artwork, Colour, Drawing, shrink, smooth_noise
from pipeline.training.products.light import Light, Pose
from pipeline.training.products.prints import front, side
from pipeline.training.products.revolve import MARGIN_PX, Solid, profile, revolve
from pipeline.types import Pixels


def _skin(height: int, width: int, base: Colour, opacity: int = 255) -> Pixels:
    skin = np.empty((height, width, 4), np.uint8)
    skin[:] = (*base, opacity)
    return skin


def _wrap(skin: Pixels, brand: Brand, rng: np.random.Generator, top: float, bottom: float) -> None:
    """Put a label around the skin between two heights in [0, 1]: the front in the middle, sides beside it."""
    height, width = skin.shape[:2]
    first, last = int(top * height), int(bottom * height)
    share = rng.uniform(0.55, 0.8)
    middle, edge = int(share * width), int((1 - share) / 2 * width)
    face = front(brand, rng, last - first, middle)
    rest = width - edge - middle
    flank = side(brand, rng, last - first, max(rest, 12))
    skin[first:last, :edge, :3] = flank[:, -edge:]
    skin[first:last, edge : edge + middle, :3] = face
    skin[first:last, edge + middle :, :3] = flank[:, :rest]
    skin[first:last, :, 3] = 255


def _grooves(skin: Pixels, top: float, bottom: float) -> None:
    """Cut upright grooves into a cap."""
    height = len(skin)
    part = skin[int(top * height) : int(bottom * height), ::3, :3]
    part[:] = (part * 0.86).astype(np.uint8)


def _grain(skin: Pixels, rng: np.random.Generator, strength: float) -> None:
    noise = 1 + strength * smooth_noise(rng, skin.shape[:2], (9, 7))
    skin[..., :3] = np.clip(skin[..., :3] * noise[..., None], 0, 255)


def draw_bottle(brand: Brand, pose: Pose, light: Light, height_px: int, rng: np.random.Generator) -> Artwork:
    """Draw a bottle of glass, PET or opaque plastic with a cap, a neck, shoulders, a label, and something in it."""
    u = rng.uniform
    radius, neck, cap = u(0.12, 0.22), u(0.035, 0.065), u(0.06, 0.13)
    shoulder, narrow = u(0.22, 0.42), u(0.0, 0.06)
    points = [(0.0, 1.06 * neck), (cap, 1.06 * neck), (cap + 0.002, neck), (cap + narrow, neck)]
    points += [((cap + narrow + shoulder) / 2, u(0.45, 0.85) * radius), (shoulder, radius)]
    points += [(0.97, radius), (1.0, 0.88 * radius)]
    radii = profile(points, height_px)
    kind = rng.choice(["opaque", "dark glass", "clear"], p=[0.5, 0.2, 0.3])
    width = max(24, int(3.2 * radii.max()))
    hue = u()
    if kind == "opaque":
        skin = _skin(height_px, width, brand.ground if rng.random() < 0.6 else (246, 246, 244))
    elif kind == "dark glass":
        skin = _skin(height_px, width, colour(u(0.05, 0.4), u(0.5, 0.9), u(0.15, 0.4)), int(u(215, 255)))
    else:
        skin = _skin(height_px, width, colour(hue, u(0, 0.12), u(0.8, 0.95)), int(u(120, 200)))
        level = int(u(0.12, 0.4) * height_px)
        liquid = colour(hue, u(0.0, 0.9), u(0.4, 1.0))
        skin[level:] = (*liquid, int(u(150, 255)))
    rest = 1 - shoulder
    _wrap(skin, brand, rng, shoulder + u(0.02, 0.2) * rest, 1 - u(0.04, 0.25) * rest)
    skin[: int(cap * height_px)] = (*(brand.accent if rng.random() < 0.6 else (240, 240, 238)), 255)
    _grooves(skin, 0.0, cap)
    return revolve(Solid(radii, skin, u(0.4, 1.0), lid=tuple(skin[0, 0, :3].tolist())), pose, light).cut_out()


def draw_can(brand: Brand, pose: Pose, light: Light, height_px: int, rng: np.random.Generator) -> Artwork:
    """Draw a can: a printed body between narrower ends of bare metal, with a lid seen from above."""
    u = rng.uniform
    radius, lip = u(0.2, 0.42), u(0.02, 0.06)
    tin = rng.random() < 0.5
    end = radius * (0.985 if tin else u(0.8, 0.88))
    points = [(0, end), (0.02, end), (0.02 + lip, radius), (0.97 - lip, radius), (0.985, end), (1, end)]
    radii = profile(points, height_px)
    skin = _skin(height_px, max(24, int(3.2 * radii.max())), (188, 190, 194))
    _wrap(skin, brand, rng, 0.03 + (lip if tin else 0.2 * lip), 0.975 - 0.5 * lip)
    lid = (200, 202, 206) if rng.random() < 0.7 else brand.second
    return revolve(Solid(radii, skin, u(0.2, 0.9), metal=True, lid=lid), pose, light).cut_out()


def draw_jar(brand: Brand, pose: Pose, light: Light, height_px: int, rng: np.random.Generator) -> Artwork:
    """Draw a jar of glass: a wide lid, contents that one sees, a label."""
    u = rng.uniform
    radius, lid = u(0.26, 0.42), u(0.1, 0.2)
    mouth = radius * u(0.75, 0.98)
    points = [(0, mouth), (lid, mouth), (lid + 0.01, 0.93 * mouth), (lid + 0.1, radius), (0.94, radius), (1, 0.86 * radius)]
    radii = profile(points, height_px)
    width = max(24, int(3.2 * radii.max()))
    skin = _skin(height_px, width, colour(u(-0.03, 0.3) if rng.random() < 0.8 else u(), u(0.2, 0.9), u(0.15, 0.9)))
    _grain(skin, rng, u(0.05, 0.35))
    if rng.random() < 0.35:  # half empty
        skin[: int(u(lid, 0.5) * height_px)] = (225, 230, 230, int(u(130, 200)))
    _wrap(skin, brand, rng, lid + u(0.15, 0.25), u(0.8, 0.92))
    skin[: int(lid * height_px)] = (*((brand.accent, (196, 176, 110), (240, 240, 240))[int(rng.integers(3))]), 255)
    _grooves(skin, 0.3 * lid, lid)
    return revolve(Solid(radii, skin, u(0.5, 1), lid=tuple(skin[0, 0, :3].tolist())), pose, light).cut_out()


def draw_cup(brand: Brand, pose: Pose, light: Light, height_px: int, rng: np.random.Generator) -> Artwork:
    """Draw a yoghurt cup or tub: wider at the top, with a rim and a lid of foil."""
    u = rng.uniform
    top = u(0.3, 0.52)
    bottom = top * u(0.7, 0.95)
    points = [(0, 1.04 * top), (0.03, 1.04 * top), (0.035, top), (0.98, bottom), (1, 0.97 * bottom)]
    radii = profile(points, height_px)
    skin = _skin(height_px, max(24, int(3.2 * radii.max())), brand.ground)
    _wrap(skin, brand, rng, 0.06, u(0.85, 0.99))
    skin[: int(0.035 * height_px), :, :3] = 240
    lid = ((214, 216, 220), brand.second, (245, 245, 243))[int(rng.integers(3))]
    return revolve(Solid(radii, skin, u(0.1, 0.7), lid=lid), pose, light).cut_out()


def draw_tube(brand: Brand, pose: Pose, light: Light, height_px: int, rng: np.random.Generator) -> Artwork:
    """Draw a tube that stands on its cap: flat and crimped at the top, round below."""
    u = rng.uniform
    flat, round_ = u(0.2, 0.28), u(0.13, 0.18)
    cap = u(0.75, 0.86)
    points = [(0, flat), (0.05, flat), (cap, round_), (cap + 0.01, 0.9 * round_), (1, 0.85 * round_)]
    radii = profile(points, height_px)
    skin = _skin(height_px, max(24, int(3.2 * radii.max())), brand.ground)
    _wrap(skin, brand, rng, 0.05, cap)
    crimp = skin[: int(0.05 * height_px) : 3, :, :3]
    crimp[:] = (crimp * 0.85).astype(np.uint8)
    skin[int(cap * height_px) :] = (*((240, 240, 238) if rng.random() < 0.6 else brand.accent), 255)
    _grooves(skin, cap, 1)
    return revolve(Solid(radii, skin, u(0.2, 0.9)), pose._replace(pitch=min(pose.pitch, 4)), light).cut_out()


def draw_mug(brand: Brand, pose: Pose, light: Light, height_px: int, rng: np.random.Generator) -> Artwork:
    """Draw a mug with a handle; the background shows through the handle."""
    u = rng.uniform
    radius = u(0.36, 0.5)
    radii = profile([(0, radius), (0.9, radius * u(0.85, 1)), (1, radius * 0.8)], height_px)
    skin = _skin(height_px, max(24, int(3.2 * radii.max())), brand.ground)
    if rng.random() < 0.6:
        _wrap(skin, brand, rng, 0.15, 0.85)
    inside = (int(0.6 * brand.ground[0]), int(0.6 * brand.ground[1]), int(0.6 * brand.ground[2]))
    return _with_handle(revolve(Solid(radii, skin, u(0.4, 1), lid=inside), pose, light), brand.ground, rng).cut_out()


def _with_handle(mug: Drawing, base: Colour, rng: np.random.Generator) -> Drawing:
    """Add a handle on the right."""
    height, width = mug.colours.shape[:2]
    thickness = max(3, int(rng.uniform(0.05, 0.1) * height))
    reach, rise = int(rng.uniform(0.2, 0.26) * height), int(rng.uniform(0.22, 0.28) * height)
    colours = np.empty((height, width + reach + thickness, 3), np.uint8)
    colours[:] = base
    opacity = np.zeros((TWICE * height, TWICE * colours.shape[1]), np.uint8)
    middle = width - 2 * MARGIN_PX - thickness // 2, int(0.53 * height)
    for share, brightness in ((1.3, 0.62), (0.75, 0.8), (0.4, 0.95)):
        tint = tuple(int(brightness * value) for value in base)
        cv2.ellipse(colours, middle, (reach, rise), 0, -95, 95, tint, max(1, int(share * thickness)), cv2.LINE_AA)
    axes = TWICE * reach, TWICE * rise
    cv2.ellipse(opacity, (TWICE * middle[0], TWICE * middle[1]), axes, 0, -95, 95, 255, TWICE * thickness)
    body = shrink(mug.opacity) > 0
    colours[:, :width][body] = mug.colours[body]
    part = opacity[:, : TWICE * width]
    cv2.max(part, mug.opacity, dst=part)
    return Drawing(colours, opacity)
