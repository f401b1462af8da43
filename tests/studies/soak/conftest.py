"""Long runs through the command line for all bars, of ``ITEMS`` items (200,000); with faults, from the seed ``FAULTS``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs

ITEMS = int(os.environ.get("ITEMS") or 200_000)
FAULTS = int(os.environ.get("FAULTS") or 1)
PHOTOS = 200
SIDES_PX = (64, 48)
RUN_S = 3 * 3600

ROWS_PER_PART = 256
SETTINGS = (
    "recipe.outputs=[mask]",
    # Blocks and parts as large as on GPUs: Ray keeps a record of each of them.
    *("compute.rows_per_block=64", f"compute.rows_per_part={ROWS_PER_PART}", "compute.batch_size=64"),
    *("compute.actors=1", "compute.threads_per_actor=1"),
)


class Soak(NamedTuple):
    """A finished run with its samples."""

    samples: pd.DataFrame
    flow: pd.DataFrame
    """The samples between the first and the last committed item."""
    items: int
    output: Path
    manifest: Path


@pytest.fixture(scope="session")
def soak(
    matteline: str, make_photos: Callable[..., list[Path]], fake_preset: str, clean_env: dict[str, str], results: Callable
) -> Iterator[Soak]:
    """Run the job and sample its processes; the picture and the samples are in ``out/soak``."""
    from figure import draw
    from growth import flowing
    from watch import Sample, Watch

    out: Path = results("soak")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        manifest, output, log = make_manifest(Path(folder), make_photos, ITEMS), Path(folder) / "out", out / "run.log"
        where = ("--manifest", str(manifest), "--output", str(output), "--preset", fake_preset)
        command = [matteline, "run", *where, *(f"--set={setting}" for setting in SETTINGS)]
        with log.open("wb") as words, subprocess.Popen(command, stdout=words, stderr=words, env=clean_env) as run:
            try:
                with Watch([run.pid], lambda: min(ITEMS, ROWS_PER_PART * len(list(output.glob("index/*.parquet"))))) as watch:
                    exit_code = run.wait(RUN_S)
            finally:
                run.terminate()
        samples = pd.DataFrame(watch.samples, columns=Sample._fields)
        samples.to_csv(out / "memory.csv", index=False)
        draw(samples, out / "memory.png")
        if exit_code:
            pytest.exit(f"the run failed with exit code {exit_code}: {log.read_text(errors='replace')[-1500:]}", 1)
        flow = flowing(samples)
        if flow["seconds"].nunique() < 6:
            pytest.exit(f"{ITEMS} items take too little time for a trend; use at least ITEMS=20000", 2)
        yield Soak(samples, flow, ITEMS, output, manifest)


def make_manifest(folder: Path, make_photos: Callable[..., list[Path]], items: int) -> Path:
    """Write a manifest that cycles through ``PHOTOS`` small photos."""
    for photo in make_photos(folder / "photos", PHOTOS):
        with Image.open(photo) as image:
            image.resize(SIDES_PX).save(photo, quality=90)
    write_rows(folder / "manifest.parquet", items)
    return folder / "manifest.parquet"


def write_rows(manifest: Path, items: int) -> None:
    """Write the rows of a manifest beside its photos."""
    uris = [f"photos/photo-{number:03}.jpg" for number in range(PHOTOS)]
    table = {"item_id": [f"item-{number:08}" for number in range(items)], "image_uri": (uris * (items // PHOTOS + 1))[:items]}
    pq.write_table(pa.table(table), manifest)


# With faults: one of each kind per so many items, and at least one.
ON_S3 = {
    **{"driver killed": 20_000, "driver stopped": 20_000, "driver paused": 100_000},
    **{"model's process killed": 20_000, "worker killed": 10_000, "raylet killed": 50_000},
    **{"store throttles": 20_000, "store breaks connections": 20_000, "store is slow": 50_000},
    **{"store killed": 50_000, "store refuses": 50_000},
}
ON_DISK = ("driver killed", "worker killed", "disk full", "driver stopped")
"""One per increment, in turns."""

ADDED, INCREMENTS = 60, min(40, max(8, ITEMS // 1000))
"""Rows that a manifest grows by, and how often."""


class Suffered(NamedTuple):
    """An output that is complete after faults."""

    name: str
    chaos: Any
    items: int
    manifest: str
    env: dict[str, str]
    """For commands that read the output, without faults."""


@pytest.fixture(scope="session")
def helpers() -> None:
    """Make the helper modules of the fault tests importable."""
    sys.path.append(str(Path(__file__).resolve().parents[2] / "faults"))


@pytest.fixture(scope="session")
def suffered_on_s3(
    helpers: None,
    s3: Any,
    make_photos: Callable[..., list[Path]],
    fake_preset: str,
    clean_env: dict[str, str],
    results: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> Suffered:
    """One run on Ray over a store that misbehaves."""
    from chaos import Chaos, schedule
    from proxy import Proxy
    from trial import Bucket, Trial

    folder, bucket, client = tmp_path_factory.mktemp("chaos"), s3.make_bucket(), s3.client()
    make_manifest(folder, make_photos, ITEMS)
    for path in [folder / "manifest.parquet", *(folder / "photos").iterdir()]:
        client.put_object(Bucket=bucket, Key=str(path.relative_to(folder)), Body=path.read_bytes())
    manifest = f"s3://{bucket}/manifest.parquet"
    disk = fs.S3FileSystem(access_key=s3.key, secret_key=s3.secret, endpoint_override=s3.endpoint_url, region="us-east-1")
    with Proxy(s3.port, seed=FAULTS) as proxy:
        # Ray's workers are at nice 15 otherwise, and wait for whatever else the machine does.
        environment = s3.environment | {"AWS_ENDPOINT_URL": proxy.endpoint_url, "RAY_worker_niceness": "0"}
        place = Bucket(f"s3://{bucket}/out", s3, environment)
        trial = Trial("ray", place, manifest, fake_preset, folder, (), None, [], faults={"sleep_s": 0}, settings=SETTINGS)
        chaos = Chaos(trial, FAULTS, disk, store=(proxy, s3), full=folder / "full")
        with recording(chaos, results("soak")):
            chaos.suffer(schedule(FAULTS, ITEMS, ON_S3, delay_s=min(10.0, ITEMS / 1000)))
    return Suffered("ray", chaos, ITEMS, manifest, clean_env | s3.environment)


@pytest.fixture(scope="session")
def suffered_on_disk(
    helpers: None,
    make_photos: Callable[..., list[Path]],
    fake_preset: str,
    clean_env: dict[str, str],
    results: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> Suffered:
    """Small increments to a manifest on a disk, each a run in one process."""
    from chaos import Chaos, schedule
    from trial import Disk, Trial

    folder = tmp_path_factory.mktemp("increments")
    full, manifest = folder / "full", make_manifest(folder, make_photos, 1)
    faults = {"sleep_s": 0.03, "full": str(full)}
    place = Disk(str(folder / "out"))
    trial = Trial("process", place, str(manifest), fake_preset, folder, (), None, [], faults=faults, engine="process")
    chaos = Chaos(trial, FAULTS, fs.LocalFileSystem(), full=full)
    with recording(chaos, results("soak")):
        for number in range(INCREMENTS):
            write_rows(manifest, (number + 1) * ADDED)
            chaos.suffer(schedule(FAULTS + number, ADDED, {ON_DISK[number % len(ON_DISK)]: ADDED}, delay_s=0.5))
    return Suffered("process", chaos, INCREMENTS * ADDED, str(manifest), clean_env)


@contextmanager
def recording(chaos: Any, out: Path) -> Iterator[None]:
    """Write samples, events, logs and the picture to ``out/soak``, however it ends."""
    from chaos import DEEDS
    from figure import draw
    from trial import SESSIONS
    from watch import Sample

    name = f"faults-{chaos.trial.fault}"
    try:
        with chaos.watch:
            yield
    finally:
        chaos.run.kill()
        SESSIONS.update(dict.fromkeys(chaos.trial.sessions, time.time()))
        samples = pd.DataFrame(chaos.watch.samples, columns=Sample._fields)
        samples.to_csv(out / f"{name}-memory.csv", index=False)
        pd.DataFrame(chaos.events).to_csv(out / f"{name}.csv", index=False)
        logs = (f"run {number}\n{chaos.trial.said(number)}" for number in range(1, chaos.trial.runs + 1))
        (out / f"{name}.log").write_text("\n".join(logs), encoding="utf-8")
        draw(samples, out / f"{name}.png", [(event.seconds, event.kind) for event in chaos.events if event.kind in DEEDS])


@pytest.fixture(params=["on_s3", "on_disk"])
def suffered(request: pytest.FixtureRequest) -> Suffered:
    """Each of them."""
    return request.getfixturevalue(f"suffered_{request.param}")
