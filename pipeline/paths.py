"""Locate the files that come with the package: presets, weights, examples, deployment manifests.

Imports nothing from the package. A checkout keeps ``configs/`` and ``infra/`` beside ``pipeline/``; a wheel has them inside it.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def _bundled(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


CONFIGS = _bundled("configs")
"""Presets, one YAML file each."""

RENDITIONS = CONFIGS / "renditions"
"""Bundled renditions, one YAML file each."""

DETECTORS = CONFIGS / "detectors"
"""Bundled detectors, one YAML file each."""

INFRA = _bundled("infra")
"""Kustomize bases, components and overlays."""

WEIGHTS = PACKAGE / "weights"
"""Bundled weights with their calibrations and model cards."""

EXAMPLES = PACKAGE / "examples"
"""Bundled photos and their manifest."""

PAGE = PACKAGE / "review" / "page"
"""Template, style and script of the report page."""

SERVE_PAGE = PACKAGE / "serve" / "page"
"""Template, style and script of the page to try the service."""


def example_path(path: str) -> str:
    """Replace ``examples/…`` by the bundled file, unless the current folder has a file of that name."""
    first, _, rest = path.partition("/")
    if first == "examples" and rest and not Path(path).exists() and (EXAMPLES / rest).is_file():
        return str(EXAMPLES / rest)
    return path
