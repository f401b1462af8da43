"""Runs in which a second model sees the items that the first one is unsure about."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from PIL import Image

from pipeline import run
from pipeline.config.job import load_job
from pipeline.config.presets import load_preset
from pipeline.errors import ConfigError, WeightsError
from pipeline.models.resolve import resolve
from pipeline.output.output import find_outputs
from pipeline.output.summary import summarise
from pipeline.paths import WEIGHTS
from pipeline.run.cost import second_share
from pipeline.run.preflight import check_model, make_plan
from pipeline.storage.files import Files

INJECT = Path(__file__).resolve().parents[1] / "faults" / "inject"
MARK = (255, 0, 255)
MakePhotos = Callable[..., list[Path]]


@pytest.fixture(params=["process", "ray"])
def where(request: pytest.FixtureRequest) -> dict[str, int]:
    """The setting that decides where the run works."""
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return {"compute.local_items": 100 if request.param == "process" else 0}


@pytest.fixture
def settings(fake_preset: str) -> dict[str, Any]:
    """A second model for empty masks, which it sees in larger frames."""
    second = {"preset": fake_preset, "below": 0.01, "recipe": {"frame_px": 96, "name": "large"}}
    return {"recipe.second": second, "budget.allowed_failed": 100, "compute.device": "cpu"}


def index(output: Path) -> dict[str, dict[str, Any]]:
    rows = ds.dataset(output / "index", format="parquet").to_table().to_pylist()
    assert len(rows) == len({row["item_id"] for row in rows})
    return {row["item_id"]: row for row in rows}


def with_plain_photos(folder: Path, make_photos: MakePhotos) -> Path:
    """Six photos with an object and two without."""
    make_photos(folder, 6)
    for name in ("plain-a.png", "plain-b.png"):
        Image.new("RGB", (120, 90), (70, 80, 90)).save(folder / name)
    return folder


def test_a_row_says_what_each_model_thought(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str, settings: dict[str, Any], where: dict[str, int]
) -> None:
    photos = with_plain_photos(tmp_path / "photos", make_photos)
    (photos / "broken.jpg").write_bytes(b"no picture")
    record = run(photos, tmp_path / "out", preset=fake_preset, settings=settings | where)
    assert (record.ok + record.review, record.failed) == (8, 1)
    rows = index(tmp_path / "out")
    for name, row in rows.items():
        if name == "broken.jpg":
            assert row["models"] is None and row["agreement"] is None
            continue
        names = [look["model"] for look in row["models"]]
        assert names == (["fake", "large"] if name.startswith("plain") else ["fake"])
        assert [look["used"] for look in row["models"]] == [False] * (len(names) - 1) + [True]
        assert row["models"][-1]["quality"] == row["quality"]
        assert row["agreement"] == (1.0 if len(names) == 2 else None)
        assert row["model"] == "fake" and (tmp_path / "out" / row["mask_path"]).is_file()
    (output,) = find_outputs(str(tmp_path / "out"), Files())
    summary = summarise(output)
    assert (summary.first_looks, summary.second_looks) == (8, sum(name.startswith("plain") for name in rows))


def test_without_a_second_model_the_columns_are_null(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 1)
    run(tmp_path / "photos", tmp_path / "out", preset=fake_preset)
    (row,) = index(tmp_path / "out").values()
    assert row["models"] is None and row["agreement"] is None


@pytest.mark.parametrize("deed", ["exit", "hang", "memory"])
def test_an_item_that_ends_the_second_model_fails_alone(
    tmp_path: Path,
    make_photos: MakePhotos,
    fake_preset: str,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    deed: str,
) -> None:
    photos = with_plain_photos(tmp_path / "photos", make_photos)
    Image.new("RGB", (120, 90), MARK).save(photos / "marked.png")
    faults = {"marked": deed, "where": "segment", "side": 96, "trace": str(tmp_path / "trace")}
    monkeypatch.setenv("PYTHONPATH", f"{INJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("FAULTS", json.dumps(faults))
    limits = {"limits.item_s": 2, "compute.rows_per_block": 4, "compute.batch_size": 4}
    record = run(photos, tmp_path / "out", preset=fake_preset, settings=settings | limits)
    rows = index(tmp_path / "out")
    assert (record.failed, record.ok + record.review) == (1, 8)
    code = "segment" if deed == "memory" else "crash"
    assert {name: row["error_code"] for name, row in rows.items() if row["error_code"]} == {"marked.png": code}
    assert len(rows["plain-a.png"]["models"]) == 2
    assert ("the second model large" in rows["marked.png"]["error_detail"]) == (deed == "memory")


def test_a_second_model_is_another_recipe(
    tmp_path: Path, make_photos: MakePhotos, fake_preset: str, settings: dict[str, Any]
) -> None:
    photos = with_plain_photos(tmp_path / "photos", make_photos)
    run(photos, tmp_path / "out", preset=fake_preset)
    with pytest.raises(ConfigError, match=r"recipe\.second null, now"):
        run(photos, tmp_path / "out", preset=fake_preset, settings=settings)
    record = run(photos, tmp_path / "out", preset=fake_preset, settings=settings, replace=True)
    assert record.ok + record.review == 8
    assert all(row["models"] for row in index(tmp_path / "out").values())


@pytest.mark.parametrize(
    ("second", "error", "said"),
    [
        ({"preset": "rmbg-1.4"}, ConfigError, r"rmbg-1\.4 .*accept-licence"),
        (
            {"preset": "u2net", "recipe": {"calibration": "", "weights": "gone.onnx"}},
            WeightsError,
            r"recipe\.second: .*gone\.onnx",
        ),
        ({"preset": "u2net", "recipe": {"calibration": "", "weights": "text.onnx"}}, WeightsError, r"recipe\.second: "),
    ],
)
def test_an_unusable_second_model_is_refused_before_the_run(
    tmp_path: Path,
    make_photos: MakePhotos,
    fake_preset: str,
    monkeypatch: pytest.MonkeyPatch,
    second: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    make_photos(tmp_path / "photos", 1)
    (tmp_path / "text.onnx").write_text("no model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        run("photos", "out", preset=fake_preset, settings={"recipe.second": second})
    assert not (tmp_path / "out" / "index").exists()


def test_an_engine_must_suit_both_models(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 1)
    overrides = ["recipe.second.preset=u2netp", 'recipe.second.recipe.calibration=""', "compute.engine=torch"]
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset, overrides=overrides)
    with pytest.raises(ConfigError, match=r"recipe\.second: .*engine"):
        check_model(make_plan(job, Files()))


def test_the_share_comes_from_the_calibration_of_the_first_model(
    tmp_path: Path, make_photos: MakePhotos, matteline: Callable[..., Any], fake_preset: str
) -> None:
    make_photos(tmp_path / "photos", 2)
    facts = json.loads((WEIGHTS / "u2netp.calibration.json").read_bytes()) | {"quantiles": [0.1, 0.3, 0.7]}
    (tmp_path / "mine.json").write_text(json.dumps(facts))
    second = {"preset": "mvanet-lite", "below": 0.5}
    chosen = load_preset("u2netp", {"second": second, "calibration": str(tmp_path / "mine.json")})
    assert second_share(resolve(chosen.recipe, Files(), gpu=False)) == pytest.approx(0.75)
    assert second_share(resolve(load_preset(fake_preset, {"second": fake_preset}).recipe, Files(), gpu=False)) is None

    arguments = ("plan", "-m", "photos", "-o", "out", "-p", "u2netp", "--set", "recipe.calibration=mine.json")
    said = " ".join(matteline(*arguments, "--set", f"recipe.second={json.dumps(second)}").stdout.split())
    assert "second model mvanet-lite, for the items of a quality below 0.5: about 75%" in said
    assert "the two models alone take" in said
    arguments = ("plan", "-m", "photos", "-o", "out", "-p", fake_preset, "--set", f"recipe.second={fake_preset}")
    said = " ".join(matteline(*arguments).stdout.split())
    assert "second model fake, for the items of a quality below 0.2; their share is not known" in said
