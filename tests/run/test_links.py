"""Folders of links, such as the cache of the Hugging Face hub, whose pictures lie outside the manifest's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from pipeline import run
from pipeline.errors import ConfigError

MakePhotos = Callable[..., list[Path]]


@pytest.fixture
def cache(tmp_path: Path, make_photos: MakePhotos) -> Path:
    """``snapshots/main`` with three links to ``blobs``."""
    photos = make_photos(tmp_path / "hub" / "blobs", 3)
    snapshot = tmp_path / "hub" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    for number, photo in enumerate(photos):
        (snapshot / f"{number}.jpg").symlink_to(Path("../../blobs") / photo.name)
    return snapshot


def test_a_folder_of_links_alone_is_refused_before_the_model_is_loaded(tmp_path: Path, cache: Path, fake_preset: str) -> None:
    with pytest.raises(ConfigError, match=f"no image of the manifest can be read: .*add --allow-root {cache.parents[1]}/blobs"):
        run(cache, tmp_path / "out", preset=fake_preset)
    assert not (tmp_path / "out" / "index").exists()
    assert run(cache, tmp_path / "out", preset=fake_preset, allow_root=cache.parents[1]).ok == 3


def test_the_advice_for_a_link_among_files_helps(
    tmp_path: Path, cache: Path, make_photos: MakePhotos, fake_preset: str
) -> None:
    make_photos(cache, 2)
    assert run(cache, tmp_path / "out", preset=fake_preset).failed == 3
    rows = ds.dataset(f"{tmp_path}/out/index").to_table().to_pylist()
    (reason, *_) = [row["error_detail"] for row in rows if row["status"] == "failed"]
    assert f"add --allow-root {cache.parents[1]}/blobs if it may be read; add --retry item, too" in reason
    run(cache, tmp_path / "out", preset=fake_preset, allow_root=cache.parents[1] / "blobs", retry="item")
    rows = ds.dataset(f"{tmp_path}/out/index").to_table().to_pylist()
    assert len(rows) == 5 and not [row for row in rows if row["status"] == "failed"]


def test_paths_of_another_machine_are_called_so(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    (photo,) = make_photos(tmp_path / "in", 1)
    (tmp_path / "in" / "m.csv").write_text(f"image_uri\n/home/somebody/photos/{photo.name}\n")
    said = f"below /home/somebody/photos, which does not exist on this machine; .* may begin at {tmp_path}/in"
    with pytest.raises(ConfigError, match=said):
        run(tmp_path / "in" / "m.csv", tmp_path / "out", preset=fake_preset)


def test_rows_outside_the_roots_say_how_to_retry(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    photos, others = make_photos(tmp_path / "in", 30), make_photos(tmp_path / "other", 1)
    (tmp_path / "in" / "m.csv").write_text("image_uri\n" + "".join(f"{path}\n" for path in (*photos, *others)))
    run(tmp_path / "in" / "m.csv", tmp_path / "out", preset=fake_preset)
    (row,) = ds.dataset(f"{tmp_path}/out/index").to_table(filter=ds.field("status") == "failed").to_pylist()
    assert f"add --allow-root {tmp_path}/other if it may be read; add --retry item, too" in row["error_detail"]
