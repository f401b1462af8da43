from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from pipeline.errors import ConfigError
from pipeline.models.estimator import BUNDLED, SIDE_PX, Estimator
from pipeline.training import estimator_data
from pipeline.training.estimator import FeatureStore, Settings, corrupt_maps, failure_auroc, main, train
from pipeline.training.estimator_data import BOXES, ScoredMaps, _choose_box, data_key, score_photos
from pipeline.types import Box


def png(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos with masks in a Parquet file."""
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
def scored() -> ScoredMaps:
    """Maps of discs: every second one is beside the disc of its photo."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    frames, maps, dice = [], [], []
    for number in range(64):
        at, bad = rng.uniform(50, 110, 2), number % 2
        disc = np.hypot(x - at[0], y - at[1]) < 30
        frames.append(np.where(disc[..., None], rng.integers(100, 256, 3), 60).astype(np.uint8))
        predicted = np.hypot(x - at[0] - 40 * bad, y - at[1]) < 30
        maps.append(255 * predicted.astype(np.uint8))
        dice.append(0.3 if bad else 0.99)
    return ScoredMaps(np.array(frames), np.array(maps), np.array(dice, np.float32), np.arange(64))


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a training that starts from the bundled weights."""
    folder = tmp_path_factory.mktemp("trained")
    save_file({key: value.contiguous() for key, value in Estimator().backbone.state_dict().items()}, folder / "b.safetensors")
    weights = ["--backbone", str(folder / "b.safetensors"), "--start", str(BUNDLED)]
    main(["--photos", str(photos), *weights, "--times", "1", "--processes", "1", "--out", str(folder / "out")])
    return folder / "out"


def test_every_photo_is_scored_and_existing_parts_are_reused(photos: Path, trained: Path) -> None:
    parts = {path: path.stat().st_mtime_ns for path in (trained / "maps").glob("*/*")}
    assert parts
    found = score_photos(photos, trained / "maps", times=1, processes=1)
    assert {path: path.stat().st_mtime_ns for path in (trained / "maps").glob("*/*")} == parts
    assert found.frames.shape == (6, SIDE_PX, SIDE_PX, 3) and found.maps.shape == (6, SIDE_PX, SIDE_PX)
    assert sorted(found.photos) == [*range(6)]
    assert found.dice.max() > 0.8 and found.dice.min() >= 0


def test_maps_of_other_photos_models_or_boxes_are_not_reused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = photos.glob("*.parquet")
    keys = [data_key([source])]
    other = tmp_path / source.name
    pq.write_table(pq.read_table(source).slice(1), other)
    keys.append(data_key([other]))
    with monkeypatch.context() as patched:
        patched.setitem(BOXES, "tight", 0.5)
        keys.append(data_key([source]))
    with monkeypatch.context() as patched:
        load = estimator_data.load_preset
        patched.setattr(estimator_data, "load_preset", lambda name, changes: load(name, changes | {"weights_sha256": "0" * 64}))
        keys.append(data_key([source]))
    assert len(set(keys)) == 4
    assert data_key([source]) == keys[0]


def test_features_of_other_photos_or_weights_are_not_reused(scored: ScoredMaps, tmp_path: Path) -> None:
    torch.manual_seed(0)
    few = ScoredMaps(scored.frames[:2], scored.maps[:2], scored.dice[:2], scored.photos[:2])
    others = ScoredMaps(scored.frames[2:4], scored.maps[:2], scored.dice[:2], scored.photos[:2])
    network, retrained = Estimator().eval(), Estimator().eval()
    first, again, photos, weights = (
        FeatureStore(some, one, tmp_path).features["f0"]
        for some, one in ((few, network), (few, network), (others, network), (few, retrained))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, photos) and not torch.equal(first, weights)
    assert len(list(tmp_path.glob("features-*.safetensors"))) == 3


def test_a_training_writes_weights_of_the_complete_network(trained: Path) -> None:
    made, before = (load_file(path) for path in (trained / "estimator.safetensors", BUNDLED))
    assert {key for key in Estimator().state_dict() if not key.endswith("num_batches_tracked")} == set(made)
    trainable = [key for key in made if not key.startswith("backbone.") and made[key].ndim > 1]
    assert all(torch.allclose(made[key].float(), before[key].float(), atol=0.2) for key in trainable)
    assert not all(torch.equal(made[key], before[key]) for key in trainable)


def test_boxes_are_drawn_by_their_shares() -> None:
    truth = np.zeros((120, 160), np.uint8)
    truth[20:60, 30:70] = 255
    assert sum(BOXES.values()) == pytest.approx(1)
    boxes = [_choose_box(truth, np.random.default_rng(seed)) for seed in range(600)]
    assert boxes.count(None) / 600 == pytest.approx(BOXES["none"], abs=0.06)
    assert boxes.count(Box(30, 20, 70, 60)) / 600 == pytest.approx(BOXES["tight"], abs=0.05)
    inside = [box for box in boxes if box is not None and box.x0 <= 30 and box.y0 <= 20 and box.x1 >= 70 and box.y1 >= 60]
    assert len(inside) / 600 == pytest.approx(BOXES["tight"] + BOXES["loose"] + BOXES["whole"], abs=0.06)
    assert _choose_box(np.full((40, 40), 255, np.uint8), np.random.default_rng(_seed_of("beside"))) is None


def _seed_of(kind: str) -> int:
    """Return a seed that draws this kind."""
    kinds, shares = np.array(list(BOXES)), list(BOXES.values())
    return next(seed for seed in range(1000) if np.random.default_rng(seed).choice(kinds, p=shares) == kind)


def test_corrupted_maps_get_a_lower_dice() -> None:
    p = torch.zeros(4, 1, SIDE_PX, SIDE_PX)
    p[:, :, 40:120, 50:100] = 1
    dice, generator = torch.full((4,), 0.98), torch.Generator().manual_seed(0)
    inverted, lowered = corrupt_maps(p, dice, Settings(inverted=1.0, exchanged=0, halved=0), generator)
    assert torch.equal(inverted, 1 - p) and lowered.max() <= 0.05
    halved, lowered = corrupt_maps(p, dice, Settings(inverted=0, exchanged=0, halved=1.0), generator)
    for part, value in zip(halved, lowered, strict=True):
        assert 0 < part.sum() < p[0].sum()
        assert value == pytest.approx(0.98 * float(2 * part.sum() / (part.sum() + p[0].sum())), rel=1e-4)
    same, unchanged = corrupt_maps(p, dice, Settings(inverted=0, exchanged=0, halved=0), generator)
    assert torch.equal(same, p) and torch.equal(unchanged, dice)


def test_the_loss_falls_and_the_backbone_stays(scored: ScoredMaps, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Estimator().eval()
    before = {key: value.clone() for key, value in network.backbone.state_dict().items()}
    store = FeatureStore(scored, network, tmp_path)
    settings = Settings(epochs=6, batch=16, rate=3e-3, warm_steps=2, inverted=0, exchanged=0, halved=0)
    rows = np.arange(64)
    curve = train(network, store, rows[:48], settings)
    assert curve[-1] < 0.7 * curve[0]
    assert failure_auroc(network, store, rows[48:]) > 0.9
    assert all(torch.equal(value, before[key]) for key, value in network.backbone.state_dict().items())


def test_the_same_seed_gives_the_same_weights(scored: ScoredMaps, tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        network = Estimator().eval()
        store = FeatureStore(scored, network, tmp_path)  # the second one reads the first one's file
        train(network, store, np.arange(32), Settings(epochs=1, batch=16))
        made.append(network.state_dict())
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no Parquet files"):
        main(["--photos", str(tmp_path), "--backbone", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
