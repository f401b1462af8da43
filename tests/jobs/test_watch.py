"""``matteline run --watch`` as a process: killed, started again, and ended by signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil
import pyarrow.dataset as ds
import pytest

INJECT = Path(__file__).resolve().parents[1] / "faults" / "inject"
MATTELINE = str(Path(sys.executable).with_name("matteline"))
Command = Callable[..., subprocess.CompletedProcess[str]]
MakePhotos = Callable[..., list[Path]]


@dataclass
class Running:
    """A watch, and what it has said so far."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def read(self, stream: IO[str]) -> None:
        self.lines.extend(stream)

    def await_line(self, text: str) -> None:
        await_that(lambda: any(text in line for line in list(self.lines)) or self.process.poll() is not None)
        assert any(text in line for line in self.lines), self.lines


@contextmanager
def watching(folder: Path, preset: str) -> Iterator[Running]:
    faults = {
        "PYTHONPATH": f"{INJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "FAULTS": json.dumps({"sleep_s": 0.3, "trace": str(folder / "trace")}),
    }
    command = [MATTELINE, "run", "-m", "in", "-o", "out", "-p", preset, "--watch", "--interval", "0.3s"]
    settings = ["--set", "compute.batch_size=1", "--set", "compute.rows_per_part=1"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, *settings], cwd=folder, env=os.environ | faults, **pipes) as process:
        running = Running(process)
        reader = threading.Thread(target=running.read, args=(process.stderr,), daemon=True)
        reader.start()
        try:
            yield running
        finally:
            process.kill()
            reader.join(10)


def await_that(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def done(folder: Path) -> list[str]:
    """The items with a row. While a run merges parts, a part may be gone."""
    for _ in range(20):
        try:
            return sorted(ds.dataset(folder / "out" / "index", format="parquet").to_table(["item_id"])["item_id"].to_pylist())
        except OSError:
            time.sleep(0.1)
    return []


def test_a_watch_survives_a_kill_and_ends_cleanly(
    matteline: Command, make_photos: MakePhotos, fake_preset: str, tmp_path: Path
) -> None:
    make_photos(tmp_path / "in", 6)
    with watching(tmp_path, fake_preset) as first:
        await_that(lambda: len(done(tmp_path)) >= 2)
        first.process.kill()
        assert first.process.wait(30) == -signal.SIGKILL
    assert 2 <= len(done(tmp_path)) < 6

    (tmp_path / "in" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    with watching(tmp_path, fake_preset) as second:
        second.await_line("items done in")
        children = psutil.Process(second.process.pid).children()
        time.sleep(1)  # now it looks, and finds nothing new
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(30) == 0
        assert second.process.stdout is not None
        assert "7" in second.process.stdout.read(), "the report of the output"
    assert any("the watch has ended" in line for line in second.lines)
    assert len(children) == 1 and not psutil.wait_procs(children, timeout=60)[1]
    names = [f"photo-{number:03}.jpg" for number in range(6)]
    assert done(tmp_path) == ["bad.jpg", *names]
    in_the_model = (tmp_path / "trace").read_text().splitlines()
    assert 6 <= len(in_the_model) <= 8, "what was committed is not done again"
    assert matteline("verify", "out", "-m", "in").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_within_a_round_leaves_the_rest_for_the_next_run(
    matteline: Command, make_photos: MakePhotos, fake_preset: str, tmp_path: Path, number: signal.Signals
) -> None:
    make_photos(tmp_path / "in", 12)
    with watching(tmp_path, fake_preset) as running:
        await_that(lambda: len(done(tmp_path)) >= 1)
        running.process.send_signal(number)
        assert running.process.wait(30) == 4
    assert any(f"stopped by {number.name}" in line for line in running.lines)
    assert 1 <= len(done(tmp_path)) < 12
    finished = matteline("run", "-m", "in", "-o", "out", "-p", fake_preset)
    assert finished.returncode == 0, finished.stderr
    assert len(set(done(tmp_path))) == len(done(tmp_path)) == 12


def test_an_interval_needs_a_watch_and_a_unit(matteline: Command, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    alone = matteline("run", "-m", "in", "-o", "out", "--interval", "5s")
    assert (alone.returncode, "add --watch" in alone.stderr) == (2, True)
    without = matteline("run", "-m", "in", "-o", "out", "--watch", "--interval", "5")
    assert (without.returncode, "--interval 5: give a time above 0 with a unit, such as 30s" in without.stderr) == (2, True)


def test_a_watch_that_cannot_work_is_refused_at_once(matteline: Command, tmp_path: Path) -> None:
    refused = matteline("run", "-m", "nowhere", "-o", "out", "--watch")
    assert (refused.returncode, "does not exist" in refused.stderr) == (2, True)
    (tmp_path / "in").mkdir()
    unknown = matteline("run", "-m", "in", "-o", "out", "--watch", "-p", "no-such-model")
    assert unknown.returncode == 2
