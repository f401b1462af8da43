"""What a signal ends: the process that it was sent to, and no other."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import multiprocessing, signal, sys, time
from pipeline.run.signals import SignalHandler

SignalHandler(lambda error: None).install()
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
child.start()
time.sleep(0.3)
child.terminate()
child.join(30)
time.sleep(1)
print(child.exitcode, signal.SIGTERM.value)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_signal_for_a_forked_process_does_not_end_this_one() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["-15", "15"]), done.stderr
