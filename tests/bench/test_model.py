"""Dummy weights, counted operations, and the measurement of models and transfers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import Segmenter
from pipeline.bench import model as bench_model
from pipeline.bench.dummy_weights import LAYOUT_OF, write_dummy_weights
from pipeline.bench.model import flop_per_item, measure_model
from pipeline.bench.transfers import measure_transfers
from pipeline.config.presets import load_preset, preset_names
from pipeline.models.fake_model import FakeModel
from pipeline.models.load import load_model
from pipeline.models.mvanet.checkpoint import LAYOUTS, recognise
from pipeline.models.resample import DeviceFrames
from pipeline.paths import EXAMPLES

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = write_dummy_weights("finegrain-box", tmp_path_factory.mktemp("weights"))
    yield path
    path.unlink()


def test_dummy_weights_cut_out_bright_areas(weights: Path) -> None:
    assert recognise(weights) == LAYOUT_OF["finegrain-box"]
    recipe = load_preset("finegrain-box", {"weights": str(weights), "frame_px": 256, "precision": "fp32"}).recipe
    model = load_model(recipe, weights, device="cpu", threads=2, engine="torch")
    photo = np.asarray(Image.open(EXAMPLES / "astronaut.jpg").convert("RGB").resize((256, 256)))
    alpha = model(photo[None])[0].sigmoid().numpy()
    assert np.isfinite(alpha).all()
    soft = ((alpha > 1 / 255) & (alpha < 254 / 255)).mean()
    assert 0.05 < (alpha > 0.5).mean() < 0.6 and 0.02 < soft < 0.5
    bright = photo.mean(-1)
    assert bright[alpha > 0.5].mean() > 1.5 * bright[alpha < 0.5].mean()


def test_every_mvanet_preset_without_bundled_weights_has_a_layout() -> None:
    recipes = {name: load_preset(name).recipe for name in preset_names()}
    missing = {name for name, recipe in recipes.items() if recipe.model == "mvanet" and not Path(recipe.weights).is_file()}
    assert set(LAYOUT_OF) == missing
    assert set(LAYOUT_OF.values()) == {layout.name for layout in LAYOUTS}


def test_operations_are_counted(weights: Path) -> None:
    """The first version of the network had 1,936 GFLOP; rewrites may only reduce that."""
    assert 0.8e12 < flop_per_item(weights, 1024) < 2.0e12
    assert 1e10 < flop_per_item(Path(load_preset("mvanet-lite").recipe.weights), 512) < 5e10
    assert torch.get_default_device() == CPU


def fake_subject(fake_preset: str) -> Any:
    job = SimpleNamespace(recipe=load_preset(fake_preset).recipe)
    loaded = SimpleNamespace(model=FakeModel(64, CPU), resolved=SimpleNamespace(weights=None))
    return SimpleNamespace(job=job, load=lambda: loaded, weights="own", threads=1)


def test_a_mode_that_fails_is_logged_and_skipped(
    fake_preset: str, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    def fail(*_: Any) -> Callable[[], torch.Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setitem(bench_model.MODES, "graph", fail)
    monkeypatch.setitem(bench_model.MODES, "compile", bench_model.MODES["eager"])
    speeds = list(measure_model(fake_subject(fake_preset), {}, [1, 2], 0.0, ["eager", "graph", "compile"]))
    assert [(one.mode, one.batch) for one in speeds] == [("eager", 1), ("eager", 2), ("compile", 1), ("compile", 2)]
    assert all(one.max_difference < 1e-5 for one in speeds)
    (record,) = logged
    assert record.getMessage().endswith("graph, batch size 1: operation not permitted when stream is capturing")


def test_the_transfers_are_measured(fake_preset: str) -> None:
    segmenter = Segmenter(fake_preset, engine="torch")
    segmenter.batch, segmenter.run_pass.framing = 2, DeviceFrames(segmenter.recipe, CPU)
    found = measure_transfers(segmenter, 0.0, (300, 400))
    assert (found.width, found.height, found.batch) == (400, 300, 2)
    assert len(found.ms) == 9 and all(ms > 0 for ms in found.ms.values())
    assert 0 < found.busy <= 1 and found.images_per_s == pytest.approx(1e3 / found.ms["segment: all of it"])
