"""The watch itself: it must see what a leaking process does, and nothing where there is nothing."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time

import pandas as pd
import pytest
from growth import an_item, flowing, growth, over_time
from watch import Sample, Watch

LEAK = """
import sys, threading, time
kept = []
leak = sys.argv[1]
for step in range(50):
    if leak == "memory":
        kept.append(b"x" * 2**20)
    if leak == "descriptors":
        kept.append(open("/dev/null"))
    if leak == "threads":
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    print(step, flush=True)
    time.sleep(0.04)
"""


@pytest.mark.parametrize("leak", ["memory", "descriptors", "threads", "nothing"])
def test_a_leak_is_seen(leak: str) -> None:
    steps = [0]
    with subprocess.Popen([sys.executable, "-c", LEAK, leak], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        with Watch(run.pid, lambda: steps[0], every_s=0.03) as watch:
            for line in run.stdout:
                steps[0] = int(line)
    samples = flowing(pd.DataFrame(watch.samples, columns=Sample._fields))
    for name, column in {"memory": "heap_mib", "descriptors": "descriptors", "threads": "threads"}.items():
        grown = growth(over_time(samples, "driver", column)).more
        assert 15 < grown < 50 if name == leak else grown < 3, (name, grown)
    if leak == "memory":
        assert an_item(samples, "driver", "heap_mib") == pytest.approx(1, rel=0.3)


def test_a_process_that_is_gone_is_no_fault() -> None:
    looks = itertools.count()
    run = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"])
    with Watch(run.pid, lambda: next(looks), every_s=0.01) as watch:
        time.sleep(1)  # it ends and is a zombie
        run.wait()
        time.sleep(0.2)
    assert watch.samples
    assert next(looks) > 20 + watch.samples[-1].items


def test_a_watch_that_broke_says_so() -> None:
    with pytest.raises(ZeroDivisionError), Watch(os.getpid(), lambda: 1 // 0, every_s=0.01):
        time.sleep(0.1)
