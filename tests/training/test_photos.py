"""Photos are divided into those to train on and those held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.log import log
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


def test_all_items_of_a_photo_are_on_one_side(tmp_path: Path) -> None:
    header = "item_id,image_uri,truth_uri,box,group"
    grouped = [f"{n}{mark},{n}{mark}.jpg,{n}.png,,{n}" for n in range(30) for mark in ("", "@blur", "@noise")]
    (tmp_path / "grouped.csv").write_text("\n".join([header, *grouped]))
    objects = [f'{n}#{k},{n}.jpg,{n}-{k}.png,"[0, 0, {k + 5}, 9]",' for n in range(30) for k in range(3)]
    (tmp_path / "objects.csv").write_text("\n".join([header.removesuffix(",group"), *(row[:-1] for row in objects)]))
    (tmp_path / "some.csv").write_text("\n".join([header, *objects[:-1], objects[-1] + "alone"]))
    for name, photo_of in (
        *(("grouped", lambda one: one.item_id.split("@")[0]), ("objects", lambda one: one.image_uri)),
        ("some", lambda one: one.item_id if one.item_id == "29#2" else one.image_uri),
    ):
        training, held_out = read_photos(str(tmp_path / f"{name}.csv"), "truth_uri", Files(), 5)
        kept, out = ({photo_of(one) for one in some.items} for some in (training, held_out))
        assert len(training.items) + len(held_out.items) == 90
        assert out and not kept & out
        assert {one.boxed for one in training.items} == {name != "grouped"}


def test_items_that_cannot_be_used_are_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = list[str]()
    rows = ["item_id,image_uri,truth_uri", "a,a.jpg,a.png", "b,b.jpg,b.png", "c,c.jpg,", "d,d.jpg,/elsewhere/d.png", "e,,e.png"]
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    monkeypatch.setattr(log, "warning", said.append)
    training, held_out = read_photos(str(tmp_path / "photos.csv"), "truth_uri", Files(), 5)
    assert {one.item_id for one in (*training.items, *held_out.items)} == {"a", "b"}
    reasons = dict(line.removeprefix("skipped: ").split(": ", 1) for line in said)
    assert sorted(reasons) == ["c", "d", "e"]
    assert "truth_uri" in reasons["c"] and "--allow-root" in reasons["d"] and "image_uri" in reasons["e"]


def test_one_photo_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 1 usable photo, and training needs at least two") as refused:
        read_photos(manifest_of(["a"], tmp_path), "truth_uri", Files(), 10)
    assert "held_out_of" not in str(refused.value)
