"""The Python door, on the bundled model and the bundled photos."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline.models.host_frames
from pipeline import Segmenter
from pipeline.config.job import Compute
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, ItemRefused, SegmentError, WeightsError
from pipeline.imaging.frame import Placement
from pipeline.imaging.trimap import trimap_of

EXAMPLES = Path(__file__).resolve().parent.parent / "pipeline" / "examples"


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter("u2netp", threads=2)


def test_a_pil_image(segmenter: Segmenter, tmp_path: Path) -> None:
    image = Image.open(EXAMPLES / "espresso.jpg")
    result = segmenter(image)
    alpha, cutout = result
    assert alpha.shape == (image.height, image.width)
    assert alpha.dtype == np.uint8
    assert cutout.shape == (image.height, image.width, 4)
    assert np.array_equal(cutout[..., 3], alpha)
    opaque = alpha == 255
    assert opaque.mean() > 0.2
    assert np.array_equal(cutout[opaque][:, :3], np.asarray(image)[opaque])
    assert 0.5 < result.quality <= 1
    assert result.signals["empty"] is False
    result.save(tmp_path / "cup.png")
    saved = np.asarray(Image.open(tmp_path / "cup.png"))
    assert np.array_equal(saved[..., 3], alpha)


def test_arrays_lists_and_boxes_agree_with_single_pictures(segmenter: Segmenter) -> None:
    one = np.asarray(Image.open(EXAMPLES / "osprey.jpg"))
    other = Image.open(EXAMPLES / "espresso.jpg")
    box = (300, 112, 470, 490)
    several = segmenter([one, other, one], [box, None, None])
    alone = [segmenter(one, box), segmenter(other), segmenter(one)]
    for a, b in zip(several, alone, strict=True):
        assert np.abs(a.alpha.astype(int) - b.alpha).max() <= 1
    assert several[0].signals["box_agreement"] is not None
    assert several[1].signals["box_agreement"] is None
    outside = several[0].alpha.copy()
    outside[80:520, 280:490] = 0
    assert outside.max() == 0, "a box's mask stays within the box and its margin"


def test_grey_and_rgba_arrays(segmenter: Segmenter) -> None:
    rgb = np.asarray(Image.open(EXAMPLES / "espresso.jpg"))
    rgba = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    assert np.array_equal(segmenter(rgba).alpha, segmenter(rgb).alpha)
    assert segmenter(rgb[..., 0]).alpha.shape == rgb.shape[:2]


@pytest.mark.parametrize("picture", [np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_picture_is_refused(segmenter: Segmenter, picture: np.ndarray) -> None:
    with pytest.raises(TypeError, match="shape"):
        segmenter(picture)


@pytest.mark.parametrize("thing", [None, 7, {"image": "a.jpg"}, [None], [["a.jpg"]]])
def test_anything_else_is_a_type_error_that_says_what_is_taken(fake_preset: str, thing: Any) -> None:
    with pytest.raises(TypeError, match="is not a picture; give a path, bytes, a binary file, a PIL image, an array"):
        Segmenter(fake_preset)(thing)


def test_every_form_of_a_picture_and_a_list_of_them_gives_the_same(fake_preset: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Image.open(EXAMPLES / "espresso.jpg").resize((90, 60))
    image.save(path)
    pixels, data, segmenter = np.asarray(image), path.read_bytes(), Segmenter(fake_preset)
    with path.open("rb") as file:
        taken = [path, str(path), data, bytearray(data), io.BytesIO(data), file, image, image.convert("RGBA"), pixels]
        taken += [pixels / 255.0, np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])]
        several = segmenter(taken)
        file.seek(0)
        for one in [*several, *(segmenter(picture) for picture in taken if not hasattr(picture, "read"))]:
            assert np.array_equal(one.mask, several[0].mask) and np.array_equal(one.picture, pixels)
    grey = [segmenter(form) for form in (image.convert("L"), np.asarray(image.convert("L")), pixels[..., :1] * 0)]
    assert np.array_equal(grey[0].mask, grey[1].mask) and not grey[2].picture.any()
    assert segmenter([]) == [] and len(segmenter(iter([pixels, path]))) == 2
    assert repr(segmenter) == "<Segmenter fake on cpu>"


def test_boxes_of_several_kinds(fake_preset: str) -> None:
    import torch

    segmenter, picture, box = Segmenter(fake_preset), np.zeros((60, 90, 3), np.uint8), (35, 20, 70, 50)
    picture[25:45, 40:65] = 250
    wanted = segmenter(picture, box).mask
    for form in (list(box), np.array(box), np.array(box, np.float32), torch.tensor(box), ["35", "20", "70", "50"]):
        assert np.array_equal(segmenter(picture, form).mask, wanted)
    for forms in ([box, None], np.array([box, (0, 0, 90, 60)]), [torch.tensor(box), None]):
        assert np.array_equal(segmenter([picture, picture], forms)[0].mask, wanted)
    for wrong, said in ((5, "box 5 is not four"), ("35,20,70,50", "box '35,20,70,50' is not four"), ({"x": 1}, "not four")):
        with pytest.raises(ItemRefused, match=said):
            segmenter(picture, wrong)
    for one_box in (box, np.array(box), "35,20,70,50"):
        with pytest.raises(ConfigError, match="one box for a list of 4 pictures; give a list with one box"):
            segmenter([picture] * 4, one_box)


def test_arguments_of_several_kinds(fake_preset: str, tmp_path: Path) -> None:
    import torch

    assert Segmenter(Path(fake_preset), device=torch.device("cpu")).device == "cpu"
    with pytest.raises(WeightsError, match="gone.onnx"):
        Segmenter("u2netp", weights=tmp_path / "gone.onnx")
    for wrong, said in (({"device": "mps"}, "Segmenter: device"), ({"engine": "tpu"}, "Segmenter: engine")):
        with pytest.raises(ConfigError, match=said):
            Segmenter(fake_preset, **wrong)
    for threads in (0, "2", 1.5):
        with pytest.raises(ConfigError, match=f"threads={threads!r} must be a whole number from 1"):
            Segmenter(fake_preset, threads=threads)
    with pytest.raises(ConfigError, match="colour"):
        Segmenter(fake_preset, colour=1)


def test_boxes_that_cannot_be_are_refused(segmenter: Segmenter) -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    with pytest.raises(ItemRefused, match="outside the image of 60 x 40 pixels"):
        segmenter(picture, (100, 0, 120, 10))
    with pytest.raises(ItemRefused, match="no area"):
        segmenter(picture, (10, 10, 5, 20))
    with pytest.raises(ConfigError, match="2 pictures but 1 boxes"):
        segmenter([picture, picture], [None])


def test_one_bad_picture_leaves_its_batch_alone(segmenter: Segmenter) -> None:
    from pipeline.types import Box

    picture = np.asarray(Image.open(EXAMPLES / "espresso.jpg"))
    results = segmenter.segment([picture, picture, picture], [None, Box(9000, 0, 9001, 1), None])
    assert isinstance(results[1], ItemRefused)
    assert not isinstance(results[0], Exception)
    assert not isinstance(results[2], Exception)


def test_a_failing_batch_is_halved_until_one_is_left(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = segmenter.model, []

    def fragile(frames: np.ndarray) -> object:
        sizes.append(len(frames))
        if len(frames) > 2 or any(frame.max() == 0 for frame in frames):
            raise SegmentError("out of memory")
        return real(frames)

    monkeypatch.setattr(segmenter.run_pass, "model", fragile)
    picture = np.asarray(Image.open(EXAMPLES / "espresso.jpg"))
    pictures = [picture] * 6
    pictures[4] = np.zeros_like(picture)
    results = segmenter.segment(pictures, [None] * 6)
    assert [isinstance(result, SegmentError) for result in results] == [False] * 4 + [True, False]
    assert sizes == [6, 3, 1, 2, 3, 1, 2, 1, 1]


def test_a_device_makes_frames_and_masks_as_the_host_does(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would do, on the CPU: uint8 images in, uint8 masks out, all else stays there."""
    import torch

    from pipeline.models.resample import DeviceFrames
    from pipeline.models.torch_pass import TorchPass

    pictures = [np.asarray(Image.open(EXAMPLES / name)) for name in ("espresso.jpg", "osprey.jpg")]
    boxes = [None, (300, 112, 470, 490)]
    hosts = segmenter(pictures, boxes)
    on_device = TorchPass(segmenter.resolved, device="cpu", threads=None, engine="auto")
    real, given = on_device.model, []

    def model(frames: object) -> object:
        given.append(frames)
        return real(frames)

    model.device = real.device  # type: ignore[attr-defined]
    on_device.model, on_device.framing = model, DeviceFrames(segmenter.recipe, torch.device("cpu"))
    monkeypatch.setattr(segmenter, "run_pass", on_device)
    for device, host in zip(segmenter(pictures, boxes), hosts, strict=True):
        for name, value in host.signals.items():  # frames are equal, so logits are
            assert device.signals[name] == (value if value is None else pytest.approx(value, rel=1e-5, abs=1e-6)), name
        off = np.abs(device.alpha.astype(int) - host.alpha)
        assert off.max() <= 1 and off.mean() < 1e-4
    assert [type(frames) for frames in given] == [torch.Tensor]


