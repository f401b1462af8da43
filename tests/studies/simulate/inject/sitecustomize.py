"""Make the stages sleep, in any Python process that has this folder on its PYTHONPATH: the run and Ray's workers.

The environment variable PACE names a JSON file with the seconds: ``decode_s`` and ``finish_s`` per megapixel of an item,
``model_s`` per item. So a run is as fast as its declared times say, however few cores all nodes share.
"""

from __future__ import annotations

import functools
import json
import os
import time
from pathlib import Path
from typing import Any

import wrapt


@functools.cache
def pace() -> dict[str, float]:
    """Read the file at the first call: an idle worker may have started before the run that it works for."""
    seconds: dict[str, float] = json.loads(Path(os.environ["PACE"]).read_text(encoding="utf-8"))
    return seconds


def in_decode(wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    image = wrapped(*args, **kwargs)
    time.sleep(pace()["decode_s"] * image.size / 3e6)
    return image


def in_model(wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wrap the first step of the fake model's forward pass; ``args[0]``: frames (N, S, S, 3)."""
    time.sleep(pace()["model_s"] * len(args[0]))
    return wrapped(*args, **kwargs)


def in_finish(wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wrap the encoding of an item's objects; ``args[0]``: its pixels."""
    time.sleep(pace()["finish_s"] * args[0].size / 3e6)
    return wrapped(*args, **kwargs)


if "PACE" in os.environ:
    wrapt.when_imported("pipeline.imaging.decode")(lambda module: wrapt.wrap_function_wrapper(module, "decode", in_decode))
    wrapt.when_imported("pipeline.models.fake")(lambda module: wrapt.wrap_function_wrapper(module, "fake_logits", in_model))
    wrapt.when_imported("pipeline.run.stages.write")(lambda module: wrapt.wrap_function_wrapper(module, "_encode", in_finish))
