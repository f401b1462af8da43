"""No PyTorch in processes that do not need it: it takes 300 MB and two seconds of CPU time in each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

SCRIPT = """
import io, json, sys
from contextlib import redirect_stdout
from pathlib import Path

import psutil

from jobs.main import main

def heavy():
    return sorted({"torch", "timm"} & set(sys.modules))

def command(*arguments):
    sys.argv = ["matteline", *arguments]
    with redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            return end.code or 0
    return 0

def workers():
    maps = [Path(f"/proc/{child.pid}/maps").read_text() for child in psutil.Process().children() if sys.platform == "linux"]
    return [any(name in one for name in ("libtorch", "_C.cpython")) for one in maps if "onnxruntime" in one]

run = ["run", "--manifest", "photos", "--output", "out", "--set", "compute.device=auto"]
found = {"import": [0, heavy()]}
for name, arguments in {
    "plan": ["plan", *run[1:]],
    "refused run": [*run, "--set", "compute.engine=nonsense"],
    "refused weights": [*run[:-3], "other", "--preset", "u2netp", "--set", "compute.engine=torch"],
    "run": run,
    "nothing to do": run,
    "show": ["show", "out"],
    "top": ["top", "out", "--once"],
    "verify": ["verify", "out"],
    "dataset": ["dataset", "out", "--coco", "coco.json", "--yolo", "yolo", "--parquet", "hub"],
    "cut": ["cut", "photos/photo-000.jpg", "-o", "cut.png"],
    "cut by name": ["cut", "examples/cat.jpg", "--label", "cat", "-o", "cat.png"],
}.items():
    code = command(*arguments)
    found[name] = [code, heavy()]
    if name == "run":
        found["its worker"] = [0, workers()]
print(json.dumps(found))
"""

REFUSED = {"refused run", "refused weights"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_commands_on_a_cpu_do_without_pytorch(tmp_path: Path, make_photos: Callable[..., list[Path]]) -> None:
    make_photos(tmp_path / "photos", 1)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    worker = found.pop("its worker")[1]
    assert {name: heavy for name, (_, heavy) in found.items() if heavy} == {}
    assert {name for name, (code, _) in found.items() if code} == REFUSED, f"{found}\n{done.stderr}"
    if sys.platform == "linux":
        assert worker == [False], "the worker runs its graphs in OpenVINO or ONNX Runtime, without PyTorch"
