"""Estimate a run before it starts: bytes from a sample of its images, hours and money from a measured speed."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.job import Limits
from pipeline.errors import ConfigError, FetchError, ItemError, StorageError
from pipeline.manifest.manifest import Manifest, read
from pipeline.manifest.videos import PART_COLUMNS, are_videos, part_of
from pipeline.models.resolve import ResolvedRecipe
from pipeline.storage.files import Files
from pipeline.storage.members import TarMember, parse_member
from pipeline.storage.uris import HTTP_SCHEMES, scheme

SAMPLED_IMAGES = 64
"""Images whose size is read. For a catalog of photos the mean is then known to about a tenth."""

SAMPLED_VIDEOS = 16
"""Videos whose header is read."""

SAMPLED_FRAGMENTS = 8
"""Fragments of the manifest that the sample is drawn from."""

MIN_ITEMS = 64
"""The speed of a run with fewer items is mostly that of its start."""


@dataclass(frozen=True)
class Price:
    """The price of one machine per hour, in any currency."""

    machine: str
    per_hour: float

    @classmethod
    def parse(cls, text: str) -> Price:
        """Parse ``g6.xlarge=0.80``.

        Raises:
            ConfigError: The text has another form.
        """
        machine, _, number = text.rpartition("=")
        if not machine or not re.fullmatch(r"\d+(\.\d+)?", number):
            raise ConfigError(f"--price {text}: give a machine's name and its price per hour, such as g6.xlarge=0.80")
        return cls(machine, float(number))


@dataclass(frozen=True)
class Sizes:
    """Sizes of some images."""

    known: Sequence[int]
    """Bytes each."""
    unknown: int
    """Images whose size could not be read."""

    def total(self, items: int) -> tuple[float, float] | None:
        """Return the bytes of a number of items and their 95 % error; None if no size is known."""
        if not self.known:
            return None
        spread = statistics.stdev(self.known) if len(self.known) > 1 else 0.0
        return items * statistics.fmean(self.known), items * 1.96 * spread / math.sqrt(len(self.known))


def sample_sizes(manifest: Manifest, files: Files) -> Sizes:
    """Return the sizes of some images, drawn evenly. Web servers are not asked: that would take as long as a download."""
    fragments = manifest.fragments
    some = (
        [fragments[number * len(fragments) // SAMPLED_FRAGMENTS] for number in range(SAMPLED_FRAGMENTS)]
        if len(fragments) > SAMPLED_FRAGMENTS
        else fragments
    )
    uris: list[str] = []
    for fragment in some:
        table = next(read(manifest, fragment, files), None)
        if table is None or not table.num_rows:
            continue
        count = min(table.num_rows, -(-SAMPLED_IMAGES // len(some)))
        rows = table.select(["image_uri", "error_code"]).take([at * table.num_rows // count for at in range(count)]).to_pylist()
        uris += [row["image_uri"] for row in rows if row["error_code"] is None and scheme(row["image_uri"]) not in HTTP_SCHEMES]
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(lambda uri: _size(uri, files), uris[:SAMPLED_IMAGES]))
    known = [size for size in sizes if size is not None]
    return Sizes(known, len(sizes) - len(known))


@dataclass(frozen=True)
class VideoLengths:
    """Lengths of some videos, as their headers say."""

    frames: Sequence[int]
    seconds: Sequence[float]
    unknown: int
    """Videos that cannot be read, or whose header says nothing."""


def sample_videos(manifest: Manifest, files: Files, limits: Limits) -> VideoLengths:
    """Return the lengths of some videos: the first ones of each fragment that is looked at."""
    from pipeline.video.source import Source
    from pipeline.video.span import length_of
    from pipeline.video.stills import length

    rows: list[dict[str, Any]] = []
    for fragment in manifest.fragments[:SAMPLED_FRAGMENTS]:
        table = next(read(manifest, fragment, files), None)
        if table is not None:
            usable = table.filter(pc.and_(pa.array(are_videos(table)), pc.is_null(table["error_code"])))
            named = usable.select([name for name in ("image_uri", *PART_COLUMNS) if name in usable.column_names])
            rows += [row for row in named.to_pylist() if scheme(row["image_uri"]) not in HTTP_SCHEMES]
    found = []
    for row in rows[:SAMPLED_VIDEOS]:
        try:
            with Source(manifest.allowlist.real_path(row["image_uri"]), files, limits) as source:
                found.append(length_of(part_of(row), length(source.open(), limits)))
        except ItemError:
            found.append(None)
    known = [one for one in found if one is not None]
    return VideoLengths([frames for frames, _ in known], [seconds for _, seconds in known], len(found) - len(known))


def _size(uri: str, files: Files) -> int | None:
    member = parse_member(uri)
    if isinstance(member, TarMember):
        return member.size
    try:
        if member is not None:
            return len(files.read(uri, max_bytes=Limits().max_bytes))
        return files.stat(uri).size
    except (StorageError, FetchError):
        return None


@dataclass(frozen=True)
class Speed:
    """Items per second of one actor, reading and writing included."""

    items_per_s: float
    source: str
    """Method of measurement, as a sentence."""
    of_this_machine: bool = False
    """The model was timed where the command runs."""


def second_share(resolved: ResolvedRecipe) -> float | None:
    """Return the share of the items that a recipe's second model is expected to see, by the first one's calibration.

    None if that is unknown: without a second model, a calibration, or quantiles in it.
    """
    second, calibration = resolved.recipe.second, resolved.calibration
    return None if second is None or calibration is None else calibration.share_below(second.below)


def measured_speed(records: Iterable[dict[str, Any]], recipe: str, gpus_per_actor: float, every: int = 1) -> Speed | None:
    """Return the speed of the latest run that was long enough and had this recipe and actors like these; None without one.

    Args:
        records: Run records, the latest first. No more are read than needed.
        recipe: Fingerprint of the recipe.
        gpus_per_actor: GPUs per actor.
        every: ``recipe.every``: the model sees every so many frames of a video, and each of them counts as an item.
    """
    for record in records:
        done = record.get("ok", 0) + record.get("review", 0) + record.get("failed", 0)
        frames = record.get("frames") or 0
        passes = done + frames // every
        hours = record.get("actor_hours")
        is_like_this = (record.get("recipe"), record.get("gpus_per_actor")) == (recipe, gpus_per_actor)
        if hours and passes >= MIN_ITEMS and is_like_this:
            what = f"{done} items" + (f" with {frames:,} frames of videos" if frames else "")
            return Speed(passes / hours / 3600, f"run {record['run_id']} did {what} in {hours:.3g} actor hours")
    return None


@dataclass(frozen=True)
class Estimate:
    """Hours on the clock, machine hours, GPU hours, and money if a price was given."""

    hours: float
    machine_hours: float
    gpu_hours: float
    money: float | None


def estimate(items: int, speed: Speed, actors: int, gpus_per_actor: float, machines: int, price: Price | None) -> Estimate:
    """Return the estimate for a number of items on ``actors`` actors and ``machines`` machines."""
    hours = items / (speed.items_per_s * actors) / 3600
    machine_hours = hours * machines
    money = None if price is None else machine_hours * price.per_hour
    return Estimate(hours, machine_hours, hours * actors * gpus_per_actor, money)
