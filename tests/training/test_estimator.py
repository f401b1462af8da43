from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from pipeline.errors import ConfigError
from pipeline.models.estimator import SIDE_PX, Estimator
from pipeline.training.estimator import Settings, Store, main, measured, spoilt, train
from pipeline.training.judged import Judged, judge_photos


def png(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos with masks, as a data set has them."""
    rng, folder, rows = np.random.default_rng(0), tmp_path_factory.mktemp("photos"), []
    for _ in range(6):
        mask = Image.new("L", (96, 80))
        ImageDraw.Draw(mask).ellipse((20, 15, 70, 60), 255)
        ground = np.kron(rng.integers(60, 200, (8, 12, 3)), np.ones((10, 8, 1))).astype(np.uint8)
        image = np.where(np.asarray(mask)[..., None] > 0, rng.integers(0, 256, 3).astype(np.uint8), ground)
        rows.append({"image": png(image), "mask": png(np.asarray(mask))})
    pq.write_table(pa.Table.from_pylist(rows), folder / "some.parquet")
    return folder


@pytest.fixture(scope="module")
def judged() -> Judged:
    """Maps of discs: some on the disc of the photo, some beside it."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    frames, maps, dice = [], [], []
    for number in range(96):
        at, bad = rng.uniform(50, 110, 2), number % 2
        disc = np.hypot(x - at[0], y - at[1]) < 30
        frames.append(np.where(disc[..., None], rng.integers(100, 256, 3), 60).astype(np.uint8))
        seen = np.hypot(x - at[0] - 40 * bad, y - at[1]) < 30
        maps.append(255 * seen.astype(np.uint8))
        dice.append(0.3 if bad else 0.99)
    return Judged(np.array(frames), np.array(maps), np.array(dice, np.float32), np.arange(96))


def test_every_photo_is_judged_and_what_is_kept_is_used_again(photos: Path, tmp_path: Path) -> None:
    found = judge_photos(photos, "u2netp", tmp_path, times=2, processes=1)
    assert found.frames.shape == (12, SIDE_PX, SIDE_PX, 3) and found.maps.shape == (12, SIDE_PX, SIDE_PX)
    assert sorted(found.photos) == sorted([*range(6)] * 2)
    assert found.dice.max() > 0.8 and found.dice.min() >= 0
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = judge_photos(photos, "u2netp", tmp_path, times=2, processes=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
    assert np.array_equal(again.maps, found.maps)


def test_spoilt_maps_are_worth_what_they_are() -> None:
    p = torch.zeros(4, 1, SIDE_PX, SIDE_PX)
    p[:, :, 40:120, 50:100] = 1
    dice, draw = torch.full((4,), 0.98), torch.Generator().manual_seed(0)
    inverted, worth = spoilt(p, dice, Settings(inverted=1.0, exchanged=0, halved=0), draw)
    assert torch.equal(inverted, 1 - p) and worth.max() <= 0.05
    halved, worth = spoilt(p, dice, Settings(inverted=0, exchanged=0, halved=1.0), draw)
    for part, said in zip(halved, worth, strict=True):
        assert 0 < part.sum() < p[0].sum()
        assert said == pytest.approx(0.98 * float(2 * part.sum() / (part.sum() + p[0].sum())), rel=1e-4)
    same, worth = spoilt(p, dice, Settings(inverted=0, exchanged=0, halved=0), draw)
    assert torch.equal(same, p) and torch.equal(worth, dice)


def test_it_learns_and_the_backbone_stays(judged: Judged, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Estimator().eval()
    before = {key: value.clone() for key, value in network.backbone.state_dict().items()}
    store = Store(judged, network, tmp_path / "features.safetensors")
    settings = Settings(epochs=6, batch=16, rate=3e-3, warm_steps=2, inverted=0, exchanged=0, halved=0)
    rows = np.arange(96)
    curve = train(network, store, rows[:64], settings)
    assert curve[-1] < 0.7 * curve[0]
    assert measured(network, store, rows[64:]) > 0.9
    assert all(torch.equal(value, before[key]) for key, value in network.backbone.state_dict().items())


def test_the_same_seed_gives_the_same_weights(judged: Judged, tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        network = Estimator().eval()
        train(network, Store(judged, network, tmp_path / "features.safetensors"), np.arange(32), Settings(epochs=1, batch=16))
        made.append(network.state_dict())
        (tmp_path / "features.safetensors").unlink()
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no Parquet files"):
        main(["--photos", str(tmp_path), "--backbone", str(tmp_path / "none"), "--out", str(tmp_path / "out")])


def test_the_whole_way(photos: Path, tmp_path: Path) -> None:
    """From photos to a weights file that has the network's every tensor."""
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in Estimator().backbone.state_dict().items()}, tmp_path / "b.safetensors")
    main(
        [
            *("--photos", str(photos), "--backbone", str(tmp_path / "b.safetensors")),
            *("--out", str(tmp_path / "out"), "--times", "1", "--processes", "1"),
        ]
    )
    made = load_file(tmp_path / "out" / "estimator.safetensors")
    assert {key for key in Estimator().state_dict() if not key.endswith("num_batches_tracked")} == set(made)
