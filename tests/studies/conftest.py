"""Fixtures that several studies share. See ``README.md`` for what each study answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

STUDIES = Path(__file__).resolve().parent
ROOT = STUDIES.parents[1]

# Tests are no package, so a study imports its helper modules by name; the names are unique among all studies.
sys.path += [str(folder) for folder in STUDIES.iterdir() if folder.is_dir()]


@pytest.fixture(scope="session")
def data() -> Path:
    """The shared data, as ``make`` passes it in ``DATA``."""
    return Path(os.environ.get("DATA") or ROOT.parent / "shared") / "data"


@pytest.fixture(scope="session")
def results() -> Callable[[str], Path]:
    """``results("soak")``: the folder ``out/soak``, created if absent."""

    def folder(study: str) -> Path:
        path = ROOT / "out" / study
        path.mkdir(parents=True, exist_ok=True)
        return path

    return folder


@pytest.fixture(scope="session")
def matteline() -> str:
    """The installed command."""
    return str(Path(sys.executable).with_name("matteline"))


@pytest.fixture(scope="session")
def clean_env() -> dict[str, str]:
    """Environment variables without credentials and clusters of the person who runs the study."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "RAY_"))}
    return variables | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
