"""Cache what a network computes once per input size."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def cache_by_shape(build: Callable[P, T]) -> Callable[P, T]:
    """Cache a function that depends on sizes only, so that later forward passes copy nothing to the device.

    Results are built outside inference mode: inference tensors could not serve a later pass with gradients. An export's results
    are placeholders and are not cached.
    """
    cached = functools.lru_cache(maxsize=32)(torch.inference_mode(False)(build))

    @functools.wraps(build)
    def get(*args: P.args, **kwargs: P.kwargs) -> T:
        return build(*args, **kwargs) if torch.compiler.is_exporting() else cached(*args, **kwargs)  # type: ignore[arg-type]

    return get
