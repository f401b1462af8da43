"""Masks of photos without ground truth, by two models."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.job import Storage
from pipeline.errors import ConfigError
from pipeline.imaging.png import encode_mask
from pipeline.output.output import Output
from pipeline.storage.files import Files
from pipeline.training import pseudo_labels
from pipeline.training.photos import read_photos
from pipeline.training.pseudo_labels import label, write_labels


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[Output, Output]:
    """Two empty outputs."""
    return tuple(Output.at(str(tmp_path / name), Files()) for name in ("first", "other"))  # type: ignore[return-value]


def test_masks_that_agree_become_ground_truth(
    outputs: tuple[Output, Output], make_output: Callable[..., None], tmp_path: Path
) -> None:
    first, other = outputs
    make_output(first, 3, photos=tmp_path)
    make_output(other, 3, photos=tmp_path, grow=1)
    half, empty = np.full((30, 40), 129, np.uint8), np.zeros((30, 40), np.uint8)
    half[20:] = 0
    other.write(other.layout.uri("masks/i1.png"), encode_mask(half))
    for output in outputs:
        output.write(output.layout.uri("masks/i2.png"), encode_mask(empty))
    rows = pq.read_table(write_labels(first, other, str(tmp_path))).to_pylist()
    assert [(row["item_id"], row["truth_uri"]) for row in rows] == [("i0", "labels/i0.png")], "i1 differs, i2 is empty"
    assert rows[0]["agreement"] == pytest.approx(2 * 400 / (400 + 420))
    mask = np.asarray(Image.open(tmp_path / "labels" / "i0.png"))
    assert (mask[10, 10], mask[10, 25], mask[10, 30]) == (255, 128, 0), "the mean of both"
    with pytest.raises(ConfigError, match="the models agree on none of 3 pictures; lower --agree-from"):
        write_labels(first, other, str(tmp_path), agree_from=0.99)


def test_a_mask_that_is_missing_costs_its_photo_only(
    outputs: tuple[Output, Output], make_output: Callable[..., None], tmp_path: Path
) -> None:
    first, other = outputs
    make_output(first, 4, photos=tmp_path)
    make_output(other, 4, photos=tmp_path)
    (tmp_path / "other" / "masks" / "i1.png").unlink()
    rows = pq.read_table(write_labels(first, other, str(tmp_path))).to_pylist()
    assert [row["item_id"] for row in rows] == ["i0", "i2"], "i3 never had its files"


def test_two_presets_label_a_folder_that_a_training_reads(
    make_photos: Callable[..., list[Path]], fake_preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos(tmp_path / "photos", 4)
    twin = tmp_path / "twin.yaml"
    twin.write_text(Path(fake_preset).read_text())
    command = ["labels", "-m", str(tmp_path / "photos"), "-o", str(tmp_path / "out"), "--models", fake_preset, str(twin)]
    monkeypatch.setattr(sys, "argv", command)
    assert pseudo_labels.main() == 0
    manifest = tmp_path / "out" / "manifest.parquet"
    rows = pq.read_table(manifest).to_pylist()
    assert sorted(row["image_uri"] for row in rows) == sorted(map(str, photos))
    files = Files(Storage(allow_roots=(str(tmp_path),)))
    training, held_out = read_photos(str(manifest), "truth_uri", files, held_out_of=4)
    assert len(training.items) + len(held_out.items) == 4
    assert training.read(0).alpha.max() == 255


def test_labels_keep_the_boxes(make_photos: Callable[..., list[Path]], fake_preset: str, tmp_path: Path) -> None:
    """Without it, the other objects of a photo would be background."""
    make_photos(tmp_path / "photos", 2)
    rows = ["image_uri,box", 'photos/photo-000.jpg,"5,5,100,85"', "photos/photo-001.jpg,"]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    twin = tmp_path / "twin.yaml"
    twin.write_text(Path(fake_preset).read_text())
    manifest = label(str(tmp_path / "m.csv"), str(tmp_path / "out"), [fake_preset, str(twin)])
    boxes = {Path(row["image_uri"]).name: row["box"] for row in pq.read_table(manifest).to_pylist()}
    assert boxes == {"photo-000.jpg": [5, 5, 100, 85], "photo-001.jpg": None}
    sides = read_photos(manifest, "truth_uri", Files(Storage(allow_roots=(str(tmp_path),))), held_out_of=4)
    assert sorted(item.boxed for side in sides for item in side.items) == [False, True]


def test_what_cannot_be_labelled_is_refused(tmp_path: Path, fake_preset: str) -> None:
    with pytest.raises(ConfigError, match="give two different models"):
        label("photos", str(tmp_path), [fake_preset, fake_preset])
    with pytest.raises(ConfigError, match="--agree-from is 1.5; give a Dice above 0 and up to 1"):
        label("photos", str(tmp_path), ["mvanet-lite", "u2netp"], agree_from=1.5)
