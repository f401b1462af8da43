"""The sampler of the soak detects every kind of leak and reports none where there is none."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time

import pandas as pd
import pytest
from growth import flowing, growth, over_time, per_item
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
def test_a_leak_is_detected(leak: str) -> None:
    steps = [0]
    with subprocess.Popen([sys.executable, "-c", LEAK, leak], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        with Watch([run.pid], lambda: steps[0], every_s=0.03) as watch:
            for line in run.stdout:
                steps[0] = int(line)
    samples = flowing(pd.DataFrame(watch.samples, columns=Sample._fields))
    for name, column in {"memory": "heap_mib", "descriptors": "descriptors", "threads": "threads"}.items():
        grown = growth(over_time(samples, "driver", column)).more
        assert 15 < grown < 50 if name == leak else grown < 3, (name, grown)
    if leak == "memory":
        assert per_item(samples, "driver", "heap_mib") == pytest.approx(1, rel=0.3)


def test_a_process_that_has_ended_is_no_error() -> None:
    calls = itertools.count()
    run = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"])
    with Watch([run.pid], lambda: next(calls), every_s=0.01) as watch:
        time.sleep(1)  # the process ends and is a zombie
        run.wait()
        time.sleep(0.2)
    assert watch.samples
    assert next(calls) > 20 + watch.samples[-1].items


def test_an_error_while_sampling_is_raised() -> None:
    with pytest.raises(ZeroDivisionError), Watch([os.getpid()], lambda: 1 // 0, every_s=0.01):
        time.sleep(0.1)
