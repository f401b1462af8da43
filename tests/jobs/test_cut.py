"""``matteline cut``: several pictures, formats, pipes; what is refused."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jobs.cut import _beside, _targets
from jobs.main import app
from jobs.options import box_of
from pipeline import Segmenter
from pipeline.config.job import load_job
from pipeline.errors import ConfigError, DecodeError, FetchError, PromptError
from pipeline.log import log
from pipeline.run.driver import run_job

Cut = Callable[..., int]


@pytest.fixture
def cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_preset: str, make_photos: Callable[..., list[Path]]) -> Cut:
    """``cut(*arguments)`` runs the command beside ``photo-000.jpg`` to ``photo-002.jpg``, and returns its exit code."""
    make_photos(tmp_path, 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(log, "handlers", list[logging.Handler]())  # the command replaces them
    return lambda *arguments: app(["cut", "-p", fake_preset, *arguments], standalone_mode=False) or 0


def opened(path: str) -> Image.Image:
    return Image.open(path)


def test_several_pictures_go_to_a_folder(cut: Cut, capsys: pytest.CaptureFixture[str]) -> None:
    assert cut("photo-000.jpg", "photo-001.jpg", "-o", "cutouts") == 0
    assert sorted(path.name for path in Path("cutouts").iterdir()) == ["photo-000.png", "photo-001.png"]
    assert "cutouts/photo-001.png: 127 x 101, quality" in capsys.readouterr().out


def test_a_picture_to_review_is_called_so_with_a_reason(cut: Cut, capsys: pytest.CaptureFixture[str]) -> None:
    assert cut("photo-000.jpg", "--set", "recipe.review_below=1") == 0
    assert re.search(r"quality \d\.\d\d, to review \([a-z]", capsys.readouterr().out)
    assert cut("photo-000.jpg", "--set", "recipe.review_below=0") == 0
    assert "to review" not in capsys.readouterr().out


def test_one_that_cannot_be_read_does_not_keep_the_others(cut: Cut, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    assert cut("missing.jpg", "broken.jpg", "photo-000.jpg") == 1
    said = capsys.readouterr().err
    assert "error: missing.jpg: it does not exist" in said and "error: broken.jpg: " in said
    assert "2 of 3 pictures failed" in said
    assert opened("photo-000-cutout.png").mode == "RGBA"


@pytest.mark.parametrize(
    ("arguments", "path", "form", "mode"),
    [
        (("-o", "x.webp"), "x.webp", "WEBP", "RGBA"),
        (("-o", "x.jpg"), "x.jpg", "JPEG", "RGB"),
        (("-o", "x.tif"), "x.tif", "TIFF", "RGBA"),
        (("-o", "x.tiff", "--background", "black"), "x.tiff", "TIFF", "RGB"),
        (("-o", "x.png", "--background", "#f4f1ea"), "x.png", "PNG", "RGB"),
        (("--format", "jpg"), "photo-000-cutout.jpg", "JPEG", "RGB"),
        (("-o", "folder/", "--format", "webp"), "folder/photo-000.webp", "WEBP", "RGBA"),
        (("--mask-only",), "photo-000-mask.png", "PNG", "L"),
    ],
)
def test_formats(cut: Cut, arguments: tuple[str, ...], path: str, form: str, mode: str) -> None:
    assert cut("photo-000.jpg", *arguments) == 0
    picture = opened(path)
    assert (picture.format, picture.mode, picture.size) == (form, mode, (120, 90))


def test_a_picture_too_large_for_webp_does_not_keep_the_others(cut: Cut, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (16_384, 20), "teal").save("wide.png")
    assert cut("wide.png", "photo-000.jpg", "-o", "out/", "--format", "webp") == 1
    assert "error: wide.png: a WebP file holds sides of up to 16,383 pixels" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in Path("out").iterdir()] == ["photo-000.webp"]


@pytest.mark.parametrize(
    ("picture", "path"),
    [
        ("s3://b/take#1.jpg", "out/take#1.png"),
        ("s3://b/50%25 off?.jpg", "out/50%25 off?.png"),
        ("https://cdn.example.com/blue%20cup.v2.jpg?w=8#x", "out/blue cup.v2.png"),
        ("https://cdn.example.com/", "out/picture.png"),
        ("https://cdn.example.com", "out/picture.png"),
        ("https://cdn.example.com/a/%2e%2e%2f%2e%2e%00.jpg", "out/_.png"),
        ("file:///photos/blue%20cup%231.jpg", "out/blue cup#1.png"),
        ("photos/.hidden.jpg", "out/hidden.png"),
        ("take#3.jpg", "out/take#3.png"),
    ],
)
def test_names_of_cutouts(picture: str, path: str) -> None:
    (target,) = _targets([picture], "out/", None, None, False)
    assert target.path == path


@pytest.mark.parametrize(
    ("path", "beside"),
    [
        ("s3://my.bucket/cup", "s3://my.bucket/cup"),
        ("s3://my.bucket/v1.2/cup.png", "s3://my.bucket/v1.2/cup"),
        ("out.v2/cup", "out.v2/cup"),
        ("cup.png", "cup"),
        ("/a/cup.x.png", "/a/cup.x"),
    ],
)
def test_renditions_are_named_like_the_file_without_its_suffix(path: str, beside: str) -> None:
    assert _beside(path) == beside


def test_a_name_without_a_suffix_is_a_file_if_a_format_says_so(cut: Cut) -> None:
    assert cut("photo-000.jpg", "-o", "cutout", "--format", "webp") == 0
    assert opened("cutout").format == "WEBP"


def test_one_picture_given_as_a_manifest_leads_to_this_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("run", "plan"):
        with pytest.raises(ConfigError, match=r"^photo\.jpg is one image: matteline cut photo\.jpg"):
            app([command, "-m", "photo.jpg"], standalone_mode=False)
    with pytest.raises(ConfigError, match=r"clip\.mp4 is one video: matteline cut https://h/clip\.mp4"):
        app(["run", "-m", "https://h/clip.mp4"], standalone_mode=False)
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(ConfigError, match="no output: give --output"):
        app(["run", "-m", "folder.jpg"], standalone_mode=False)


@pytest.mark.parametrize("form", ["png", "webp", "jpg"])
def test_every_format_has_the_same_picture(cut: Cut, form: str) -> None:
    """Over a colour, all show the cutout composited on it; JPEG and WebP within their loss."""
    assert cut("photo-000.jpg", "-o", "plain.png") == 0
    assert cut("photo-000.jpg", "-o", f"on.{form}", "--background", "#f4f1ea") == 0
    wanted = Image.new("RGBA", (120, 90), "#f4f1ea")
    wanted.alpha_composite(opened("plain.png"))
    difference = np.abs(np.asarray(opened(f"on.{form}"), np.int16) - np.asarray(wanted.convert("RGB"), np.int16))
    assert difference.mean() < {"png": 0.5, "webp": 4, "jpg": 2}[form]


def test_a_picture_without_an_object_is_the_background(cut: Cut) -> None:
    Image.new("RGB", (80, 60), "#808080").save("plain.png")
    assert cut("plain.png", "-o", "on.jpg", "--background", "black") == 0
    assert np.asarray(opened("on.jpg")).max() == 0


def test_stdin_and_stdout(cut: Cut, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sink = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(Path("photo-000.jpg").read_bytes())))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=sink, isatty=lambda: False))
    assert cut("-") == 0
    assert Image.open(sink).size == (120, 90)
    assert "stdout: 120 x 90, quality" in capsys.readouterr().err


def test_stdin_is_limited(cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"x" * 101)))
    with pytest.raises(FetchError, match="stdin has more than 100 bytes"):
        cut("-", "-o", "x.png", "--set", "limits.max_bytes=100")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"no picture")))
    with pytest.raises(DecodeError, match="^stdin: "):
        cut("-", "-o", "x.png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("photo-000.jpg", "photo-001.jpg", "-o", "x.png"), "is one file, but there are 2 pictures"),
        (("photo-000.jpg", "photo-001.jpg", "-o", "-"), "is one file, but there are 2 pictures"),
        (("photo-000.jpg", "photo-001.jpg", "--box", "1,2,30,40"), "are for one picture"),
        (("photo-000.jpg", "--box", "1,2,x,40"), "^--box: box '1,2,x,40' is not four numbers; give x0, y0, x1, y1 in pixels"),
        (("photo-000.jpg", "--box", "[30,40,1,2]"), "has no area"),
        (("photo-000.jpg", "--box", "none"), "'none' is empty"),
        (("photo-000.jpg", "photo-001.jpg", "--point", "1,2"), "are for one picture"),
        (("photo-000.jpg", "--point", "1,2", "--box", "1,2,30,40"), "--point cannot be combined with --box or --label"),
        (("photo-000.jpg", "--point", "1"), "not two numbers"),
        (("photo-000.jpg", "--point", "a,b"), "--point: point 'a,b' is not two numbers; give x, y in pixels"),
        (("photo-000.jpg", "--point", "nan,1"), "not two numbers"),
        (("photo-000.jpg", "--point", " "), "--point is empty; give x,y in pixels"),
        (("photo-000.jpg", "./photo-000.jpg"), "would both be written to photo-000-cutout.png"),
        (("photo-000.jpg", "-o", "o.png", "--mask", "./O.png"), "photo-000.jpg and the mask would both be written to ./O.png"),
        (
            ("photo-000.jpg", "-o", "o.png", "--mask", "o-white.jpg", "-r", "white"),
            "the mask and a rendition of photo-000.jpg would both be written to o-white.jpg; choose another name",
        ),
        (("photo-000.jpg", "-o", "x.gif"), "must end in .png, .webp, .jpg or .tiff"),
        (("photo-000.jpg", "-o", "x.png", "--format", "webp"), "name different formats"),
        (("photo-000.jpg", "--format", "gif"), "choose png, webp, jpg or tiff"),
        (("photo-000.jpg", "--background", "beige"), "is not a colour"),
        (("photo-000.jpg", "--background", "#f4f"), "six hex digits"),
        (("photo-000.jpg", "--mask-only", "--background", "white"), "a mask has no background"),
        (("photo-000.jpg", "--mask-only", "-o", "x.jpg"), "masks are written as PNG only"),
        (("photo-000.jpg", "-o", "photo-000.jpg"), "photo-000.jpg is what the command reads"),
        (("photo-000.jpg", "-o", "-", "--rendition", "amazon-main"), "files of their own"),
        (("photo-000.jpg", "-o", "folder"), "--output folder has no suffix: add .png for a file, or a / for a folder"),
        (("photo-000.jpg", "--mask-only", "-o", "masks/one"), "masks/one has no suffix: add .png for a file"),
        ((".",), ". is a folder; for all its pictures: matteline run -m . -o OUT"),
    ],
)
def test_what_is_refused(cut: Cut, arguments: tuple[str, ...], words: str) -> None:
    before = sorted(Path().iterdir())
    with pytest.raises(ConfigError, match=words):
        cut(*arguments)
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("text", ["[1,2,30,40]", "1 2 30 40", "(1, 2, 30, 40)", "1;2;30;40", " 1,2,30,40 "])
def test_boxes_are_taken_as_in_a_manifest(text: str) -> None:
    assert box_of(text, None) == (1, 2, 30, 40)


def test_a_web_address_needs_an_allowed_root(cut: Cut) -> None:
    with pytest.raises(FetchError, match="add --allow-root https://example.com"):
        cut("https://example.com/a.jpg", "-o", "x.png")


def test_bundled_renditions_are_written_beside_the_cutout(cut: Cut, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("white", "webp", "square-white", "thumbnail", "natural-shadow")
    assert cut("photo-000.jpg", "-o", "cup.png", *(word for name in names for word in ("--rendition", name))) == 0
    sizes = {path.name: opened(str(path)).size for path in Path().glob("cup-*")}
    assert sizes.pop("cup-square-white.jpg")[0] > 0 and sizes.pop("cup-thumbnail.jpg") == (256, 256)
    assert sizes == dict.fromkeys(("cup-white.jpg", "cup-webp.webp", "cup-natural-shadow.jpg"), (120, 90))
    assert "cup-natural-shadow.jpg: 120 x 90, no shadow: " in capsys.readouterr().out


def test_python_cut_and_run_fill_the_same_holes(cut: Cut, fake_preset: str) -> None:
    """The fake model finds what is darker than the border: a plate with a hole of 2 % of its area, and a ring."""
    photo = np.full((240, 320, 3), 230, np.uint8)
    y, x = np.mgrid[:240, :320]
    plate, ring = np.hypot(x - 110, y - 120), np.hypot(x - 260, y - 120)
    photo[((plate < 80) & (plate > 12)) | ((ring < 30) & (ring > 20))] = 30
    Path("photos").mkdir()
    Image.fromarray(photo).save("photos/plate.png")
    masks = {}
    for holes in ("keep", "fill"):
        settings = [f"recipe.holes={holes}", "recipe.hole_share=0.04"]
        assert cut("photos/plate.png", "-o", f"{holes}.png", "--set", settings[0], "--set", settings[1]) == 0
        where = {"manifest": "photos", "output": f"out-{holes}", "preset": fake_preset}
        run_job(load_job(**where, overrides=settings))
        masks[holes] = Segmenter(fake_preset, holes=holes, hole_share=0.04)(photo).alpha
        cutout = np.asarray(opened(f"{holes}.png"))
        assert np.array_equal(cutout[..., 3], masks[holes])
        assert np.array_equal(np.asarray(opened(f"out-{holes}/masks/plate.png")), masks[holes])
        assert np.array_equal(np.asarray(opened(f"out-{holes}/cutouts/plate.png")), cutout)
    assert masks["keep"][120, 110] < 128 and masks["keep"][120, 260] < 128
    assert masks["fill"][120, 110] == 255 and masks["fill"][120, 260] < 128, "the ring's is larger"


def test_a_point_picks_one_of_two_objects(cut: Cut) -> None:
    photo = np.full((120, 200, 3), 20, np.uint8)
    photo[30:90, 20:80] = photo[40:80, 120:180] = 230
    Image.fromarray(photo).save("two.png")
    found = {}
    for name, point in (("left", "50,60"), ("right", "150,60")):
        assert cut("two.png", "--point", point, "-o", f"{name}.png") == 0
        found[name] = np.asarray(opened(f"{name}.png"))[..., 3] > 127
    assert found["left"][60, 50] and not found["left"][60, 150]
    assert found["right"][60, 150] and not found["right"][60, 50]
    for point in ("100,10", "900,60"):
        with pytest.raises(PromptError, match="no object was found at the point"):
            cut("two.png", "--point", point, "-o", "none.png")
    assert not Path("none.png").exists()


def test_a_point_leaves_out_what_is_only_in_the_box(cut: Cut) -> None:
    photo = np.full((200, 200, 3), 20, np.uint8)
    photo[20:180, 20:50] = photo[150:180, 20:180] = photo[40:90, 110:160] = 230  # an L, and a square inside its box
    Image.fromarray(photo).save("two.png")
    assert cut("two.png", "--point", "30,100", "--label", "auto", "-o", "l.png") == 0
    alpha = np.asarray(opened("l.png"))[..., 3]
    assert alpha[100, 30] > 127 and alpha[165, 150] > 127 and alpha[35:95, 105:165].max() < 20
    assert cut("two.png", "--box", "100,30,170,100", "--label", "auto", "-o", "square.png") == 0


@pytest.mark.parametrize(("join", "first_used"), [("replace", ""), ("mean", " (used)")])
def test_two_models_are_named_with_their_qualities(
    cut: Cut, fake_preset: str, capsys: pytest.CaptureFixture[str], join: str, first_used: str
) -> None:
    second = {"preset": fake_preset, "below": 1, "join": join, "recipe": {"name": "large", "frame_px": 96}}
    assert cut("photo-000.jpg", "-s", f"recipe.second={json.dumps(second)}") == 0
    said = " ".join(capsys.readouterr().out.split())
    result = Segmenter(fake_preset, second=second)("photo-000.jpg")
    first, other = (f"{one.quality:.2f}" for one in result.looks)
    named = f"seen by fake with a quality of {first}{first_used}, large with a quality of {other} (used)"
    assert f"{named}; agreement of the two masks {result.agreement:.2f}" in said


def test_a_second_model_that_was_not_needed_is_not_named(
    cut: Cut, fake_preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    second = {"preset": fake_preset, "below": 0, "recipe": {"name": "large"}}
    assert cut("photo-000.jpg", "-s", f"recipe.second={json.dumps(second)}") == 0
    assert "large" not in capsys.readouterr().out


def test_by_a_common_name_without_a_detector(cut: Cut, capsys: pytest.CaptureFixture[str]) -> None:
    assert cut("examples/cat.jpg", "--label", "Cat", "-o", "cat.png") == 0
    assert re.search(r"found 'Cat' in the box \d+,\d+,\d+,\d+ with a score of 0\.5", " ".join(capsys.readouterr().out.split()))


def test_by_name(cut: Cut, tiny_detectors: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    detector = {"model": "owlv2", "weights": tiny_detectors["owlv2"], "threshold": 0.3}
    settings = [part for key, value in detector.items() for part in ("-s", f"recipe.detector.{key}={value}")]
    assert cut("photo-000.jpg", "--label", "чашка", "--label", "Übertopf", "-o", "named.png", *settings) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"found '(чашка|Übertopf)' in the box \d+,\d+,\d+,\d+ with a score of 0\.\d\d", said)
    assert opened("named.png").mode == "RGBA"
    assert cut("photo-000.jpg", "--label", "auto", "-o", "salient.png") == 0
    assert "found" not in capsys.readouterr().out
    with pytest.raises(PromptError, match="no 'cup' was found"):
        cut("photo-000.jpg", "--label", "cup", *settings, "-s", "recipe.detector.threshold=0.9999")
    with pytest.raises(ConfigError, match="remove --box or --label"):
        cut("photo-000.jpg", "--label", "cup", "--box", "1,1,50,50")
    with pytest.raises(ConfigError, match="--label: the label"):
        cut("photo-000.jpg", "--label", "x" * 300)
