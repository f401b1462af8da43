"""``python memory.py plain|fp32|bf16 WEIGHTS THREADS``: what BEN2 at 1024² needs, in a process of its own.

Prints JSON in MiB of resident memory: ``before`` the network is loaded, with the libraries imported (VmRSS); ``loaded``, when
it is there (VmRSS); the ``peak`` of loading it and of its first forward pass (VmHWM). Linux only.
"""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from pipeline.config.job import Storage
from pipeline.config.presets import load_preset
from pipeline.models.forward import Normalise
from pipeline.models.mvanet.checkpoint import load_mvanet
from pipeline.segmenter import Segmenter
from pipeline.storage.files import Files

CPU = torch.device("cpu")


def plain_module() -> ModuleType:
    """``tests/models/plain.py``; tests are no package."""
    spec = spec_from_file_location("plain", Path(__file__).resolve().parents[2] / "models" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Plain:
    """The plain form as a model: frames in, logits out, in fp32."""

    def __init__(self, weights: Path) -> None:
        recipe = load_preset("ben2-base").recipe
        self.forward, self.normalise = plain_module().plain_forward, Normalise(recipe, CPU)
        self.network = load_mvanet(weights, device=CPU, dtype=torch.float32)

    def __call__(self, frames: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            return self.forward(self.network, self.normalise(frames))[:, 0]


def open_form(name: str, weights: Path, threads: int) -> Callable[[np.ndarray], torch.Tensor]:
    """A model: ``plain``, or ours in the precision of that name."""
    torch.set_num_threads(threads)
    if name == "plain":
        return Plain(weights)
    recipe = load_preset("ben2-base", {"weights": str(weights), "precision": name}).recipe
    return Segmenter.from_recipe(recipe, Files(Storage()), device="cpu", threads=threads).model


def resident_mib(name: str) -> float:
    """VmRSS or VmHWM of this process."""
    (found,) = re.findall(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found) / 1024


def main() -> None:
    before = resident_mib("VmRSS")
    form = open_form(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    gc.collect()
    loaded = resident_mib("VmRSS")
    form(np.zeros((1, 1024, 1024, 3), np.uint8))
    print(json.dumps({"before": before, "loaded": loaded, "peak": resident_mib("VmHWM")}))


if __name__ == "__main__":
    main()
