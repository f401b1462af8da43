"""The measurement for GPUs, as far as a machine without one can run it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pipeline import Segmenter
from pipeline.models.fake import FakeModel
from pipeline.models.resample import DeviceFrames

SCRIPT = Path(__file__).with_name("gpu.py")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("gpu", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_ends_with_2() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert "no CUDA GPU on this machine" in done.stderr


def test_a_line_for_every_batch(gpu: ModuleType) -> None:
    title, columns, *lines = gpu.forwards(FakeModel(256, CPU), "fp32", ["eager"], [1, 2], 0.0)
    assert "256 px" in title and "items/s" in columns
    assert [line.split()[:2] for line in lines] == [["eager", "1"], ["eager", "2"]]
    assert all(float(line.split()[-1]) < 1e-5 for line in lines), "the same frames give the same"


def test_what_fails_is_a_line_too(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> Callable[[], torch.Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setitem(gpu.WAYS, "graph", breaks)
    *_, line = gpu.forwards(FakeModel(256, CPU), "fp32", ["graph"], [1], 0.0)
    assert " ".join(line.split()) == "graph 1 operation not permitted when stream is capturing"


def test_the_way_there_and_back(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PHOTO", (300, 400))
    segmenter = Segmenter("u2netp", threads=2)
    segmenter.batch, segmenter.framing = 2, DeviceFrames(segmenter.recipe, CPU)
    lines = list(gpu.there_and_back(segmenter, 0.0))
    assert lines[0] == "400 x 300 px, 2 at once"
    assert sum(line.endswith(" ms") for line in lines) == 9
    assert any("images/s by one process" in line for line in lines)
