"""Estimate runs before they start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.job import Storage
from pipeline.errors import ConfigError
from pipeline.manifest.manifest import open_manifest
from pipeline.run.cost import Price, Sizes, Speed, estimate, measured_speed, sample_sizes
from pipeline.storage.files import Files


@pytest.mark.parametrize("text", ["0.80", "g6.xlarge", "g6.xlarge=", "=0.8", "g6.xlarge=-1", "g6.xlarge=cheap", "a=1e3"])
def test_a_price_names_its_machine(text: str) -> None:
    assert Price.parse("g6.xlarge=0.80") == Price("g6.xlarge", 0.8)
    with pytest.raises(ConfigError, match="give a machine's name and its price per hour"):
        Price.parse(text)


def test_hours_and_money_by_hand() -> None:
    found = estimate(36_000, Speed(5.0, "said"), actors=4, gpus_per_actor=0.5, machines=2, price=Price("g6.xlarge", 0.8))
    assert (found.hours, found.machine_hours, found.gpu_hours, found.money) == pytest.approx((0.5, 1.0, 1.0, 0.8))
    assert estimate(36_000, Speed(5.0, "said"), 4, 0.5, 2, None).money is None


def record(**more: Any) -> dict[str, Any]:
    counts = {"ok": 60, "review": 10, "failed": 0}
    return {"run_id": "r", "recipe": "a", **counts, "actor_hours": 14 / 3600, "gpus_per_actor": 1.0} | more


@pytest.mark.parametrize(
    ("records", "items_per_s"),
    [
        ([record()], 5.0),
        ([record(ok=10), record(actor_hours=35 / 3600)], 2.0),  # too short to tell
        ([record(gpus_per_actor=0.0), record(actor_hours=35 / 3600)], 2.0),  # on CPUs
        ([record(recipe="b"), record(actor_hours=35 / 3600)], 2.0),  # of another recipe, before --replace
        ([record(recipe="b")], None),
        ([record(actor_hours=None)], None),  # whose copies nobody counted
        ([{"run_id": "broken"}], None),
        ([], None),
    ],
)
def test_speed_is_that_of_the_last_run_like_this_one(records: list[dict[str, Any]], items_per_s: float | None) -> None:
    found = measured_speed(records, "a", 1.0)
    assert (found and found.items_per_s) == (items_per_s and pytest.approx(items_per_s))


def test_bytes_are_told_from_some_images(tmp_path: Path, make_photos: Callable[..., list[Path]]) -> None:
    photos = make_photos(tmp_path / "photos", 70)
    sizes = [path.stat().st_size for path in photos]
    found = sample_sizes(open_manifest(str(tmp_path / "photos"), Files()), Files())
    assert (len(found.known), found.unknown) == (64, 0)
    about = found.total(1000)
    assert about is not None
    total, off = about
    assert abs(total - 1000 * sum(sizes) / 70) <= 2 * off


def test_images_that_are_missing_elsewhere_or_on_the_web_are_no_bytes(
    tmp_path: Path, make_photos: Callable[..., list[Path]]
) -> None:
    (photo,) = make_photos(tmp_path / "photos", 1)
    uris = [f"photos/{photo.name}", "photos/missing.jpg", "https://shop.example/a.jpg", "/etc/hostname"]
    (tmp_path / "manifest.csv").write_text("image_uri\n" + "\n".join(uris))
    files = Files(Storage(http=True))
    found = sample_sizes(open_manifest(str(tmp_path / "manifest.csv"), files), files)
    assert (found.known, found.unknown) == ([photo.stat().st_size], 1)
    assert Sizes([], 3).total(10) is None
    assert Sizes([7], 0).total(10) == (70, 0)


def test_frames_of_videos_count_as_items_of_an_earlier_run() -> None:
    some = record(run_id="1", ok=3, review=1, frames=1200, actor_hours=0.5, gpus_per_actor=0.0)
    found = measured_speed([some], "a", 0.0, every=2)
    assert found == Speed(604 / 1800, "run 1 did 4 items with 1,200 frames of videos in 0.5 actor hours")
