"""``matteline train`` and ``matteline export`` refuse in seconds what can't be done, and say how to mend it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from jobs.main import app
from pipeline.errors import ConfigError, PipelineError
from pipeline.log import log
from pipeline.training.recipe import Views, load_training
from pipeline.training.train import _check_views

GOOD = {"variant": "mvanet-lite", "stages": [{"frame_px": 128, "batch": 2, "steps": 200}]}

BAD = [
    ({"varant": "mvanet"}, "varant"),
    ({"variant": "unet"}, "variant"),
    ({"stages": []}, "stages"),
    ({"stages": [{"frame_px": 100, "batch": 2, "steps": 2}]}, r"stages\.0\.frame_px"),
    ({"rate": -1}, "rate"),
    ({"decay_steps": 150, "warm_steps": 100}, "warm_steps and decay_steps are 250 of 200 steps"),
    ({"lora_rank": 4}, "set start"),
    ({"views": {"whole": 0, "box": 0, "pair": 0, "composite": 0}}, "views"),
    ({"std": [0.1, 0, 0.1]}, "std"),
]


def raised(*arguments: str) -> PipelineError:
    """What a command line is refused with."""
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, PipelineError), result.output
    return result.exception


@pytest.mark.parametrize(("change", "named"), BAD)
def test_a_bad_recipe_names_its_key(tmp_path: Path, change: dict[str, object], named: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(ConfigError, match=named) as refused:
        load_training(str(path))
    assert str(refused.value).startswith("mine.yaml: ")


def test_a_good_recipe_is_named_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD | {"start": "weights.safetensors"}))
    recipe = load_training(str(path))
    assert recipe.name == "mine"
    assert recipe.start == str(tmp_path / "weights.safetensors")


def test_a_model_is_fine_tuned_by_its_recipe(tmp_path: Path) -> None:
    lite, large = load_training(start="mvanet-lite"), load_training(start="mvanet")
    assert load_training() == lite == load_training("finetune-mvanet-lite")
    assert large == load_training("finetune-mvanet")
    own = load_training(start="s3://bucket/mine.safetensors")
    assert (own.variant, own.start, own.start_sha256) == ("mvanet-lite", "s3://bucket/mine.safetensors", None)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    mine = load_training(str(path), "mvanet-lite")
    assert (mine.name, mine.start, mine.start_sha256) == ("mine", lite.start, lite.start_sha256)
    assert (mine.mean, mine.std) == (lite.mean, lite.std), "what the weights expect"
    path.write_text(yaml.safe_dump(GOOD | {"mean": [0, 0, 0]}))
    assert load_training(str(path), "mvanet-lite").mean == (0, 0, 0)
    with pytest.raises(ConfigError, match="the training recipe mine is for mvanet-lite"):
        load_training(str(path), "mvanet")
    with pytest.raises(ConfigError, match="--start u2net: choose from mvanet, mvanet-lite, or give the path"):
        load_training(start="u2net")


def test_views_that_need_material_are_left_out_with_a_word(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.INFO, log.name)
    _check_views(Views())
    _check_views(Views(products=0.2))
    _check_views(Views(composite=0))
    said = {record.getMessage(): record.levelname for record in caplog.records}  # a record is caught twice after other tests
    assert list(said.values()) == ["INFO", "WARNING"], caplog.text
    assert "views.composite (0.15) and views.products (0.2) are left out: they need objects and photos" in caplog.text
    with pytest.raises(ConfigError, match=r"views.products \(1\), which need objects and photos; give --composites"):
        _check_views(Views(whole=0, box=0, pair=0, composite=0, products=1))


def test_a_manifest_without_true_masks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("image_uri,note\na.png,x\n")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GOOD))
    given = ("train", "-m", str(tmp_path / "manifest.csv"), "-t", str(tmp_path / "mine.yaml"), "-o", str(tmp_path / "out"))
    assert "no column 'truth_uri'" in str(raised(*given))
    assert "--truth names one of its further columns: note" in str(raised(*given))
    (tmp_path / "manifest.csv").write_text("image_uri,truth_uri\na.png,b.png\n/etc/passwd,b.png\n")
    assert "has 1 usable photo, and training needs at least two" in str(raised(*given))
    assert not (tmp_path / "out").exists()


def test_composites_need_their_files(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("image_uri,truth_uri\n" + "".join(f"{n}.png,{n}m.png\n" for n in range(200)))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GOOD))
    given = ("train", "-m", str(tmp_path / "manifest.csv"), "-t", str(tmp_path / "mine.yaml"), "-o", str(tmp_path / "out"))
    assert "objects.parquet does not exist" in str(raised(*given, "--composites", str(tmp_path)))


def test_an_export_is_of_an_mvanet_into_an_onnx_file(tmp_path: Path) -> None:
    assert "is an ONNX file already" in str(raised("export", "-p", "u2netp", "-o", str(tmp_path / "x.onnx")))
    assert "must end in .onnx" in str(raised("export", "-p", "ben2-base", "-o", str(tmp_path / "x.pt")))


@pytest.mark.parametrize("name", ["mine.onnx", "mine.yaml"])
def test_an_export_does_not_overwrite_the_files_of_others(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    refused = str(raised("export", "-p", "ben2-base", "-o", str(tmp_path / "mine.onnx")))
    assert f"{name} exists, and this command did not write it" in refused
    assert (tmp_path / name).read_text() == "mine"
