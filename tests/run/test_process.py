"""What is settled in a worker process, asked of real ones."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest
import ray

ASK = """
import ctypes, cv2
from pipeline.run.stages.process import tune_process
tune_process(3)
told = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(told))
found = cv2.getNumThreads(), told.value
"""


def ask() -> Any:
    found: dict[str, Any] = {}
    exec(ASK, found)
    return found["found"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's prctl")
@pytest.mark.usefixtures("ray_session")
def test_a_worker_does_not_outlive_its_raylet() -> None:
    assert ray.get(ray.remote(num_cpus=0)(ask).remote()) == (3, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's prctl")
def test_any_other_process_may_outlive_its_parent() -> None:
    told = subprocess.run([sys.executable, "-c", f"{ASK}\nprint(found)"], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "(3, 0)"


def test_pyarrow_does_not_import_pandas() -> None:
    code = (
        "import sys; from pipeline.run.stages.process import keep_pandas_out; import pyarrow as pa; keep_pandas_out();"
        "pa.table({'a': [1]}); assert 'pandas' not in sys.modules; import pandas; assert pandas.DataFrame({'a': [1]}).size"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
