"""What a network makes once for every size of its input."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def cache_by_shape(make: Callable[P, T]) -> Callable[P, T]:
    """Keep what depends on sizes alone: it is made in the first forward pass, and later ones copy nothing to the device.

    Not in inference mode, whose tensors could not serve a later pass with gradients; and not what an export makes, which
    are placeholders.
    """
    kept = functools.lru_cache(maxsize=32)(torch.inference_mode(False)(make))

    @functools.wraps(make)
    def get(*args: P.args, **kwargs: P.kwargs) -> T:
        return make(*args, **kwargs) if torch.compiler.is_exporting() else kept(*args, **kwargs)  # type: ignore[arg-type]

    return get
