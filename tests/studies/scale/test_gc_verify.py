"""``make bench-scale``: ``gc`` and ``verify --sample 0`` of large outputs take linear time and constant memory.

Objects are empty files, since none is read. The index has about the bytes per row of a real one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config.job import Storage
from pipeline.output.index import write_part
from pipeline.output.output import Output
from pipeline.output.settings import write_settings
from pipeline.schema import INDEX, SIGNALS
from pipeline.storage.files import Files

pytestmark = [pytest.mark.study, pytest.mark.timeout(2 * 3600)]

ITEMS = int(os.environ.get("ITEMS") or 1_000_000)
DISK_ROWS = (ITEMS // 8, ITEMS // 2)
S3_ROWS = (ITEMS // 40, ITEMS // 16)
"""Rows of the outputs, each with a mask and a cutout: up to a million objects on a disk, 125,000 on S3."""

STARTS = 5
"""Runs with one row, whose median is the cost of the start-up."""

PART_ROWS = 12_000
ORPHANS = 100
COMMANDS = {"gc": ("--min-age", "0"), "verify": ("--sample", "0")}
LIMIT_S = 600
"""Seconds per million objects, with start-up, which then counts several times."""

MAX_GROWTH = 1.5
"""CPU per object ÷ that of the smaller output, without start-up, whose CPU varies by 0.4 s. It hardly depends on the load."""

PEAK_MIB = 1024

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Cost:
    """What one command costs."""

    where: str
    command: str
    objects: int
    seconds: float
    cpu_s: float
    """Seconds of the command's own process on all cores."""
    peak_mib: float
    """Peak of its resident memory."""
    start_cpu_s: float
    """The same with an output of one row."""

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU per object, without start-up."""
        return 1e6 * (self.cpu_s - self.start_cpu_s) / self.objects


def table(first: int, rows: int) -> pa.Table:
    """Rows of an index, with hashes and signals that do not compress."""
    names = [f"shelf-{number % 100:02}/item-{number:08}" for number in range(first, first + rows)]
    signals = {field.name: pa.array(RNG.random(rows), pa.float32()) for field in SIGNALS if field.type == pa.float32()}
    filled = {
        **{"item_id": names, "output_name": names, "status": ["ok"] * rows, "quality": RNG.random(rows)},
        **{"mask_path": [f"masks/{name}.png" for name in names], "mask_sha256": hashes(rows)},
        **{"cutout_path": [f"cutouts/{name}.png" for name in names], "cutout_sha256": hashes(rows)},
        **{"image_uri": [f"s3://photos/{name}.jpg" for name in names], "image_sha256": hashes(rows)},
    }
    columns = {name: pa.array(values, INDEX.field(name).type) for name, values in filled.items()}
    columns["signals"] = pa.StructArray.from_arrays(
        [signals.get(field.name, pa.nulls(rows, field.type)) for field in SIGNALS], fields=list(SIGNALS)
    )
    arrays = [columns[field.name] if field.name in columns else pa.nulls(rows, field.type) for field in INDEX]
    return pa.table(arrays, schema=INDEX)


def hashes(rows: int) -> list[str]:
    text = RNG.bytes(32 * rows).hex()
    return [text[start : start + 64] for start in range(0, len(text), 64)]


def write_index(output: Output, settings: dict[str, Any], rows: int) -> None:
    write_settings(output, settings)
    for first in range(0, rows, PART_ROWS):
        write_part(output, table(first, min(PART_ROWS, rows - first)))


def write_objects(folder: Path, rows: int) -> None:
    for kind in ("masks", "cutouts"):
        for shelf in range(100):
            (folder / kind / f"shelf-{shelf:02}").mkdir(parents=True, exist_ok=True)
        for number in range(rows):
            (folder / kind / f"shelf-{number % 100:02}" / f"item-{number:08}.png").touch()
    for number in range(ORPHANS):
        (folder / "masks" / f"orphan-{number}.png").touch()


def run(matteline: str, command: str, uri: str, env: dict[str, str], log: Path) -> tuple[dict[str, Any], float, float, float]:
    """Run a command; return its JSON, its seconds, its seconds of CPU and its peak of resident MiB."""
    start, peak, ended = time.perf_counter(), 0.0, 0
    with log.with_suffix(".json").open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(
            [matteline, command, uri, *COMMANDS[command], "--json"], stdout=out, stderr=err, env=env, cwd=log.parent
        )
        while not ended:
            with suppress(OSError):  # the maximum of wait4 is that of the process which started it
                found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
                peak = max(peak, int(found[1]) / 1024 if found else 0)
            time.sleep(0.1)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    seconds = time.perf_counter() - start
    assert os.waitstatus_to_exitcode(status) == (command == "verify"), log.read_text()[-1500:]  # verify finds orphans
    (report,) = json.loads(log.with_suffix(".json").read_text()).values()
    return report, seconds, usage.ru_utime + usage.ru_stime, peak


@pytest.fixture(scope="session")
def costs(
    tmp_path_factory: pytest.TempPathFactory,
    s3: Any,
    matteline: str,
    clean_env: dict[str, str],
    fake_settings: dict[str, Any],
    results: Callable[[str], Path],
) -> list[Cost]:
    """The costs of both commands on a disk and on S3; also in ``out/scale/gc-verify.json``."""
    out, done, starts = results("scale"), [], defaultdict(list)
    env = clean_env | s3.environment
    # weed copies many times faster than a client of S3 in Python writes.
    weed, filer = Path(sys.executable).with_name("weed"), f"http://127.0.0.1:{s3.other_ports['filer']}/buckets"
    once = [("disk", 1), ("s3", 1)] * (1 + STARTS)
    for where, rows in [*once, *(("disk", rows) for rows in DISK_ROWS), *(("s3", rows) for rows in S3_ROWS)]:
        folder = tmp_path_factory.mktemp(where)
        write_objects(folder, rows)
        output = Output.at(str(folder), Files())
        if where == "s3":
            bucket = s3.make_bucket()
            command = [weed, "filer.copy", "-c", "16", folder / "masks", folder / "cutouts", f"{filer}/{bucket}/out/"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            output = Output.at(f"s3://{bucket}/out", Files(Storage(**s3.settings)))
        write_index(output, fake_settings, rows)
        for command in COMMANDS:
            log = out / f"{command}-{where}-{rows}.log"
            report, seconds, cpu_s, peak = run(matteline, command, output.folder, env, log)
            found = report["files"]["object"] if command == "gc" else report["counts"].get("orphan")
            assert found == ORPHANS, report
            assert command == "gc" or (report["rows"], len(report["counts"])) == (rows, 1), report
            if rows == 1:  # the first time, code and libraries come from the disk
                starts[where, command].append(cpu_s)
            done.append(Cost(where, command, 2 * rows, seconds, cpu_s, peak, median(starts[where, command][-STARTS:])))
            (out / "gc-verify.json").write_text(json.dumps([asdict(one) for one in done], indent=2) + "\n")
        shutil.rmtree(folder)
    return [cost for cost in done if cost.objects > 2]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_million_objects_take_minutes(costs: list[Cost], bars: Any, where: str, command: str) -> None:
    cost = [one for one in costs if (one.where, one.command) == (where, command)][-1]
    name = f"{command}, {where}: s per million objects, from {cost.objects:,} ({cost.seconds:.0f} s, CPU {cost.cpu_s:.0f} s)"
    bars.at_most(name, 1e6 / cost.objects * cost.seconds, LIMIT_S)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("where", ["disk", "s3"])
def test_the_time_is_linear(costs: list[Cost], bars: Any, where: str, command: str) -> None:
    first, last = [one for one in costs if (one.where, one.command) == (where, command)]
    times = f"µs of CPU per object, {last.cpu_us:.1f} ÷ the {first.cpu_us:.1f} with {first.objects:,}"
    bars.at_most(f"{command}, {where}, {last.objects:,} objects: {times}", last.cpu_us / first.cpu_us, MAX_GROWTH)


@pytest.mark.parametrize("command", COMMANDS)
def test_memory_is_bounded(costs: list[Cost], bars: Any, command: str) -> None:
    largest = [one for one in costs if (one.where, one.command) == ("disk", command)][-1]
    bars.at_most(f"{command}: peak of resident MiB, {largest.objects:,} objects", largest.peak_mib, PEAK_MIB)


def test_memory_does_not_grow_with_the_objects(bars: Any) -> None:
    script = Path(__file__).with_name("compare_keys.py")
    env = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"}  # as the command sets it
    command = [sys.executable, str(script)]
    first, last = (
        json.loads(subprocess.run([*command, str(keys)], env=env, capture_output=True, check=True).stdout)
        for keys in (4 * ITEMS, 16 * ITEMS)
    )
    assert first["wrong"] == last["wrong"] == 0
    name = f"comparing {16 * ITEMS:,} keys with as many: peak of resident MiB"
    bars.at_most(f"{name} beyond the {first['peak_mib']:.0f} of {4 * ITEMS:,}", last["peak_mib"] - first["peak_mib"], 100)
