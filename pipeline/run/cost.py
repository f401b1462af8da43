"""What a run will cost before it is done: bytes from a sample of its images, hours and money from a measured speed."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError, StorageError
from pipeline.manifest.manifest import Manifest, read
from pipeline.storage.files import Files
from pipeline.storage.uris import WEB, scheme

LOOKED_AT = 64
"""Images whose size is asked for; of a catalog of photos the mean is then known to about a tenth."""

FRAGMENTS = 8
"""Of the manifest, from which they are drawn."""

ENOUGH = 64
"""A run of fewer items tells more of its start than of its speed."""


@dataclass(frozen=True)
class Price:
    """Of one machine: its name, and money an hour in whatever currency."""

    machine: str
    per_hour: float

    @classmethod
    def parse(cls, text: str) -> Price:
        """``g6.xlarge=0.80``.

        Raises:
            ConfigError: it is no such thing.
        """
        machine, _, number = text.rpartition("=")
        if not machine or not re.fullmatch(r"\d+(\.\d+)?", number):
            raise ConfigError(f"--price {text}: give a machine's name and its price an hour, such as g6.xlarge=0.80")
        return cls(machine, float(number))


@dataclass(frozen=True)
class Sizes:
    """Bytes of images that were looked at; ``unknown`` more couldn't be."""

    found: Sequence[int]
    unknown: int

    def of(self, items: int) -> tuple[float, float] | None:
        """Bytes of so many items and how far they may be off (95 %); None where nothing was found."""
        if not self.found:
            return None
        spread = statistics.stdev(self.found) if len(self.found) > 1 else 0.0
        return items * statistics.fmean(self.found), items * 1.96 * spread / math.sqrt(len(self.found))


def look_at_sizes(manifest: Manifest, files: Files) -> Sizes:
    """Sizes of some images, evenly drawn. On the web nobody is asked: it would take as long as to fetch them."""
    places = manifest.fragments
    some = [places[number * len(places) // FRAGMENTS] for number in range(FRAGMENTS)] if len(places) > FRAGMENTS else places
    uris: list[str] = []
    for fragment in some:
        table = next(read(manifest, fragment, files), None)
        if table is None or not table.num_rows:
            continue
        count = min(table.num_rows, -(-LOOKED_AT // len(some)))
        rows = table.select(["image_uri", "error_code"]).take([at * table.num_rows // count for at in range(count)]).to_pylist()
        uris += [row["image_uri"] for row in rows if row["error_code"] is None and scheme(row["image_uri"]) not in WEB]
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(lambda uri: _size(uri, files), uris[:LOOKED_AT]))
    found = [size for size in sizes if size is not None]
    return Sizes(found, len(sizes) - len(found))


def _size(uri: str, files: Files) -> int | None:
    try:
        return files.stat(uri).size
    except StorageError:
        return None


@dataclass(frozen=True)
class Speed:
    """Items a second of one copy of the model with all around it, and how that is known."""

    items_per_s: float
    known: str


def measured_speed(records: Iterable[dict[str, Any]], gpus_per_actor: float) -> Speed | None:
    """Of the latest of these run records (the latest first) that was long enough, with copies like these; None without one.

    No more of them are read than it takes.
    """
    for record in records:
        done = record.get("ok", 0) + record.get("review", 0) + record.get("failed", 0)
        hours = record.get("actor_hours")
        if hours and done >= ENOUGH and record.get("gpus_per_actor") == gpus_per_actor:
            return Speed(done / hours / 3600, f"run {record['run_id']} did {done} items in {hours:.3g} hours of one copy")
    return None


@dataclass(frozen=True)
class Estimate:
    """Of a run: hours on the clock, hours of all machines, of all GPUs, and money where a price was named."""

    hours: float
    machine_hours: float
    gpu_hours: float
    money: float | None


def estimate(items: int, speed: Speed, actors: int, gpus_per_actor: float, machines: int, price: Price | None) -> Estimate:
    """So many items with so many copies of the model on so many machines."""
    hours = items / (speed.items_per_s * actors) / 3600
    machine_hours = hours * machines
    money = None if price is None else machine_hours * price.per_hour
    return Estimate(hours, machine_hours, hours * actors * gpus_per_actor, money)