def test_a_picture_too_large_for_memory_leaves_its_batch_alone(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where frames and masks are made, too: there an image costs as much as its size."""
    small, large = np.zeros((40, 60, 3), np.uint8), np.zeros((80, 60, 3), np.uint8)
    for step in ("make_frame", "restore"):
        real = getattr(pipeline.models.host_frames, step)

        def tight(
            pixels: np.ndarray, placed: Placement, recipe: Recipe, refinement: Any = None, real: Any = real
        ) -> np.ndarray:
            if placed.size.height == 80:
                raise MemoryError
            return real(pixels, placed, recipe, *([] if refinement is None else [refinement]))

        with monkeypatch.context() as patched:
            patched.setattr(pipeline.models.host_frames, step, tight)
            results = segmenter.segment([small, large, small], [None] * 3)
        assert [isinstance(result, SegmentError) for result in results] == [False, True, False]


def test_a_list_of_any_length_goes_through_in_passes(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = segmenter.model, []

    def counted(frames: np.ndarray) -> object:
        sizes.append(len(frames))
        return real(frames)

    monkeypatch.setattr(segmenter.run_pass, "model", counted)
    assert segmenter.batch == 10  # 320 x 320 each
    segmenter([np.zeros((8, 8, 3), np.uint8)] * 12)
    assert sizes == [10, 2]


@pytest.mark.parametrize(
    ("compute", "frame_px", "device", "images"),
    [
        (Compute(), 1024, "cuda", 4),
        (Compute(), 1024, "cpu", 1),
        (Compute(), 2048, "cuda", 1),
        (Compute(), 8192, "cpu", 1),
        (Compute(), 512, "cuda", 16),
        (Compute(), 512, "cpu", 4),
        (Compute(), 320, "cpu", 10),
        (Compute(), 64, "cpu", 16),
        (Compute(batch_size=64), 1024, "cuda", 64),
    ],
)
def test_a_pass_takes_as_many_images_as_their_frames_pixels_allow(
    compute: Compute, frame_px: int, device: str, images: int
) -> None:
    assert compute.batch_size_for(frame_px, device) == images


def test_numbers_that_are_not_finite_fail_the_item(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    real = segmenter.model

    def broken(frames: np.ndarray) -> object:
        logits = real(frames)
        logits[0, 5, 5] = float("nan")
        return logits

    monkeypatch.setattr(segmenter.run_pass, "model", broken)
    picture = np.asarray(Image.open(EXAMPLES / "espresso.jpg"))
    first, second = segmenter.segment([picture, picture], [None, None])
    assert isinstance(first, SegmentError)
    assert "not finite" in str(first)
    assert not isinstance(second, Exception)


def test_an_empty_photo_has_an_empty_mask_unless_stretched() -> None:
    """Upstream's min-max makes an object out of nothing; it is there to compare with, and off."""
    plain = np.full((200, 300, 3), 128, np.uint8)
    assert Segmenter("u2netp")(plain).alpha.mean() < 40
    assert Segmenter("u2netp", stretch=True)(plain).alpha.max() == 255


def test_licences_and_weights_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="accept_licence=True"):
        Segmenter("rmbg-1.4")
    with pytest.raises(WeightsError):
        Segmenter("u2netp", weights_sha256="0" * 64)
    with pytest.raises(WeightsError):
        Segmenter("ben2-base", weights=str(tmp_path / "gone.safetensors"))
    with pytest.raises(ConfigError, match="no preset"):
        Segmenter("u3netp")


