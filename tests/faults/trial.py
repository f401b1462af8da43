"""A trial: a real run of the command line that suffers a fault, the same command again until it ends well, and what is left.

What is lost or doubled is found by reading the index and the objects with pyarrow and hashlib, not with the package's own
code; ``matteline verify`` has to come to the same conclusion.
"""

# Not "from __future__ import annotations": dataclasses couldn't resolve texts in a module that is loaded by its path.
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow.parquet as pq
import pytest

HERE = Path(__file__).resolve().parent
MATTELINE = str(Path(sys.executable).with_name("matteline"))
RUN_S = 300.0
"""Longer than any run here may take; a run that hangs fails its test."""

SESSIONS: dict[int, float] = {}
"""Session ids of all runs so far, each with the time (since 1970, in seconds) when its trial was over."""


class Row(NamedTuple):
    """What became of one fault."""

    fault: str
    items: int
    lost: int
    duplicated: int
    redone: int
    runs: int


class Frame(NamedTuple):
    """A frame that went through the model: its hash, when it was through, and where."""

    name: str
    time_s: float
    pid: int
    machine: str


ROWS = pytest.StashKey[list[Row]]()


@dataclass(frozen=True)
class Disk:
    """An output in a local folder."""

    output: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def objects(self) -> dict[str, bytes]:
        """Everything below the output by its path."""
        return {str(path): path.read_bytes() for path in sorted(Path(self.output).rglob("*")) if path.is_file()}


