"""Interpolate between weights: ``python -m pipeline.training.interpolate BEFORE AFTER -o FILE``.

Fine-tuned weights do better on the new material and may do worse on the old. Weights between the two may be better on the old
than either (Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv 2109.01903). Choose the share on photos held out
of both trainings.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from pipeline.errors import ConfigError, PipelineError, WeightsError
from pipeline.models.layouts import is_safetensors
from pipeline.models.tensors import open_tensors
from pipeline.storage.weights_cache import file_sha256
from pipeline.training.checkpoint import write

Weights = dict[str, Tensor]


def interpolate(before: Weights, after: Weights, share: float) -> Weights:
    """Return (1 - share) · before + share · after for every tensor of real numbers, and the others of ``after``.

    Raises:
        ConfigError: The share is not between 0 and 1.
        WeightsError: The two are not of one network.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"--share {share:g} must be from 0 to 1: the share of the fine-tuned weights")
    if {name: one.shape for name, one in before.items()} != {name: one.shape for name, one in after.items()}:
        raise WeightsError("the two files are not of one network: their tensors differ in names or shapes")
    return {
        name: torch.lerp(before[name].float(), one.float(), share).to(one.dtype) if one.is_floating_point() else one
        for name, one in after.items()
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="weights that the fine-tuning started from")
    parser.add_argument("after", type=Path, help="fine-tuned weights")
    parser.add_argument("--share", type=float, default=0.5, help="share of the fine-tuned weights, 0 to 1; default 0.5")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .safetensors file to write")
    options = parser.parse_args()
    try:
        mixed = interpolate(open_tensors(options.before), open_tensors(options.after), options.share)
    except PipelineError as error:
        parser.error(str(error))
    facts = {"interpolated": json.dumps({"before_sha256": file_sha256(options.before), "share": options.share})}
    if is_safetensors(options.after):
        with safe_open(options.after, "pt") as file:
            facts = (file.metadata() or {}) | facts
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write(options.output, mixed, facts)


if __name__ == "__main__":
    main()
