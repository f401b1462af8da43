"""Renditions: exact where nothing is mixed, and without colour fringes elsewhere."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config.rendition import Rendition, load_rendition
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.png import voc_palette
from pipeline.imaging.renditions.render import EMPTY, Rendered, render
from pipeline.imaging.rle import decode_counts
from pipeline.types import Mask, Pixels, Size

Photo = Callable[[int, int], Pixels]
WHITE = {"background": "#ffffff"}


def rendered(image: Pixels, mask: Mask, backgrounds: dict[str, bytes] | None = None, **facts: Any) -> list[Rendered]:
    return list(render([Rendition.model_validate({"name": "own"} | facts)], image, mask, backgrounds or {}))


def picture(image: Pixels, mask: Mask, **facts: Any) -> np.ndarray:
    (made,) = rendered(image, mask, **facts)
    assert made.data is not None and made.size is not None
    opened = Image.open(io.BytesIO(made.data))
    assert opened.size == made.size[::-1]
    return np.asarray(opened)


def disc(height: int, width: int, soft: float = 3.0, share: float = 0.35) -> Mask:
    y, x = np.mgrid[:height, :width] + 0.5
    distance = share * min(height, width) - np.hypot(y - height / 2, x - width / 2)
    return np.rint(255 * np.clip(distance / soft + 0.5, 0, 1)).astype(np.uint8)


@given(st.integers(0, 9), st.sampled_from([{}, {"trim": 0.0}, {"trim": 0.2, "aspect": "3:2"}, {"fill": 0.7}]))
def test_opaque_pixels_are_the_source_s_at_its_own_size(seed: int, facts: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (40, 50, 3), np.uint8)
    mask = disc(40, 50) if seed % 2 else np.where(disc(40, 50) > 99, 255, 0).astype(np.uint8)
    opaque = image[mask == 255]
    for background in ({}, WHITE, {"background": "#102030", "shadow": True}, {"shadow": True}):
        made = picture(image, mask, **facts, **background)
        found = made.reshape(-1, made.shape[2])
        if made.shape[2] == 4:
            assert np.array_equal(found[found[:, 3] == 255, :3], opaque)
        else:
            where = {tuple(pixel) for pixel in found}
            assert all(tuple(pixel) in where for pixel in opaque)


def test_without_settings_it_is_the_cutout(photo: Photo) -> None:
    image, mask = photo(60, 90), disc(60, 90)
    made = picture(image, mask)
    assert np.array_equal(made[..., 3], mask)
    assert np.array_equal(made[..., :3][mask > 0], image[mask > 0])
    assert not made[mask == 0].any()


@pytest.mark.parametrize("facts", [{}, {"size_px": 64}, {"size_px": 500}, {"fill": 0.5, "aspect": "1:1", "size_px": 333}])
@pytest.mark.parametrize("colour", ["#ffffff", "#000000", "#336699"])
def test_a_plain_background_has_exactly_that_colour(photo: Photo, facts: dict[str, Any], colour: str) -> None:
    image, mask = photo(120, 160), disc(120, 160)
    made = picture(image, mask, **facts, background=colour)
    clear = picture(image, mask, what="alpha", **facts) == 0
    assert clear.sum() > 0.2 * clear.size
    assert (made[clear] == tuple(bytes.fromhex(colour[1:]))).all()


@pytest.mark.parametrize("quality", [None, 60, 75, 95, 100])
def test_webp_is_nearly_white_and_exact_at_quality_100(photo: Photo, quality: int | None) -> None:
    image, mask = photo(300, 400), disc(300, 400)
    facts = {"fill": 0.5, "aspect": "1:1", "size_px": 400} | WHITE
    made, exact = (
        picture(image, mask, **facts, format=form, quality=quality if form == "webp" else None) for form in ("webp", "png")
    )
    if quality == 100:
        assert np.array_equal(made, exact)
    away = np.ones(made.shape[:2], bool)
    away[100 - 32 : 300 + 32, 100 - 32 : 300 + 32] = False  # the object's box and two blocks of the format around it
    assert made[away].min() >= 252


def blocks(touched: np.ndarray, side: int = 8) -> np.ndarray:
    """Mark all pixels of blocks with a touched pixel."""
    height, width = touched.shape
    padded = np.pad(touched, ((0, -height % side), (0, -width % side)))
    tiles = padded.reshape(padded.shape[0] // side, side, -1, side).any(axis=(1, 3))
    return np.kron(tiles, np.ones((side, side), bool))[:height, :width]


@pytest.mark.parametrize("quality", range(60, 101, 4))
def test_jpegs_are_white_except_in_the_blocks_of_the_edge(photo: Photo, quality: int) -> None:
    image, mask = photo(300, 400), disc(300, 400)
    facts = {"fill": 0.8, "aspect": "1:1", "size_px": 403}
    made = picture(image, mask, **facts, **WHITE, format="jpeg", quality=quality)
    touched = picture(image, mask, what="alpha", **facts) > 0
    assert (made[~blocks(touched)] == 255).all()


@pytest.mark.parametrize(("quality", "levels"), [(90, 45), (None, 25), (98, 9), (100, 4)])
def test_ringing_in_those_blocks_is_bounded(quality: int | None, levels: int) -> None:
    """Noise with a hard edge is the worst case. The default quality is 95; ``amazon-main`` has 98."""
    image, mask = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8), disc(400, 400, soft=0.01)
    made = picture(image, mask, **WHITE, format="jpeg", quality=quality)
    assert made[mask == 0].min() >= 255 - levels
    assert load_rendition("amazon-main").quality == 98


def test_edges_have_neither_a_green_nor_a_dark_fringe() -> None:
    """A red disc with a soft edge on green: cut out, composited over white and resized. All colours are red to white."""
    red, green, mask = np.array([200, 20, 30]), np.array([40, 160, 50]), disc(400, 400, soft=8)
    share = mask[..., None] / 255
    image = np.rint(share * red + (1 - share) * green).astype(np.uint8)
    foreground = estimate_foreground(image, mask, "multilevel")
    for size in (400, 150, 61, 1000):
        made = picture(foreground, mask, **WHITE, size_px=size).astype(float)
        share_of_white = (made[..., 0] - 200) / 55  # by the red channel
        expected = red + np.clip(share_of_white, 0, 1)[..., None] * (255 - red)
        assert np.abs(made - expected).max() < 26, f"at {size} px an edge is neither greener nor darker than red on white"
        assert np.abs(made - expected).mean() < 0.6
        assert (made[..., 1] - made[..., 2]).max() < 12, "no green"
        assert made.min(axis=2).min() >= 18 and made[..., 0].min() >= 190, "no dark"


@pytest.mark.parametrize("size_px", [37, 160, 700])
def test_colours_of_transparent_pixels_never_bleed_in(size_px: int) -> None:
    image, mask = np.zeros((120, 160, 3), np.uint8), disc(120, 160)
    image[:] = (0, 255, 0)
    image[mask > 0] = (230, 60, 70)
    for facts in ({}, WHITE, {"fill": 0.9}):
        made = picture(image, mask, size_px=size_px, **facts)
        seen = made[made[..., 3] > 0][:, :3] if made.shape[2] == 4 else made.reshape(-1, 3)
        assert (seen[:, 0] >= 228).all(), "red or white only"


def test_a_plain_object_keeps_its_colour_and_opacity_at_any_size() -> None:
    image, mask = np.full((90, 120, 3), (10, 200, 120), np.uint8), disc(90, 120, soft=6)
    for size_px in (31, 64, 300):
        made = picture(image, mask, size_px=size_px)
        seen = made[..., 3] > 4
        assert np.abs(made[seen][:, :3].astype(int) - (10, 200, 120)).max() <= 2
        assert made[..., 3].mean() / 255 == pytest.approx((mask / 255).mean(), rel=0.03)


def test_a_shadow_changes_nothing_outside_its_reach(photo: Photo) -> None:
    image, mask = photo(200, 200), disc(200, 200)
    facts = {"fill": 0.6, "aspect": "1:1", "size_px": 300} | WHITE
    plain, shaded = picture(image, mask, **facts), picture(image, mask, **facts, shadow=True)
    changed = (plain != shaded).any(axis=2)
    rows = np.flatnonzero(changed.any(axis=1))
    lowest, height = 240, 180
    assert rows.size and rows[0] >= lowest - 0.04 * height - 0.06 * height - 3
    assert rows[-1] <= lowest + 0.04 * height + 0.06 * height + 3
    alpha = picture(image, mask, what="alpha", fill=0.6, aspect="1:1", size_px=300)
    assert np.abs(plain.astype(int) - shaded)[alpha == 255].max() <= 1, "it is behind the object"
    assert (shaded[~changed & (alpha == 0)] == 255).all()
    assert (shaded <= plain).all() and shaded.min() < 200


def test_a_transparent_shadow_equals_a_shadow_on_white(photo: Photo) -> None:
    image, mask = photo(150, 150), disc(150, 150)
    facts = {"trim": 0.1, "shadow": {"opacity": 0.6}}
    clear, white = picture(image, mask, **facts), picture(image, mask, **facts, **WHITE)
    share = clear[..., 3:] / 255
    assert np.abs(share * clear[..., :3] + (1 - share) * 255 - white).max() <= 2.5


def test_a_background_picture_covers_the_frame(photo: Photo) -> None:
    image, mask = photo(80, 60), disc(80, 60, share=0.2)
    sink = io.BytesIO()
    Image.fromarray(np.dstack([np.full((90, 300), value, np.uint8) for value in (10, 120, 240)])).save(sink, "PNG")
    facts = {"background": "beach.png", "background_sha256": "0" * 64, "fill": 0.5, "aspect": "1:1", "size_px": 200}
    made = picture(image, mask, backgrounds={"0" * 64: sink.getvalue()}, **facts)
    alpha = picture(image, mask, what="alpha", fill=0.5, aspect="1:1", size_px=200)
    assert made.shape == (200, 200, 3)
    assert (made[alpha == 0] == (10, 120, 240)).all()


def test_recolouring_keeps_the_background(photo: Photo) -> None:
    image, mask = photo(100, 100), disc(100, 100)
    plain, turned = (picture(image, mask, **WHITE, **facts) for facts in ({}, {"hue": 120}))
    assert (turned[mask == 0] == 255).all()
    assert np.abs(plain.astype(int) - turned)[mask == 255].mean() > 10


@pytest.mark.parametrize("facts", [{}, {"trim": 0.1, "size_px": 77}, {"fill": 0.8, "aspect": "2:1"}])
def test_all_forms_of_a_mask_agree(facts: dict[str, Any]) -> None:
    image, mask = np.zeros((100, 130, 3), np.uint8), disc(100, 130)
    alpha, binary, indexed = (picture(image, mask, what=what, **facts) for what in ("alpha", "binary", "indexed"))
    (rle,) = rendered(image, mask, what="rle", **facts)
    assert rle.data is not None and rle.suffix == "json"
    inside = (alpha >= 128).astype(np.uint8)
    assert np.array_equal(binary, 255 * inside)
    assert np.array_equal(indexed, inside)
    geometry = json.loads(rle.data)
    assert set(geometry) == {"size", "counts", "bbox", "area"}
    assert np.array_equal(decode_counts(Size(*inside.shape), geometry["counts"]), inside)
    if not facts:
        assert np.array_equal(alpha, mask)


def test_an_indexed_png_has_the_palette_of_pascal_voc() -> None:
    (made,) = rendered(np.zeros((9, 9, 3), np.uint8), disc(9, 9), what="indexed")
    assert made.data is not None
    opened = Image.open(io.BytesIO(made.data))
    assert opened.mode == "P"
    palette = np.array(opened.getpalette()).reshape(-1, 3)
    assert np.array_equal(palette, voc_palette())
    assert palette[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert len({tuple(colour) for colour in palette.tolist()}) == 256
    assert palette[21].tolist() == [128, 64, 128] or palette[21].tolist() == [128, 192, 0]


def test_an_empty_mask_has_no_cutout() -> None:
    image, empty = np.zeros((20, 30, 3), np.uint8), np.full((20, 30), 12, np.uint8)
    for facts in ({}, WHITE, {"fill": 0.9, "size_px": [10, 20]}, {"what": "alpha", "trim": 0.1}):
        for made in rendered(image, empty, **facts):
            assert (made.data, made.size, made.note) == (None, None, EMPTY)
    assert picture(image, empty, what="indexed").sum() == 0, "labels without an object are written"
    (rle,) = rendered(image, empty, what="rle")
    assert rle.data is not None and json.loads(rle.data)["area"] == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (3, 2)])
@pytest.mark.parametrize("facts", [{}, {"trim": 0.5}, {"fill": 0.85, "aspect": "1:1", "size_px": 64}, {"size_px": [8, 300]}])
@pytest.mark.parametrize("more", [{}, WHITE | {"format": "jpeg"}, WHITE | {"shadow": True}, {"shadow": True, "format": "webp"}])
def test_the_smallest_objects_are_rendered(shape: tuple[int, int], facts: dict[str, Any], more: dict[str, Any]) -> None:
    image, mask = np.full((*shape, 3), 90, np.uint8), np.full(shape, 255, np.uint8)
    for made in rendered(image, mask, **facts, **more):
        assert made.data is not None and made.size is not None
        assert Image.open(io.BytesIO(made.data)).size == made.size[::-1]


def test_one_pixel_in_a_large_image_is_rendered() -> None:
    image, mask = np.zeros((700, 900, 3), np.uint8), np.zeros((700, 900), np.uint8)
    image[123, 456], mask[123, 456] = (9, 8, 7), 255
    made = picture(image, mask, trim=1.0, **WHITE)
    assert made.shape == (3, 3, 3) and made[1, 1].tolist() == [9, 8, 7] and made.sum() == 24 + 8 * 765


def test_notes_for_the_editor(photo: Photo) -> None:
    image, mask = photo(100, 100), disc(100, 100)
    assert rendered(image, mask, fill=0.9)[0].note is None
    assert rendered(image, mask, fill=0.9, size_px=200)[0].note == "enlarged 2.5 times"
    mask[60:, 40:60] = 255
    assert rendered(image, mask, trim=0.1)[0].note == "the object reaches the photo's border (bottom)"
    assert rendered(image, mask)[0].note is None, "untrimmed"
    grey = np.full((100, 100, 3), 120, np.uint8)
    assert "grey" in str(rendered(grey, mask, hue="#ff0000")[0].note)
    wide = disc(20, 20)
    assert "the full size exceeds the limits" in str(rendered(np.zeros((20, 20, 3), np.uint8), wide, fill=0.001)[0].note)


def test_haze_is_cleared_and_opaque_pixels_stay() -> None:
    image, mask = np.zeros((1, 256, 3), np.uint8), np.arange(256, dtype=np.uint8)[None]
    cleared = picture(image, mask, what="alpha", haze=0.1)[0].astype(int)
    assert not cleared[:26].any() and cleared[255] == 255
    assert (np.diff(cleared) >= 0).all() and np.diff(cleared).max() <= 2, "no step where it begins"


def test_amazons_main_image() -> None:
    """A tall object: 2000 x 2000, white, at least 85 % of the frame's height."""
    image, mask = np.full((600, 300, 3), 40, np.uint8), np.zeros((600, 300), np.uint8)
    mask[50:550, 100:220] = 255
    (made,) = render([load_rendition("amazon-main")], image, mask, {})
    assert made.data is not None and made.suffix == "jpg"
    opened = Image.open(io.BytesIO(made.data))
    assert opened.size == (2000, 2000) and opened.mode == "RGB"
    assert opened.layer[0][1:3] == opened.layer[1][1:3] == (1, 1), "4:4:4"  # type: ignore[attr-defined]
    pixels = np.asarray(opened)
    dark = np.flatnonzero((pixels < 128).all(axis=2).any(axis=1))
    assert (dark[-1] - dark[0] + 1) / 2000 == pytest.approx(0.88, abs=0.001)
    for corner in (pixels[:100], pixels[-100:], pixels[:, :600], pixels[:, -600:]):
        assert (corner == 255).all()