@dataclass(frozen=True)
class Bucket:
    """An output on S3, read from the server itself and not through the proxy."""

    output: str
    s3: Any
    environment: Mapping[str, str]
    """With which the run finds the store: through the proxy, if there is one."""

    def objects(self) -> dict[str, bytes]:
        bucket, _, prefix = self.output.removeprefix("s3://").partition("/")
        client = self.s3.client()  # takes longer to make than an object to read
        keys = self.s3.keys(bucket, f"{prefix}/")
        return {f"s3://{bucket}/{key}": client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


@dataclass
class Trial:
    """One output that suffers. Leaving it (``with``) audits the output, keeps the row and the bars.

    Args:
        items: ids of the manifest's items.
        doomed: the items that have to fail, with their error code; all others have to end with their objects.
        faults: for ``inject/sitecustomize.py``.
    """

    fault: str
    place: Disk | Bucket
    manifest: str
    preset: str
    folder: Path
    items: Collection[str]
    bars: Any
    rows: list[Row]
    doomed: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, Any] = field(default_factory=dict)
    settings: Sequence[str] = ()
    options: Sequence[str] = ()
    """Further options of the command."""
    engine: str = "ray"
    """``ray`` or ``process``."""
    moment: str = ""
    """Tells the bars of one fault at several moments apart."""
    runs: int = 0

    def __post_init__(self) -> None:
        self.sessions: list[int] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        self.trace = self.folder / "trace"

    @property
    def environment(self) -> dict[str, str]:
        """Of the run: nobody else's store or cluster, and the faults from within."""
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "RAY_"))}
        faults = {"trace": str(self.trace), "sleep_s": 0.05, **self.faults}
        return variables | {
            "AWS_EC2_METADATA_DISABLED": "true",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": os.pathsep.join([str(HERE / "inject"), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "FAULTS": json.dumps(faults),
            **self.place.environment,
        }

    def start(self) -> subprocess.Popen[bytes]:
        """The command, in a process of its own; its stderr goes to a file."""
        self.runs += 1
        where = ("--manifest", self.manifest, "--output", self.place.output, "--preset", self.preset)
        small = f"compute.local_items={0 if self.engine == 'ray' else 1000}"
        settings = (small, "compute.no_progress_s=200", "limits.item_s=25", *self.settings)
        command = [
            MATTELINE,
            "run",
            *where,
            "--retry",
            "fetch,write",
            *self.options,
            *(f"--set={setting}" for setting in settings),
        ]
        with self._log(self.runs).open("wb") as log:
            run = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, start_new_session=True)
        self.sessions.append(run.pid)
        return run

    def said(self, run: int | None = None) -> str:
        """What a run, or the last one, wrote to stdout and stderr."""
        return self._log(run or self.runs).read_text(errors="replace")

    def finish(self, most: int = 3) -> None:
        """The same command until it ends well, at most so many times."""
        for _ in range(most):
            if self.start().wait(RUN_S) == 0:
                return
        pytest.fail(f"{self.fault}: no end after {self.runs} runs; the last said {self.said()[-1500:]}")

    def frames(self) -> "list[Frame]":
        """All that went through the model so far, in order."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        parts = [line.split() for line in lines if not line.startswith("memory ")]
        return [Frame(name, float(time_s), int(pid), machine) for name, _, time_s, pid, machine in parts]

    def segmented(self) -> list[str]:
        """The frames' names."""
        return [frame.name for frame in self.frames()]

    def index(self) -> list[dict[str, Any]]:
        """Return the rows of the index."""
        found = self.place.objects()
        parts = [data for uri, data in found.items() if uri.startswith(f"{self.place.output}/index/")]
        return [row for data in parts for row in pq.read_table(io.BytesIO(data)).to_pylist()]

    def mask_hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the masks that are stored, by item."""
        prefix = f"{self.place.output}/masks/"
        masks = {uri.removeprefix(prefix): data for uri, data in self.place.objects().items() if uri.startswith(prefix)}
        return {name.removesuffix(".png"): hashlib.sha256(data).hexdigest() for name, data in masks.items()}

    def await_frames(self, count: int, run: subprocess.Popen[bytes]) -> None:
        """Until so many frames went through the model."""
        wait_until(lambda: len(self.segmented()) >= count or run.poll() is not None, f"{count} frames", RUN_S)
        assert run.poll() is None, f"the run ended with {run.returncode} before the fault: {self.said()[-1500:]}"

    def __enter__(self) -> "Trial":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        SESSIONS.update(dict.fromkeys(self.sessions, time.time()))
        if kind is not None:
            for process in outside_roots(self.sessions):
                process.kill()
        lost, duplicated = audit(self.place.objects(), self.place.output, self.items, self.doomed)
        frames = self.segmented()
        self.rows.append(Row(self.fault, len(self.items), lost, duplicated, len(frames) - len(set(frames)), self.runs))
        try:
            self.bars.at_most(f"{self.fault}{self.moment}: items lost", lost, 0)
            self.bars.at_most(f"{self.fault}{self.moment}: items duplicated", duplicated, 0)
            self._verify()
        except BaseException:
            if kind is None:  # what went wrong first says more than what followed from it
                raise

    def _verify(self) -> None:
        direct = self.place.s3.environment if isinstance(self.place, Bucket) else {}
        command = [MATTELINE, "verify", self.place.output, "--manifest", self.manifest]
        env = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")} | direct
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=RUN_S, check=False)
        assert done.returncode == 0, f"{self.fault}: {done.stdout}{done.stderr}"

    def _log(self, run: int) -> Path:
        return self.folder / f"run-{run}.log"


def audit(objects: Mapping[str, bytes], output: str, items: Collection[str], doomed: Mapping[str, str]) -> tuple[int, int]:
    """How many items are lost, and how many rows are there too often.

    An item is lost without a row that says what it must: all objects there with the row's SHA-256, or, if it was doomed,
    its error code and no object. Rows of no item count as too many.
    """
    index = [data for uri, data in objects.items() if uri.startswith(f"{output}/index/") and uri.endswith(".parquet")]
    rows = [row for data in index for row in pq.read_table(io.BytesIO(data)).to_pylist()]
    whole = {row["item_id"] for row in rows if _is_whole(row, objects, output, doomed.get(row["item_id"]))}
    seen = Counter(row["item_id"] for row in rows)
    duplicated = sum(count - 1 for count in seen.values()) + len(seen.keys() - set(items))
    return len(set(items) - whole), duplicated


def _is_whole(row: Mapping[str, Any], objects: Mapping[str, bytes], output: str, doom: str | None) -> bool:
    if doom is not None:
        return row["status"] == "failed" and row["error_code"] == doom and row["mask_path"] is row["cutout_path"] is None
    video = row["video_facts"]
    named = [(row[f"{kind}_path"], row[f"{kind}_sha256"]) for kind in ("mask", "cutout")] if video is None else []
    named += [(one["path"], one["sha256"]) for one in (*(row["renditions"] or ()), *(video["files"] if video else ()))]
    stored = [(objects.get(f"{output}/{path}"), sha256) for path, sha256 in named]
    return row["status"] in ("ok", "review") and all(
        data is not None and hashlib.sha256(data).hexdigest() == sha256 for data, sha256 in stored
    )


def workers(run: subprocess.Popen[bytes], work: str) -> list[psutil.Process]:
    """A run's worker processes at work on something; Ray writes into a process's title what it does.

    A run in one process has one worker for everything.
    """
    try:
        family = psutil.Process(run.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    titles = {process: title(process) for process in family}
    return [one for one, name in titles.items() if (name.startswith("ray::") and work in name) or "pipeline.run.worker" in name]


def outside_roots(sessions: Collection[int]) -> list[psutil.Process]:
    """Processes of these runs that still live.

    Ray's processes stay in the session of the run that started them, but rewrite their environment; and a number may be
    another session's later, whose processes are younger.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            session = os.getsid(process.pid)
            is_ours = session in sessions and process.create_time() <= SESSIONS[session]
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_until(true: Callable[[], Any], what: str, limit_s: float) -> None:
    """Wait for something, and fail the test if it doesn't come."""
    deadline = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {limit_s:g} s for {what}")
        time.sleep(0.05)


def table(rows: Sequence[Row]) -> str:
    """A line a fault, as aligned Markdown; a fault that came at several moments is summed up."""
    summed: dict[str, tuple[int, ...]] = {}
    for fault, *numbers in rows:
        before = summed.get(fault, (0,) * (len(numbers) + 1))
        summed[fault] = tuple(a + b for a, b in zip(before, (1, *numbers), strict=True))
    lines = [("fault", "times", *Row._fields[1:]), *((fault, *map(str, numbers)) for fault, numbers in summed.items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def text(line: Sequence[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return f"| {' | '.join([line[0].ljust(widths[0]), *numbers])} |"

    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    return "\n".join([text(lines[0]), rule, *map(text, lines[1:])])


def title(process: psutil.Process) -> str:
    """Its command line."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
