"""Commands work without what only Linux has: a stand-in for macOS and Windows, on which the tests do not run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as ds
import pytest

ROOT = Path(__file__).resolve().parent.parent
LINUX = ["os.pipe2", "os.sched_getaffinity", "os.memfd_create", "os.O_TMPFILE", "time.CLOCK_BOOTTIME", "signal.pthread_sigmask"]
POSIX = [*LINUX, "os.getuid", "os.fork", "os.O_NONBLOCK", "os.O_CLOEXEC", "os.nice", "os.killpg"]
"""What Python lacks on macOS, and on Windows as far as other libraries do without it here.

``signal.SIGKILL`` stays, because ``subprocess`` kills with it on this system.
"""

SITE = """
import ctypes, os, pathlib, shutil, signal, sys, time

if "jobs.main" in sys.orig_argv or "pipeline.run.worker" in sys.orig_argv:
    for name in os.environ["MISSING"].split():
        module, _, attribute = name.partition(".")
        delattr({"os": os, "signal": signal, "time": time}[module], attribute)
    os.process_cpu_count = os.cpu_count  # as Python 3.13 does it where there is no sched_getaffinity
    shutil._use_fd_functions &= "os.O_NONBLOCK" not in os.environ["MISSING"]  # what Windows has no descriptors for
    load, read = ctypes.CDLL, pathlib.Path.read_text

    class Library(load):
        def __init__(self, name, *arguments, **options):
            if name is None and "os.fork" in os.environ["MISSING"]:
                raise TypeError("bad argument type for built-in operation")
            super().__init__(name, *arguments, **options)

        def __getattr__(self, name):
            if name in ("mallopt", "prctl", "madvise"):
                raise AttributeError(name)
            return super().__getattr__(name)

    def read_text(path, *arguments, **options):
        if str(path).startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(str(path))
        return read(path, *arguments, **options)

    ctypes.CDLL, pathlib.Path.read_text = Library, read_text
"""


@pytest.mark.parametrize("missing", [LINUX, POSIX], ids=["macos", "windows"])
def test_commands_run_without_what_only_linux_has(
    missing: list[str], make_photos: Callable[..., list[Path]], tmp_path: Path
) -> None:
    make_photos(tmp_path / "in", 2)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    places = os.pathsep.join([str(tmp_path / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": places, "MISSING": " ".join(missing)}
    environment.pop("USER", None)

    def matteline(*arguments: str) -> None:
        command = [sys.executable, "-m", "jobs.main", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr

    matteline("run", "-m", "in", "-o", "out", "-p", "u2netp")
    matteline("run", "-m", "in", "-o", "out", "-p", "u2netp", "--watch", "--interval", "0.1s", "--deadline", "1s")
    matteline("cut", "in/photo-000.jpg", "-o", "cut.png", "-p", "u2netp")
    matteline("verify", "out", "-m", "in")
    assert ds.dataset(tmp_path / "out" / "index", format="parquet").count_rows() == 2