@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [
        ("white", ("JPEG", "RGB"), (300, 200)),
        ("natural-shadow", ("JPEG", "RGB"), (300, 200)),
        ("webp", ("WEBP", "RGBA"), (300, 200)),
        ("square-white", ("JPEG", "RGB"), (158, 158)),
        ("thumbnail", ("JPEG", "RGB"), (256, 256)),
        ("transparent", ("PNG", "RGBA"), (148, 148)),
    ],
)
def test_bundled_pictures(name: str, kind: tuple[str, str], size: tuple[int, int]) -> None:
    """A disc, visible over 142 pixels of a photo of 300 x 200, with haze of 3 % all around."""
    image, mask = np.full((200, 300, 3), 60, np.uint8), np.maximum(disc(200, 300), 8)
    (made,) = render([load_rendition(name)], image, mask, {}, image)
    opened = Image.open(io.BytesIO(made.data or b""))
    assert ((opened.format, opened.mode), opened.size) == (kind, size)
    pixels = np.asarray(opened)
    height, width = pixels.shape[:2]
    assert np.abs(pixels[height // 2, width // 2, :3].astype(int) - 60).max() <= 2
    if opened.mode == "RGBA":
        assert np.array_equal(pixels[..., 3], mask) or name == "transparent"
    else:
        assert (pixels[[0, -1]] == 255).all() and (pixels[:, [0, -1]] == 255).all(), "haze is white"


def test_the_same_pixels_give_the_same_bytes(photo: Photo) -> None:
    image, mask = photo(90, 90), disc(90, 90)
    for facts in (
        {},
        WHITE | {"format": "jpeg"},
        {"format": "webp", "size_px": 64},
        {"what": "rle"},
        {"shadow": True, "hue": 40},
    ):
        assert rendered(image, mask, **facts)[0].data == rendered(image.copy(), mask.copy(), **facts)[0].data
