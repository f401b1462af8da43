"""The settings of renditions: the bundled files, refusals, and the fingerprint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.job import load_job
from pipeline.config.presets import load_preset
from pipeline.config.rendition import RESERVED, Rendition, load_rendition, rendition_names
from pipeline.config.sections import build
from pipeline.errors import ConfigError
from pipeline.paths import CONFIGS

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    *("amazon-main", "dataset-coco", "dataset-indexed", "natural-shadow", "square-white", "thumbnail", "transparent", "webp"),
    "white",
]


def rendition(**facts: Any) -> Rendition:
    return build(Rendition, {"name": "own"} | facts, "own.yaml")


def test_bundled_renditions_are_short_and_described() -> None:
    assert rendition_names() == NAMES
    for name in NAMES:
        one = load_rendition(name)
        assert one.name == name
        assert 20 < len(one.about) < 100
        text = (CONFIGS / "renditions" / f"{name}.yaml").read_text(encoding="utf-8")
        assert len([line for line in text.splitlines() if not line.startswith("#")]) <= 9


def test_amazon_main_follows_amazon_s_rules() -> None:
    """Amazon Seller Central, product image requirements: white, 85 % of the frame, 1,000 to 10,000 pixels, JPEG."""
    main = load_rendition("amazon-main")
    assert main.colour == (255, 255, 255)
    assert main.fill is not None and 0.85 <= main.fill < 1
    assert all(1600 <= size <= 10_000 for size in main.size_px)
    assert main.format == "jpeg"
    assert main.shadow is None


def test_the_kinds_of_shadow_have_fingerprints_of_their_own() -> None:
    assert len({rendition(shadow=shadow).fingerprint() for shadow in (False, True, "natural")}) == 3


def test_each_size_is_one_file() -> None:
    assert [file.name for file in rendition(size_px=[512, 128]).files] == ["own-128", "own-512"]
    assert rendition(size_px=512).files == rendition(size_px=[512]).files == (("own", 512),)
    assert rendition().files == (("own", None),)


def test_shorthands() -> None:
    assert rendition(shadow=True).shadow == rendition(shadow={}).shadow
    assert rendition(shadow=False).shadow is None
    assert rendition(shadow="natural") == rendition(shadow={"kind": "natural"}) and rendition(shadow="natural").needs_photo
    assert rendition(aspect="4:5").aspect == rendition(aspect=[4, 5]).aspect == (4.0, 5.0)
    assert rendition(background="#FFaa00").colour == (255, 170, 0)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"format": "jpeg"}, "JPEG has no transparency; set a background"),
        ({"trim": 0.1, "fill": 0.9}, "set one of them"),
        ({"aspect": 61}, "write it in quotes"),  # YAML reads 1:1 so
        ({"aspect": "100:1"}, "20 times"),
        ({"aspect": "1:0"}, "above 0"),
        ({"aspect": "4:5:6"}, "aspect"),
        ({"background": None}, "write a colour in quotes"),  # YAML reads #ffffff so
        ({"background": "#fff"}, "six hex digits"),
        ({"hue": "red"}, "neither degrees nor a colour"),
        ({"size_px": [100, 100]}, "each size once"),
        ({"size_px": [20_000]}, "16383"),
        ({"what": "rle", "background": "#ffffff"}, "background needs what: cutout"),
        ({"what": "alpha", "shadow": True}, "shadow needs what: cutout"),
        ({"quality": 90}, "PNG is lossless"),
        ({"background_sha256": "0" * 64}, "needs a background that is a picture"),
        ({"colour": "#ffffff"}, "own.yaml: colour"),
        ({"name": "../up"}, "name"),
        ({"fill": 0}, "fill"),
        ({"shadow": {"opactiy": 1}}, "shadow.opactiy"),
        ({"shadow": "soft"}, "shadow.kind: .*'contact' or 'natural'"),
        ({"shadow": {"kind": "natural", "opacity": 0.2}}, "shadow: the photo's own shadow is kept as it is; remove opacity"),
        ({"format": "webp", "dpi": 300}, "WebP has no field for dpi"),
        ({"what": "alpha", "dpi": 300}, "dpi needs what: cutout"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        rendition(**facts)
    assert "\n" not in str(refused.value)


def test_a_rendition_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="the rendition white is given twice; name it once"):
        load_preset("u2netp", {"renditions": ["white", "white"]})


def test_duplicate_file_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="two renditions have a file named thumb-128; rename one"):
        load_preset("u2netp", {"renditions": [{"name": "thumb", "size_px": [64, 128]}, {"name": "thumb-128"}]})


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="there is no rendition 'amazon'; choose from amazon-main, "):
        load_job(manifest="m", output="o", renditions=["amazon"])
    with pytest.raises(ConfigError, match="must be a list"):
        load_job(manifest="m", output="o", overrides=["recipe.renditions=amazon-main"])


def test_renditions_come_from_files_job_files_and_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "hero.yaml").write_text("background: beach.jpg\nfill: 0.6\n")
    hero = load_rendition(str(tmp_path / "hero.yaml"))
    assert (hero.name, hero.picture) == ("hero", str(tmp_path / "beach.jpg"))
    (tmp_path / "job.yaml").write_text("recipe: {renditions: [transparent, {name: small, size_px: 64}]}\n")
    job = load_job(manifest="m", output="o", job_file=str(tmp_path / "job.yaml"), renditions=[str(tmp_path / "hero.yaml")])
    assert [one.name for one in job.recipe.renditions] == ["hero", "small", "transparent"]
    given = load_job(manifest="m", output="o", overrides=["recipe.renditions=[amazon-main, {name: t, size_px: [64]}]"])
    assert [one.name for one in given.recipe.renditions] == ["amazon-main", "t"]


@pytest.mark.parametrize("name", RESERVED)
def test_folders_of_an_output_are_no_names_of_renditions(name: str) -> None:
    with pytest.raises(ConfigError, match=f"a rendition cannot be named {name}, because outputs have a folder of that name"):
        load_preset("u2netp", {"renditions": [{"name": name}]})


def test_renditions_do_not_change_the_recipes_fingerprint() -> None:
    recipe = load_preset("u2netp").recipe
    assert load_preset("u2netp", renditions=["amazon-main"]).recipe.fingerprint() == recipe.fingerprint()


CHANGES: dict[str, Any] = {
    "name": "other",
    "what": "alpha",
    "trim": 0.1,
    "fill": 0.9,
    "aspect": "1:1",
    "size_px": [64],
    "background": "#ffffff",
    "background_sha256": "1" * 64,
    "shadow": True,
    "haze": 0.1,
    "hue": 30,
    "saturation": 0.5,
    "format": "webp",
    "quality": 70,
    "dpi": 300,
}
BASES: dict[str, dict[str, Any]] = {
    "background_sha256": {"background": "a.jpg", "background_sha256": "0" * 64},
    "quality": {"format": "webp"},
}


def fingerprint(facts: dict[str, Any]) -> str:
    return rendition(**facts).fingerprint()


def test_every_field_has_a_change() -> None:
    assert set(CHANGES) == set(Rendition.model_fields) - {"about"}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_enters_the_fingerprint(field: str) -> None:
    base = BASES.get(field, {})
    assert fingerprint(base) != fingerprint(base | {field: CHANGES[field]})


def test_description_and_path_of_a_background_do_not() -> None:
    pinned = {"background_sha256": "0" * 64}
    assert fingerprint(pinned | {"background": "a.jpg"}) == fingerprint(pinned | {"background": "s3://b/b.png"})
    assert fingerprint({"about": "words"}) == fingerprint({})
    with pytest.raises(ConfigError, match="background_sha256"):
        fingerprint({"background": "a.jpg"})


def test_reading_settings_imports_no_heavy_libraries() -> None:
    """`matteline --help` and refusals must be fast."""
    heavy = "import sys, pipeline.config.job; print(*{'cv2', 'PIL', 'torch', 'pyarrow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True, cwd=ROOT).stdout == "\n"