def test_the_trimap_is_that_of_the_mask() -> None:
    result = Segmenter("u2netp", threads=2)(Image.open(EXAMPLES / "osprey.jpg"))
    assert np.array_equal(result.trimap, trimap_of(result.alpha))
    assert 0.5 < (result.trimap != 128).mean() < 0.99


def test_the_mirrored_frame_and_the_refiner_s_change_are_signals() -> None:
    photo = np.asarray(Image.open(EXAMPLES / "espresso.jpg"))
    asked = Segmenter("u2netp", threads=2, views=["flip"])(photo).signals
    assert asked["flip_dice"] is not None and 0.9 < asked["flip_dice"] <= 1
    assert asked["refined"] is not None and 0 < asked["refined"] < 0.5
    plain = Segmenter("u2netp", threads=2, refiner="none")(photo).signals
    assert plain["flip_dice"] is None and plain["refined"] is None
    assert {name: plain[name] for name in ("soft_dice", "stray", "gaps")} == pytest.approx(
        {name: asked[name] for name in ("soft_dice", "stray", "gaps")}, abs=1e-3
    )


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_specks_are_transparent_and_scored_as_removed(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's output is replaced: a disc, and one of 0.6 % of its area beside it."""
    photo = np.asarray(Image.open(EXAMPLES / "espresso.jpg").resize((640, 480)))
    results = {}
    for share in (0.0, 0.01):
        settings: dict[str, Any] = {"refiner": "none", "estimate": False, "specks": share, "sharpen": 1}
        segmenter = Segmenter("u2netp" if engine == "auto" else "mvanet-lite", threads=1, engine=engine, **settings)
        side = segmenter.recipe.frame_px
        y, x = (np.mgrid[:side, :side] - side / 2) / side
        logits = torch.from_numpy(1000 * np.max([0.26 - np.hypot(x + 0.1, y), 0.02 - np.hypot(x - 0.4, y)], axis=0)).float()[
            None
        ]

        def model(frames: Any, logits: Any = logits, plain: bool = engine == "auto") -> Any:
            return logits.numpy() if plain else logits

        monkeypatch.setattr(segmenter.run_pass, "model", model)
        results[share] = segmenter(photo)
    kept, cleaned = results.values()
    speck, object_ = np.s_[:, 480:], np.s_[:, :450]
    assert kept.alpha[speck].max() == 255 and not cleaned.alpha[speck].any()
    assert np.array_equal(kept.alpha[object_], cleaned.alpha[object_])
    assert float(kept.signals["area_share"] or 0) > float(cleaned.signals["area_share"] or 0)


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_filled_holes_are_opaque_in_the_photo_s_colours_and_scored_as_filled(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's output is replaced: a disc with a hole of 1 % and one of 11 % of its area."""
    photo = np.asarray(Image.open(EXAMPLES / "espresso.jpg").resize((640, 480)))
    results = {}
    for holes in ("keep", "fill"):
        settings: dict[str, Any] = {"refiner": "none", "estimate": False, "holes": holes, "hole_share": 0.02}
        segmenter = Segmenter("u2netp" if engine == "auto" else "mvanet-lite", threads=1, engine=engine, **settings)
        side = segmenter.recipe.frame_px
        y, x = (np.mgrid[:side, :side] - side / 2) / side
        rings = [0.4 - np.hypot(x, y), np.hypot(x + 0.2, y) - 0.04, np.hypot(x - 0.1, y) - 0.13]
        logits = torch.from_numpy(1000 * np.min(rings, axis=0)).float()[None]

        def model(frames: Any, logits: Any = logits, plain: bool = engine == "auto") -> Any:
            return logits.numpy() if plain else logits

        monkeypatch.setattr(segmenter.run_pass, "model", model)
        results[holes] = segmenter(photo)
    kept, filled = results["keep"], results["fill"]
    small, large = np.s_[230:250, 182:202], np.s_[200:280, 360:420]
    assert not kept.alpha[small].any() and not kept.alpha[large].any()
    assert (filled.alpha[205:275, 157:227] == 255).all() and not filled.alpha[large].any()
    assert np.array_equal(filled.cutout[205:275, 157:227, :3], photo[205:275, 157:227])
    far = np.s_[:, 250:]
    assert np.array_equal(kept.alpha[far], filled.alpha[far])
    assert (kept.signals["holes"], filled.signals["holes"]) == (2, 1)
    assert filled.signals["area_share"] == pytest.approx(kept.signals["area_share"] + np.pi * 0.04**2, rel=0.01)
