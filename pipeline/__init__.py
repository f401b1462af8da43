"""Cut objects out of images at catalog scale.

* ``Segmenter`` cuts out single pictures with one model in this process.
* ``run`` runs a whole job, as ``matteline run`` does: a manifest in; masks, cutouts and an index out.
* ``pipeline.errors`` has every error that they raise on purpose.

pipeline/PYTHON.md describes both. Every other part is a folder below. Import its modules by their full names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.output.run_record import RunRecord
    from pipeline.run import run
    from pipeline.run.callback import RunProgress
    from pipeline.segmenter import Cutout, Segmenter

__all__ = ["Cutout", "RunProgress", "RunRecord", "Segmenter", "run"]

_MODULES = {
    **{"Cutout": "pipeline.segmenter", "Segmenter": "pipeline.segmenter"},
    **{"RunProgress": "pipeline.run.callback", "RunRecord": "pipeline.output.run_record"},
}


def __getattr__(name: str) -> Any:
    # The models' libraries take seconds to import; `matteline --help` must not wait for them.
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name == "run":
        return importlib.import_module("pipeline.run")  # can be called
    if name == "__version__":
        from importlib.metadata import version  # pyproject.toml is the only place with the number

        return version("matteline")
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
