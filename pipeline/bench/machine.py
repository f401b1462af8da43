"""Describe this machine, and measure its matrix rate: the upper bound of a model's own rate."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.bench.timing import time_calls
from pipeline.concurrency import local_cpus
from pipeline.models.engines.openvino import HINTS, has_bf16, has_openvino
from pipeline.models.load import DTYPES
from pipeline.paths import PACKAGE

PACKAGES = (
    "matteline",
    "ray",
    "torch",
    "onnxruntime",
    "openvino",
    "numpy",
    "pyarrow",
    "pillow",
    "opencv-python-headless",
    "isal",
)
"""Packages whose version decides the speed; those that are installed are listed."""

CHANNELS, MAP_PX = 128, 512
"""Channels and side of the timed convolution: those of MVANet's decoder at half the frame's side."""

Work = Callable[[], object]


@dataclass(frozen=True)
class Machine:
    """The machine that produced the numbers."""

    cpu: str
    cores: int
    """Cores that this process may use."""
    busy: float
    """Load average of the last minute per core. Other work has slowed the measurements down if it is well above 0."""
    memory_gib: float
    gpu: str | None
    python: str
    versions: dict[str, str]
    commit: str | None
    """Git commit of the checkout, with a + if files differ from it; None outside of a checkout."""


def describe() -> Machine:
    """Return the facts about this machine."""
    return Machine(
        cpu=_cpu(),
        cores=local_cpus(),
        busy=round(os.getloadavg()[0] / local_cpus(), 2),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        python=platform.python_version(),
        versions={name: version(name) for name in PACKAGES if any(distributions(name=name))},
        commit=_commit(),
    )


def precisions(device: str) -> list[str]:
    """List the precisions in which this machine's ``cpu`` or ``cuda`` computes natively."""
    if device == "cpu":
        return ["fp32", *(["bf16"] if has_bf16() else [])]
    return ["fp32", *(["bf16"] if torch.cuda.is_bf16_supported(including_emulation=False) else []), "fp16"]


@torch.inference_mode()
def matrix_rate(precision: str, *, device: str, threads: int, for_s: float = 1.0) -> float:
    """Return the best rate of several products and convolutions, each by its fastest call, in GFLOP/s.

    Args:
        precision: ``fp32`` (without TF32 on CUDA), ``bf16``, or on CUDA ``fp16``.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads.
        for_s: Seconds per candidate.
    """
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    candidates = _candidates(precision, device, threads)
    return max(gflop / min(time_calls(work, for_s=for_s, min_calls=3, device=device)) for gflop, work in candidates)


def _candidates(precision: str, device: str, threads: int) -> Iterator[tuple[float, Work]]:
    """Yield GFLOP (a multiplication and an addition count as two) and the work itself."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, DTYPES[precision])

    for side in (2048, 3072):
        a, b = numbers(side, side), numbers(side, side)
        yield 2e-9 * side**3, functools.partial(torch.matmul, a, b)
    x = numbers(1, CHANNELS, MAP_PX, MAP_PX).contiguous(memory_format=torch.channels_last)
    kernel = numbers(CHANNELS, CHANNELS, 3, 3).contiguous(memory_format=torch.channels_last)
    yield 2e-9 * MAP_PX**2 * CHANNELS**2 * 9, lambda: F.conv2d(x, kernel, padding=1)
    if device == "cpu" and has_openvino():
        yield _openvino_product(2048, precision, threads)


def _openvino_product(side: int, precision: str, threads: int) -> tuple[float, Work]:
    import openvino as ov
    from openvino import opset13 as ops

    given = ops.parameter([side, side], np.float32)
    weight = ops.constant(np.random.default_rng(0).standard_normal((side, side), np.float32))
    hints = {"INFERENCE_PRECISION_HINT": HINTS[precision], "INFERENCE_NUM_THREADS": threads}
    model = ov.Core().compile_model(ov.Model([ops.matmul(given, weight, False, False)], [given]), "CPU", hints)
    request = model.create_infer_request()
    request.set_input_tensor(ov.Tensor(np.ones((side, side), np.float32)))
    return 2e-9 * side**3, request.infer


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)$", facts.read_text(encoding="utf-8"), re.MULTILINE) if facts.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


def _commit() -> str | None:
    root = PACKAGE.parent
    if not (root / ".git").exists() or not shutil.which("git"):
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
