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


PAUSE = """
import os, signal, sys, threading, time
from pipeline.run.signals import SignalHandler

signals, asked = SignalHandler(lambda error: print("left", flush=True)), threading.Event()
signals.install()
with signals.on_pause(asked):
    os.kill(os.getpid(), signal.SIGTERM)
    asked.wait(60)
    print("asked", flush=True)
    if "stuck" in sys.argv:
        time.sleep(60)
if "second" in sys.argv:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("how", "code", "said"), [("well", 0, ["asked"]), ("stuck", 4, ["asked"]), ("second", 4, ["asked", "left"])]
)
def test_a_signal_asks_a_pause_to_end(how: str, code: int, said: list[str]) -> None:
    """A pause that does not end in time is ended; after the pause, a signal ends the process as ever."""
    command = [sys.executable, "-c", PAUSE, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout.split()) == (code, said), done.stderr
