"""Runs of more and more rows, through the real command line, with next to nothing to do for each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.run.graph import GPU_ROWS, grown

OUT = Path(__file__).resolve().parents[3] / "out" / "scale"
ITEMS = int(os.environ.get("ITEMS") or 1_000_000)
SIZES = (ITEMS // 16, ITEMS // 4, ITEMS)
RUN_S = 3600

REAL_EVERY = 64
"""One row in so many has an image: at least one a block, so that every stage of every block works. The others' images lie
outside the allowed roots: nothing is read or made for them, and they are carried from manifest to index like any row."""

SIDES_PX = (64, 48)
SETTINGS = (
    *("recipe.outputs=[mask]", "budget.max_failed_share=1"),
    *("compute.batch_size=64", "compute.actors=1", "compute.threads_per_actor=1"),
)
"""Index parts are of the size that the command chooses."""


@dataclass(frozen=True)
class Run:
    """One run from an empty output, and the same command again."""

    rows: int
    seconds: float
    """From the command's start to its end."""
    flow_rows_per_s: float
    """Without start-up and tidying: while the middle nine tenths were finished."""
    again_s: float
    """Of the same command when everything is done."""
    driver_mib: float
    """The most that was resident of the driver at any time (VmHWM)."""
    driver_heap_mib: float
    """The most that it had allocated for itself (RssAnon), seen once a second."""
    indexed: int
    """Rows in the index at the end, each id once."""
    parts: int

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, fake_preset: str) -> list[Run]:
    """By size, the smallest first; their numbers are in ``out/scale/runs.json``."""
    OUT.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp("scale")
    done: list[Run] = []
    for rows in SIZES:
        done.append(run(rows, folder / str(rows), fake_preset))
        told = [asdict(one) | {"rows_per_s": one.rows_per_s} for one in done]
        (OUT / "runs.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return done


def run(rows: int, folder: Path, preset: str) -> Run:
    """One run of so many rows, watched, and the same command again."""
    folder.mkdir()
    manifest, output, log = write_manifest(folder, rows), folder / "out", OUT / f"run-{rows}.log"
    matteline = str(Path(sys.executable).with_name("matteline"))
    where = ("--manifest", str(manifest), "--output", str(output), "--preset", preset)
    # Blocks of the size that a run on GPUs makes: it is their number that Ray keeps account of.
    settings = (*SETTINGS, f"compute.rows_per_block={grown(GPU_ROWS, rows)}")
    command = [matteline, "run", *where, *(f"--set={setting}" for setting in settings)]
    seconds, peak_mib, heap_mib = watched(command, log)
    again_s, _, _ = watched(command, log)
    parts = list(output.glob("*/index/*.parquet"))
    index = ds.dataset(parts, format="parquet").to_table(["item_id", "finished_at"])
    finished = np.sort(index["finished_at"].cast(pa.int64()).to_numpy()) / 1e3
    first, last = len(finished) // 20, len(finished) - 1 - len(finished) // 20
    return Run(
        rows=rows,
        seconds=seconds,
        flow_rows_per_s=float((last - first) / (finished[last] - finished[first])),
        again_s=again_s,
        driver_mib=peak_mib,
        driver_heap_mib=heap_mib,
        indexed=len(index["item_id"].unique()),
        parts=len(parts),
    )


def write_manifest(folder: Path, rows: int) -> Path:
    """One image for every ``REAL_EVERY``-th row; the others' is somewhere else."""
    (folder / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (*SIDES_PX[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photos" / "photo.jpg")
    uris = np.where(np.arange(rows) % REAL_EVERY == 0, "photos/photo.jpg", str(folder.parent / "elsewhere" / "photo.jpg"))
    table = {"item_id": [f"item-{number:08}" for number in range(rows)], "image_uri": uris.tolist()}
    pq.write_table(pa.table(table), folder / "manifest.parquet")
    return folder / "manifest.parquet"


def watched(command: list[str], log: Path) -> tuple[float, float, float]:
    """Seconds of a command, and the most memory of its own process in MiB: resident, and allocated for itself."""
    start, peak, heap = time.perf_counter(), 0.0, 0.0
    with log.open("ab") as words, subprocess.Popen(command, stdout=words, stderr=words, env=environment()) as process:
        try:
            while process.poll() is None:
                if time.perf_counter() - start > RUN_S:
                    pytest.exit(f"the run took longer than {RUN_S} s; see {log}", 1)
                found = dict(re.findall(r"^(VmHWM|RssAnon):\s+(\d+)", status(process.pid), re.MULTILINE))
                peak, heap = (max(most, int(found.get(name, 0)) / 1024) for most, name in ((peak, "VmHWM"), (heap, "RssAnon")))
                time.sleep(0.2)
        finally:
            process.terminate()
    if process.returncode:
        pytest.exit(f"the run ended with {process.returncode}; {log} ends with {log.read_text(errors='replace')[-1500:]}", 1)
    return time.perf_counter() - start, peak, heap


def status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has just ended


def environment() -> dict[str, str]:
    """Nobody else's store or cluster."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "RAY_"))}
    return variables | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
