"""Faults in the worker processes of small runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

INJECT = Path(__file__).resolve().parents[1] / "faults" / "inject"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """``faults(**faults)``: workers from now on have these faults (``faults/inject``). Returns the trace."""

    def inject(**found: Any) -> Path:
        trace = tmp_path / "trace"
        monkeypatch.setenv("PYTHONPATH", f"{INJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.setenv("FAULTS", json.dumps(found | {"trace": str(trace)}))
        return trace

    return inject
