"""Runs of three sizes through the command line, with next to no work per row."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from index_passes import ITEMS
from PIL import Image

from pipeline.run.block_sizes import GPU_ROWS, grow

SIZES = (ITEMS // 16, ITEMS // 4, ITEMS)
RUN_S = 3600

REAL_EVERY = 64
"""Rows per row with an image: at least one image per block, so that every stage of every block has work. The other rows name
images outside the allowed roots: nothing is read or written for them, and they travel from manifest to index like any row."""

SIDES_PX = (64, 48)
SETTINGS = (
    *("recipe.outputs=[mask]", "budget.max_failed_share=1"),
    *("compute.batch_size=64", "compute.actors=1", "compute.threads_per_actor=1"),
)
"""Index parts have the size that the command chooses."""


@dataclass(frozen=True)
class Run:
    """One run into an empty output, and the same command again."""

    rows: int
    seconds: float
    """Seconds of the command, from start to end."""
    rows_per_s: float
    flow_rows_per_s: float
    """Rows per second without start-up and cleanup: of the middle nine tenths."""
    again_s: float
    """Seconds of the same command when everything is done."""
    driver_mib: float
    """Peak of the driver's resident memory (VmHWM)."""
    driver_heap_mib: float
    """Peak of the memory that the driver has allocated (RssAnon), sampled every 0.2 s."""
    indexed: int
    """Distinct ids in the index at the end."""
    parts: int


@pytest.fixture(scope="session")
def runs(
    tmp_path_factory: pytest.TempPathFactory, fake_preset: str, matteline: str, clean_env: dict[str, str], results: Callable
) -> list[Run]:
    """The runs, the smallest first; their numbers are in ``out/scale/runs.json``."""
    out: Path = results("scale")
    folder = tmp_path_factory.mktemp("scale")
    done: list[Run] = []
    for rows in SIZES:
        done.append(run(rows, folder / str(rows), [matteline, "run", "--preset", fake_preset], clean_env, out))
        (out / "runs.json").write_text(json.dumps([asdict(one) for one in done], indent=2) + "\n", encoding="utf-8")
    return done


def run(rows: int, folder: Path, command: list[str], env: dict[str, str], out: Path) -> Run:
    """Run the command over ``rows`` rows twice."""
    folder.mkdir()
    manifest, output, log = write_manifest(folder, rows), folder / "out", out / f"run-{rows}.log"
    # Blocks as large as on GPUs: Ray keeps a record of each of them.
    settings = (*SETTINGS, f"compute.rows_per_block={grow(GPU_ROWS, rows)}")
    command = [*command, "--manifest", str(manifest), "--output", str(output), *(f"--set={setting}" for setting in settings)]
    seconds, peak_mib, heap_mib = watch(command, env, log)
    again_s, _, _ = watch(command, env, log)
    parts = list(output.glob("index/*.parquet"))
    index = ds.dataset(parts, format="parquet").to_table(["item_id", "finished_at"])
    finished = np.sort(index["finished_at"].cast(pa.int64()).to_numpy()) / 1e3
    first, last = len(finished) // 20, len(finished) - 1 - len(finished) // 20
    return Run(
        rows=rows,
        seconds=seconds,
        rows_per_s=rows / seconds,
        flow_rows_per_s=float((last - first) / (finished[last] - finished[first])),
        again_s=again_s,
        driver_mib=peak_mib,
        driver_heap_mib=heap_mib,
        indexed=len(index["item_id"].unique()),
        parts=len(parts),
    )


def write_manifest(folder: Path, rows: int) -> Path:
    """Write a manifest in which every ``REAL_EVERY``-th row has an image."""
    (folder / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (*SIDES_PX[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photos" / "photo.jpg")
    uris = np.where(np.arange(rows) % REAL_EVERY == 0, "photos/photo.jpg", str(folder.parent / "elsewhere" / "photo.jpg"))
    table = {"item_id": [f"item-{number:08}" for number in range(rows)], "image_uri": uris.tolist()}
    pq.write_table(pa.table(table), folder / "manifest.parquet")
    return folder / "manifest.parquet"


def watch(command: list[str], env: dict[str, str], log: Path) -> tuple[float, float, float]:
    """Run a command; return its seconds and its process's peaks of resident and of allocated memory, in MiB."""
    start, peak, heap = time.perf_counter(), 0.0, 0.0
    with log.open("ab") as words, subprocess.Popen(command, stdout=words, stderr=words, env=env) as process:
        try:
            while process.poll() is None:
                if time.perf_counter() - start > RUN_S:
                    pytest.exit(f"the run took longer than {RUN_S} s; see {log}", 1)
                found = dict(re.findall(r"^(VmHWM|RssAnon):\s+(\d+)", status(process.pid), re.MULTILINE))
                peak, heap = (max(mib, int(found.get(name, 0)) / 1024) for mib, name in ((peak, "VmHWM"), (heap, "RssAnon")))
                time.sleep(0.2)
        finally:
            process.terminate()
    if process.returncode:
        pytest.exit(f"the run failed with exit code {process.returncode}: {log.read_text(errors='replace')[-1500:]}", 1)
    return time.perf_counter() - start, peak, heap


def status(pid: int) -> str:
    """Return ``/proc/PID/status``, or nothing if the process has just ended."""
    try:
        return Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
