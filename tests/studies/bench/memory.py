"""``python memory.py plain|fp32|bf16 WEIGHTS THREADS``: measure the memory of BEN2 at 1024², in a process of its own.

Prints JSON in MiB of resident memory: ``before`` the network is loaded, with the libraries imported (VmRSS); when it is
``loaded`` (VmRSS); and the ``peak`` of loading and of the first forward pass (VmHWM). Linux only.
"""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline.config.presets import load_preset
from pipeline.models.forward import Normalise
from pipeline.models.mvanet.checkpoint import load_mvanet
from pipeline.segmenter import Segmenter
from pipeline.storage.files import Files

sys.path.append(str(Path(__file__).resolve().parents[2] / "models"))  # tests are no package


def load_form(name: str, weights: Path, threads: int) -> Callable[[np.ndarray], torch.Tensor]:
    """Load a model: ``plain`` for the published form in fp32, or ours in the precision of that name."""
    torch.set_num_threads(threads)
    if name != "plain":
        recipe = load_preset("ben2-base", {"weights": str(weights), "precision": name}).recipe
        return Segmenter.from_recipe(recipe, Files(), device="cpu", threads=threads).model
    from reference import plain_forward

    cpu = torch.device("cpu")
    normalise = Normalise(load_preset("ben2-base").recipe, cpu)
    network = load_mvanet(weights, device=cpu, dtype=torch.float32)
    return torch.inference_mode()(lambda frames: plain_forward(network, normalise(frames))[:, 0])


def resident_mib(name: str) -> float:
    """Return VmRSS or VmHWM of this process."""
    (kib,) = re.findall(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kib) / 1024


if __name__ == "__main__":
    before = resident_mib("VmRSS")
    model = load_form(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    gc.collect()
    loaded = resident_mib("VmRSS")
    model(np.zeros((1, 1024, 1024, 3), np.uint8))
    print(json.dumps({"before": before, "loaded": loaded, "peak": resident_mib("VmHWM")}))
