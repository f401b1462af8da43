"""What this machine is, and how fast it multiplies: the rate that a model's own can be held against."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.bench.clock import seconds
from pipeline.concurrency import local_cpus
from pipeline.models.engines.openvino import HINTS, has_openvino
from pipeline.models.load import DTYPES

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    *("matteline", "ray", "torch", "onnxruntime", "openvino", "numpy", "pyarrow", "pillow", "opencv-python-headless"),
    *("isal", "simplejpeg"),
)
"""Those of them that are installed are named with their version: they decide how fast things are."""

CHANNELS, MAP_PX = 128, 512
"""Of the convolution that is timed: as many as in MVANet's decoder at half the frame's side."""

Work = Callable[..., object]


@dataclass(frozen=True)
class Machine:
    """Where the numbers come from."""

    cpu: str
    cores: int
    """Those that this process may use."""
    busy: float
    """The load average of the last minute, a core: what is well above 0 was taken from the numbers here."""
    memory_gib: float
    gpu: str | None
    python: str
    versions: dict[str, str]
    commit: str | None
    """Of the checkout that the package runs from, with a + where files differ from it; None outside one."""


@dataclass(frozen=True)
class Rate:
    """The best that was measured in one precision, and what all candidates gave, in GFLOP/s."""

    gflops: float
    by: str
    threads: int
    candidates: dict[str, float] = field(default_factory=dict)


def describe() -> Machine:
    """This machine."""
    return Machine(
        cpu=_cpu(),
        cores=local_cpus(),
        busy=round(os.getloadavg()[0] / local_cpus(), 2),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        python=platform.python_version(),
        versions={name: found for name in PACKAGES if (found := _version(name))},
        commit=_commit(),
    )


def matrix_rate(precision: str, *, device: str, threads: int, for_s: float = 1.0) -> Rate:
    """The best of several products and convolutions, by their fastest repetition: nothing here is slowed down on purpose.

    Args:
        precision: ``fp32`` or ``bf16``, on CUDA ``fp16`` too. On CUDA fp32 means fp32, without TF32.
        device: ``cpu`` or ``cuda``.
        for_s: how long each candidate is repeated.
    """
    torch.set_num_threads(threads)
    found = {
        name: round(gflop / min(seconds(work, for_s=for_s, least=3)), 1)
        for name, gflop, work in _candidates(precision, torch.device(device), threads)
    }
    best = max(found, key=lambda name: found[name])
    return Rate(found[best], best, threads, found)


def _candidates(precision: str, device: torch.device, threads: int) -> Iterator[tuple[str, float, Work]]:
    """Name, GFLOP (a multiplication and an addition are two), and the work itself."""
    dtype = DTYPES[precision]
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    for side in (2048, 3072):
        a, b = numbers(side, side), numbers(side, side)
        yield f"torch matmul {side}", 2e-9 * side**3, functools.partial(_waited, device, torch.matmul, a, b)
    x = numbers(1, CHANNELS, MAP_PX, MAP_PX).contiguous(memory_format=torch.channels_last)
    kernel = numbers(CHANNELS, CHANNELS, 3, 3).contiguous(memory_format=torch.channels_last)
    gflop = 2e-9 * MAP_PX**2 * CHANNELS**2 * 9
    yield f"torch conv3x3 {CHANNELS} at {MAP_PX}", gflop, functools.partial(_waited, device, F.conv2d, x, kernel, padding=1)
    if device.type == "cpu" and has_openvino():
        yield _openvino_product(2048, precision, threads)


def _waited(device: torch.device, work: Work, *given: Any, **settings: Any) -> None:
    with torch.inference_mode():
        work(*given, **settings)
    if device.type == "cuda":
        torch.cuda.synchronize()


def _openvino_product(side: int, precision: str, threads: int) -> tuple[str, float, Work]:
    import openvino as ov
    from openvino import opset13 as ops

    given = ops.parameter([side, side], np.float32)
    weight = ops.constant(np.random.default_rng(0).standard_normal((side, side), np.float32))
    hints = {"INFERENCE_PRECISION_HINT": HINTS[precision], "INFERENCE_NUM_THREADS": threads}
    model = ov.Core().compile_model(ov.Model([ops.matmul(given, weight, False, False)], [given]), "CPU", hints)
    request = model.create_infer_request()
    request.set_input_tensor(ov.Tensor(np.ones((side, side), np.float32)))
    return f"OpenVINO matmul {side}", 2e-9 * side**3, request.infer


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != ROOT:  # installed somewhere in another project's tree
            return None
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
