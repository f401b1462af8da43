"""Matteline: manifests in; masks, cutouts and a scored index out."""

from __future__ import annotations

from typing import Any

__all__ = ["Cutout", "Segmenter"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `matteline --help` must not wait for it.
    if name in __all__:
        from pipeline import segmenter

        return getattr(segmenter, name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
