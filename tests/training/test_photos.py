"""Photos are divided into those to train on and those held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.storage.files import Files
from pipeline.training.photos import read_photos
from pipeline.training.samples import is_held_out


def manifest_of(ids: list[str], folder: Path) -> str:
    rows = [f"{one},{one}.jpg,{one}.png" for one in ids]
    (folder / "photos.csv").write_text("\n".join(["item_id,image_uri,truth_uri", *rows]))
    return str(folder / "photos.csv")


@pytest.mark.parametrize("count", range(2, 11))
@pytest.mark.parametrize("held_out_of", [1, 10, 1000])
def test_of_few_photos_at_least_one_is_held_out_and_one_is_not(count: int, held_out_of: int, tmp_path: Path) -> None:
    ids = [f"photo-{number}" for number in range(count)]
    training, held_out = read_photos(manifest_of(ids, tmp_path), "truth_uri", Files(), held_out_of)
    kept, out = {one.item_id for one in training.items}, {one.item_id for one in held_out.items}
    assert kept and out and kept | out == set(ids) and not kept & out
    by_hash = {one for one in ids if is_held_out(one, held_out_of)}
    assert out == by_hash if 0 < len(by_hash) < count else len(out) == 1
    again = read_photos(manifest_of(ids[::-1], tmp_path), "truth_uri", Files(), held_out_of)
    assert again[1].items == held_out.items


def test_one_photo_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 1 usable item, and training needs at least two") as refused:
        read_photos(manifest_of(["a"], tmp_path), "truth_uri", Files(), 10)
    assert "held_out_of" not in str(refused.value)
