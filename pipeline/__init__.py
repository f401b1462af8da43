"""Cut objects out of images at catalog scale.

Import ``Segmenter`` from here for single pictures; every other part is a folder below.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Cutout", "Segmenter"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `matteline --help` must not wait for it.
    if name in __all__:
        from pipeline import segmenter

        return getattr(segmenter, name)
    if name == "__version__":
        from importlib.metadata import version  # pyproject.toml is the only place with the number

        return version("matteline")
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
